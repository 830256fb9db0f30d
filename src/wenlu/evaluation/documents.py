"""The documents that a model is scored on: from a token store or from text files, all of them or a bounded sample."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wenlu.data.documents import DataSettings, Report, read_documents
from wenlu.data.store import TokenStore
from wenlu.tokenization.tokenizer import Tokenizer

T = TypeVar("T")
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class TokenizedDocument:
    """One document as a model reads it; ``ids`` end with the end token unless the document is ``cut``.

    ``num_bytes`` counts the original UTF-8 text; of a cut document, in proportion to its tokens. ``source`` is the file
    that it came from; None where nobody knows.
    """

    ids: npt.NDArray[np.int64]
    num_bytes: float
    num_characters: float
    language: str
    lossless: bool
    cut: bool = False
    source: str | None = None

    @property
    def key(self) -> bytes:
        """A digest of the ids: orders documents the same way wherever they come from."""
        return hashlib.sha256(self.ids.astype("<u4").tobytes()).digest()


@dataclass(frozen=True)
class EvaluationText:
    """One document as text; ``num_bytes`` counts the original UTF-8 text, before cleaning; ``source`` is its file."""

    text: str
    num_bytes: int
    language: str
    source: str | None = None

    @property
    def key(self) -> bytes:
        """A digest of the text: what makes it the same document for two models."""
        return hashlib.sha256(self.text.encode()).digest()


def store_documents(store: TokenStore) -> Iterator[TokenizedDocument]:
    """The documents of one split of a store, in its order."""
    for number in range(store.num_documents):
        yield TokenizedDocument(
            ids=np.asarray(store.document(number), dtype=np.int64),
            num_bytes=int(store.original_bytes[number]),
            num_characters=int(store.characters[number]),
            language=store.language(number),
            lossless=bool(store.lossless[number]),
        )


def file_texts(paths: Sequence[str]) -> Iterator[EvaluationText]:
    """The documents of text files, read and cleaned as for a token store; what was dropped is announced at the end."""
    report = Report()
    for document in read_documents(DataSettings(paths=tuple(paths)), report):
        source = document.source.rpartition(":")[0]
        yield EvaluationText(document.text, document.original_bytes, document.language, source)
    report.announce()


def encode_texts(texts: Iterable[EvaluationText], tokenizer: Tokenizer) -> Iterator[TokenizedDocument]:
    """The texts as token ids, each with its end token."""
    remaining = iter(texts)
    while batch := list(islice(remaining, _TEXTS_AT_ONCE)):
        for text, ids in zip(batch, tokenizer.encode_batch([text.text for text in batch]), strict=True):
            yield TokenizedDocument(
                ids=np.array([*ids, tokenizer.end_id], dtype=np.int64),
                num_bytes=text.num_bytes,
                num_characters=len(text.text),
                language=text.language,
                lossless=tokenizer.round_trips(text.text, ids),
                source=text.source,
            )


def sample_documents(documents: Iterable[TokenizedDocument], max_tokens: int) -> list[TokenizedDocument]:
    """Documents of ``max_tokens`` tokens in all: those with the smallest keys, the last one cut to what is left.

    The choice depends on the documents alone, neither on their order nor on a seed, and is fair to all sources. No more
    than the sample is held in memory.
    """
    chosen, excess = _smallest(documents, max_tokens, lambda document: document.key, lambda document: len(document.ids))
    if excess > 0:
        chosen[-1] = _cut(chosen[-1], len(chosen[-1].ids) - excess)
    return chosen


def sample_texts(texts: Iterable[EvaluationText], max_bytes: int) -> list[EvaluationText]:
    """Texts of about ``max_bytes`` bytes, chosen like ``sample_documents``; the last one is cut to what is left."""
    chosen, excess = _smallest(texts, max_bytes, lambda text: text.key, lambda text: text.num_bytes)
    if excess > 0:
        last = chosen[-1]
        start = last.text[: max(1, math.floor(len(last.text) * (1 - excess / last.num_bytes)))]
        chosen[-1] = replace(last, text=start, num_bytes=len(start.encode()))
    return chosen


def _smallest(
    items: Iterable[T], most: int, key: Callable[[T], bytes], size: Callable[[T], int]
) -> tuple[list[T], int]:
    """The fewest items with the smallest keys that are ``most`` in size together, and by how much they are more."""
    heap: list[tuple[int, int, T]] = []  # the largest key first
    total = 0
    for number, item in enumerate(items):
        heapq.heappush(heap, (-int.from_bytes(key(item), "big"), -number, item))
        total += size(item)
        while total - size(heap[0][2]) >= most:
            total -= size(heapq.heappop(heap)[2])
    return [item for _, _, item in sorted(heap, key=lambda entry: entry[:2], reverse=True)], total - most


def _cut(document: TokenizedDocument, num_tokens: int) -> TokenizedDocument:
    share = num_tokens / len(document.ids)
    return replace(
        document,
        ids=document.ids[:num_tokens],
        num_bytes=document.num_bytes * share,
        num_characters=document.num_characters * share,
        cut=True,
    )
