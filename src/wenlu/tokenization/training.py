"""Training a tokenizer within bounded memory and time, with the same result whenever the texts are the same."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer

from wenlu.core.errors import TokenizerError
from wenlu.core.log import Notice, notice, progress
from wenlu.core.settings import unused_setting
from wenlu.tokenization.kinds import Alphabet, TokenizerSettings, finished, smallest_vocabulary, trainer, untrained
from wenlu.tokenization.special import written_specials
from wenlu.tokenization.surrogates import utf8_bytes
from wenlu.tokenization.template import BERT, set_template

LONGEST_RUN = 256
"""Letters, marks or blanks in a row that training sees in one piece; more would cost the square of their number."""
CHUNK_CHARACTERS = 16_384
"""Texts are thinned out in chunks of about this size."""
PROGRESS_EVERY_KB = 1000
CHARACTER_COVERAGE = 0.9995
"""Unigram and WordPiece learn the most frequent characters that make up this share of the text, as SentencePiece."""

_LONG_RUN = re.compile(rf"\w{{{LONGEST_RUN}}}|[^\w\s]{{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}}")
_CHUNK = re.compile(rf"[\s\S]{{1,{CHUNK_CHARACTERS}}}(?=\s|\Z)|[\s\S]{{1,{CHUNK_CHARACTERS}}}")


def train(texts: Iterable[str], settings: TokenizerSettings) -> Tokenizer:
    """Train the library's tokenizer on ``texts``.

    Raises TokenizerError: ``no_text``, ``vocab_too_small``, ``surrogate``, ``training_failed``,
    ``special_is_text``; SettingsError for a minimum frequency that Unigram would not read.
    """
    smallest, kind, size = smallest_vocabulary(settings), settings.kind, settings.vocab_size
    if size < smallest:
        raise TokenizerError("tokenization.vocab_too_small", kind=kind, found=size, smallest=smallest)
    if kind == "unigram" and settings.min_frequency != TokenizerSettings.min_frequency:
        reason = Notice("tokenization.nothing_reads_min_frequency")
        raise unused_setting("tokenizer.min_frequency", settings.min_frequency, because=reason)
    sample = Sample(settings.max_training_bytes)
    with progress("tokenization.reading", unit="kB") as bar:
        for number, text in enumerate(texts, start=1):
            sample.add(text, where=str(number))
            if sample.seen_bytes / 1e3 - bar.done >= PROGRESS_EVERY_KB:
                bar.advance(sample.seen_bytes / 1e3 - bar.done)
        bar.advance(sample.seen_bytes / 1e3 - bar.done)
    if not sample.kept_bytes:
        raise TokenizerError("tokenization.no_text")
    if sample.kept_bytes < sample.seen_bytes:
        notice("tokenization.thinned", kept=sample.kept_bytes, seen=sample.seen_bytes)
    notice("tokenization.learning", kind=kind, vocab_size=size, megabytes=sample.kept_bytes / 1e6)
    tokenizer, pipeline = untrained(settings), untrained(settings)  # the one that trains is locked meanwhile
    alphabet = choose_alphabet(sample, pipeline, settings)
    try:
        tokenizer.train_from_iterator(_fed(sample, pipeline, alphabet), trainer(settings, alphabet))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError("tokenization.training_failed", kind=kind, vocab_size=size, reason=str(error)) from error
    tokenizer = finished(tokenizer, settings)
    set_template(tokenizer, *BERT)  # if it has these special tokens
    if tokenizer.get_vocab_size() < size:
        notice("tokenization.fewer", found=tokenizer.get_vocab_size(), asked=size)
    if written := written_specials(tokenizer):
        raise TokenizerError("tokenization.special_is_text", token=written[0])
    return tokenizer


class Sample:
    """Texts up to a number of bytes; beyond it every second chunk goes, chosen by its hash, not by its place."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.seen_bytes = 0
        self.kept_bytes = 0
        self._limit = 1 << 64
        self._chunks: list[tuple[int, int, str]] = []

    def add(self, text: str, *, where: str) -> None:
        """Take a text in."""
        for match in _CHUNK.finditer(text):
            chunk = match.group()
            data = utf8_bytes(chunk, where=where, start=match.start())
            self.seen_bytes += len(data)
            self._keep(chunk, data)

    def chunks(self) -> Iterator[str]:
        """The kept texts, in their order."""
        return (chunk for _, _, chunk in self._chunks)

    def _keep(self, chunk: str, data: bytes) -> None:
        draw = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        if draw >= self._limit:
            return
        self._chunks.append((draw, len(data), chunk))
        self.kept_bytes += len(data)
        while self.kept_bytes > self.max_bytes and len(self._chunks) > 1:
            self._limit //= 2
            kept = [entry for entry in self._chunks if entry[0] < self._limit]
            self._chunks = kept or [min(self._chunks)]  # equal chunks would all go at once
            self.kept_bytes = sum(size for _, size, _ in self._chunks)


def cut_long_runs(text: str) -> Iterator[str]:
    """The text in order, cut inside every run of letters, marks or blanks longer than ``LONGEST_RUN``."""
    start = 0
    for match in _LONG_RUN.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    if start < len(text):
        yield text[start:]


def choose_alphabet(sample: Sample, tokenizer: Tokenizer, settings: TokenizerSettings) -> Alphabet:
    """The characters that WordPiece and Unigram learn, the most frequent first until the text is covered.

    They take at most three quarters of the vocabulary. The other kinds need no alphabet.
    """
    if settings.kind not in ("wordpiece", "unigram"):
        return Alphabet()
    counts: Counter[str] = Counter()
    for text in sample.chunks():
        counts.update(_normalized(text, tokenizer))
    if settings.kind == "wordpiece":  # its words hold no white space, Unigram's do
        counts = Counter({character: count for character, count in counts.items() if not character.isspace()})
    inner = _inner_letters(sample, tokenizer, counts) if settings.kind == "wordpiece" else set()
    room = (settings.vocab_size - len(settings.all_special_tokens)) * 3 // 4
    enough = CHARACTER_COVERAGE * counts.total()
    chosen: list[str] = []
    covered = 0
    for character, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        room -= 1 + (character in inner)
        if covered >= enough or room < 0:
            break
        chosen.append(character)
        covered += count
    return Alphabet(sorted(chosen), sorted(inner.intersection(chosen)))


def _inner_letters(sample: Sample, tokenizer: Tokenizer, known: Iterable[str]) -> set[str]:
    """Characters that occur behind another one in the same word."""
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    breaks = "".join(re.escape(c) for c in known if len(split(f"a{c}a")) != 1)
    behind = re.compile(rf"(?<=[^\s{breaks}])[^\s{breaks}]")
    return {letter for text in sample.chunks() for letter in behind.findall(_normalized(text, tokenizer))}


def _fed(sample: Sample, tokenizer: Tokenizer, alphabet: Alphabet) -> Iterator[str]:
    """What the library trains on: no overlong runs, and for some kinds no character outside the alphabet."""
    if not alphabet.all:
        for text in sample.chunks():
            yield from cut_long_runs(text)
        return
    unknown = re.compile(rf"[^\s{''.join(map(re.escape, alphabet.all))}]")
    for text in sample.chunks():
        for part in unknown.split(_normalized(text, tokenizer)):
            yield from cut_long_runs(part)


def _normalized(text: str, tokenizer: Tokenizer) -> str:
    return text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
