"""Formats of labelled rows, one file each; ``wenlu.data.examples.Format`` says what it must offer."""
