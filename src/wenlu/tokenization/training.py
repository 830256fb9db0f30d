"""Training a tokenizer within bounded memory and time, with the same result whenever the texts are the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer

from wenlu.core.errors import TokenizerError
from wenlu.core.log import notice, progress
from wenlu.tokenization.kinds import TokenizerSettings, smallest_vocabulary, trainer, untrained
from wenlu.tokenization.surrogates import utf8_bytes

LONGEST_RUN = 256
"""Letters, marks or blanks in a row that training sees in one piece; more would cost the square of their number."""
CHUNK_CHARACTERS = 16_384
"""Texts are thinned out in chunks of about this size."""
CHARACTER_COVERAGE = 0.9995
"""Unigram and WordPiece learn the most frequent characters that make up this share of the text, as SentencePiece."""

_LONG_RUN = re.compile(rf"\w{{{LONGEST_RUN}}}|[^\w\s]{{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}}")
_CHUNK = re.compile(rf"[\s\S]{{1,{CHUNK_CHARACTERS}}}(?=\s|\Z)|[\s\S]{{1,{CHUNK_CHARACTERS}}}")


def train(texts: Iterable[str], settings: TokenizerSettings) -> Tokenizer:
    """Train the library's tokenizer on ``texts``.

    Raises TokenizerError: ``no_text``, ``vocab_too_small``, ``surrogate``, ``training_failed``.
    """
    smallest = smallest_vocabulary(settings)
    if settings.vocab_size < smallest:
        raise TokenizerError(
            "tokenization.vocab_too_small", kind=settings.kind, found=settings.vocab_size, smallest=smallest
        )
    sample = Sample(settings.max_training_bytes)
    with progress("tokenization.reading", unit="bytes") as bar:
        for number, text in enumerate(texts, start=1):
            bar.advance(sample.add(text, where=str(number)))
    if not sample.kept_bytes:
        raise TokenizerError("tokenization.no_text")
    if sample.kept_bytes < sample.seen_bytes:
        notice("tokenization.thinned", kept=sample.kept_bytes, seen=sample.seen_bytes)
    tokenizer = untrained(settings)
    library_trainer = trainer(settings)
    tokenizer.train_from_iterator(sample.pieces(), library_trainer)
    return tokenizer


class Sample:
    """Texts up to a number of bytes; beyond it every second chunk goes, chosen by its hash, not by its place."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.seen_bytes = 0
        self.kept_bytes = 0
        self._limit = 1 << 64
        self._chunks: list[tuple[int, int, str]] = []

    def add(self, text: str, *, where: str) -> int:
        """Take a text in; the number of its UTF-8 bytes."""
        before = self.seen_bytes
        for match in _CHUNK.finditer(text):
            chunk = match.group()
            data = utf8_bytes(chunk, where=where, start=match.start())
            self.seen_bytes += len(data)
            self._keep(chunk, data)
        return self.seen_bytes - before

    def pieces(self) -> Iterator[str]:
        """The kept texts, in their order, with runs without a break cut to ``LONGEST_RUN`` characters."""
        for _, _, chunk in self._chunks:
            yield from cut_long_runs(chunk)

    def _keep(self, chunk: str, data: bytes) -> None:
        draw = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        if draw >= self._limit:
            return
        self._chunks.append((draw, len(data), chunk))
        self.kept_bytes += len(data)
        while self.kept_bytes > self.max_bytes and len(self._chunks) > 1:
            self._limit //= 2
            self._chunks = [entry for entry in self._chunks if entry[0] < self._limit]
            self.kept_bytes = sum(size for _, size, _ in self._chunks)


def cut_long_runs(text: str) -> Iterator[str]:
    """The text in order, cut inside every run of letters, marks or blanks longer than ``LONGEST_RUN``."""
    start = 0
    for match in _LONG_RUN.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    if start < len(text):
        yield text[start:]
