"""Readers: one file a format, found by the suffixes it lists; ``wenlu.data.files.Reader`` says what it must offer."""
