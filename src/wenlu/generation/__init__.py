"""Generation: token ids in, token ids out (engine), how the next token is chosen (sampling), and text around both."""
