"""What a tokenizer makes of texts, by language: how many bytes and characters a token carries, and what gets lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice

from wenlu.tokenization.script import LANGUAGE_NAMES, LanguageName, language_of
from wenlu.tokenization.tokenizer import Tokenizer

ALL = "all"
"""The row of all languages together."""

_BATCH = 64
_EXCERPT_CHARACTERS = 20


@dataclass
class Tally:
    """Counts over the texts of one language with one tokenizer."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    round_trip_failures: int = 0
    """Documents that do not come back exactly when their ids are decoded."""
    first_failure: str | None = None
    """The text around the first place that did not come back."""

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the original text a token; 0 without tokens."""
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def characters_per_token(self) -> float:
        """Characters of the original text a token; 0 without tokens."""
        return self.characters / self.tokens if self.tokens else 0.0

    def add(self, text: str, ids: Sequence[int], tokenizer: Tokenizer) -> None:
        """Count one text with its ids."""
        self.documents += 1
        self.bytes += len(text.encode("utf-8"))
        self.characters += len(text)
        self.tokens += len(ids)
        self.unknown_tokens += 0 if tokenizer.unknown_id is None else ids.count(tokenizer.unknown_id)
        decoded = tokenizer.decode(ids)
        if decoded != text:
            self.round_trip_failures += 1
            self.first_failure = self.first_failure or _around_difference(text, decoded)


@dataclass(frozen=True)
class Facts:
    """What can be said of a vocabulary without a text."""

    kind: str
    vocab_size: int
    special_tokens: Mapping[str, int]
    tokens_by_script: Mapping[LanguageName, int]
    """Ordinary tokens by the rule of ``script``; "other" also holds digits, marks and parts of characters."""
    longest_tokens: Sequence[str]


def compare(tokenizers: Mapping[str, Tokenizer], texts: Iterable[str]) -> dict[str, dict[str, Tally]]:
    """Measure tokenizers on the same texts, read once: by name of the tokenizer, then by language and ``ALL``.

    Raises TokenizerError for a lone surrogate.
    """
    results: dict[str, dict[str, Tally]] = {name: {} for name in tokenizers}
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        languages = [language_of(text) for text in batch]
        for name, tokenizer in tokenizers.items():
            tallies = results[name]
            for text, language, ids in zip(batch, languages, tokenizer.encode_batch(batch), strict=True):
                tallies.setdefault(language, Tally()).add(text, ids, tokenizer)
    for name, tallies in results.items():
        results[name] = {language: tallies[language] for language in LANGUAGE_NAMES if language in tallies}
        results[name][ALL] = _sum(list(results[name].values()))
    return results


def facts(tokenizer: Tokenizer) -> Facts:
    """Describe a vocabulary."""
    special = {tokenizer.token(id): id for id in sorted(tokenizer.special_ids)}
    ordinary = [tokenizer.token(id) for id in tokenizer.ids() if id not in tokenizer.special_ids]
    scripts = Counter(language_of(token) for token in ordinary)
    return Facts(
        kind=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        special_tokens=special,
        tokens_by_script={name: scripts[name] for name in LANGUAGE_NAMES},
        longest_tokens=sorted(ordinary, key=lambda token: (-len(token), token))[:10],
    )


def _sum(tallies: Sequence[Tally]) -> Tally:
    names = [field.name for field in fields(Tally) if field.name != "first_failure"]
    failures = (tally.first_failure for tally in tallies if tally.first_failure)
    counts = {name: sum(getattr(tally, name) for tally in tallies) for name in names}
    return Tally(**counts, first_failure=next(failures, None))


def _around_difference(text: str, decoded: str) -> str:
    differing = (at for at, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b)
    place = next(differing, min(len(text), len(decoded)))
    start = max(0, place - _EXCERPT_CHARACTERS // 2)
    return text[start : start + _EXCERPT_CHARACTERS]
