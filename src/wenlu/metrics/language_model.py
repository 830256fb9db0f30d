"""How well a language model predicts text: from natural-log losses to what reports show."""

from __future__ import annotations

import math

LOSSY_BITS_PER_BYTE = 8.0
"""What a text costs that its tokens cannot give back: as many bits as it has, so losing text never pays."""


def perplexity(nats: float, tokens: int) -> float:
    """The exponential of the mean loss a token; comparable between models of one tokenizer only."""
    mean = nats / tokens
    return math.exp(mean) if mean < 700 else math.inf


def bits_per_byte(nats: float, num_bytes: float) -> float:
    """Bits that the model needs for a byte of the original UTF-8 text; comparable between all models."""
    return nats / (math.log(2) * num_bytes)


def bits_per_character(nats: float, num_characters: float) -> float:
    """Bits that the model needs for a character (Unicode code point) of the text."""
    return nats / (math.log(2) * num_characters)


def charged_nats(nats: float, num_bytes: float, *, lossless: bool) -> float:
    """The nats that a document costs: the model's when its tokens give the text back, else 8 bits a byte."""
    return nats if lossless else LOSSY_BITS_PER_BYTE * math.log(2) * num_bytes
