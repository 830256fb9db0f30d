"""Definitions of the scores."""

from __future__ import annotations

import math

import pytest

from wenlu.metrics.language_model import bits_per_byte, bits_per_character, charged_nats, perplexity


def test_a_uniform_byte_model_needs_eight_bits_a_byte() -> None:
    text = "汉字 and more"
    size = len(text.encode())
    nats = size * math.log(256)
    assert bits_per_byte(nats, size) == pytest.approx(8.0)
    assert bits_per_character(nats, len(text)) == pytest.approx(8.0 * size / len(text))
    assert perplexity(nats, size) == pytest.approx(256)


def test_a_lossy_document_is_charged_eight_bits_a_byte() -> None:
    assert charged_nats(3.0, 10, lossless=True) == 3.0
    assert bits_per_byte(charged_nats(3.0, 10, lossless=False), 10) == pytest.approx(8.0)


def test_a_hopeless_perplexity_is_infinite_instead_of_an_error() -> None:
    assert perplexity(1e6, 1) == math.inf
