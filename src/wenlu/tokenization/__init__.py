"""Text to token ids and back: training, encoding with character offsets, streaming, Hugging Face files. No torch."""
