"""The documents that a model is scored on: a split of a token store or text files, all of them or a bounded sample.

The texts are the same for every tokenizer.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wenlu.core.errors import DataError, SettingsError
from wenlu.core.log import notice, warn
from wenlu.data.documents import DataSettings, Report, read_documents
from wenlu.data.files import find_files
from wenlu.data.store import SPLITS, Split, Store, TokenStore
from wenlu.tokenization.tokenizer import Tokenizer

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
    def size(self) -> int:
        """Its tokens."""
        return len(self.ids)

    @property
    def key(self) -> bytes:
        """A digest of the ids: orders documents the same way wherever they come from."""
        return hashlib.sha256(self.ids.astype("<u4").tobytes()).digest()

    def without(self, excess: int) -> TokenizedDocument:
        """The document without its last tokens."""
        kept = self.size - excess
        num_bytes, num_characters = (number * (kept / self.size) for number in (self.num_bytes, self.num_characters))
        return replace(self, ids=self.ids[:kept], num_bytes=num_bytes, num_characters=num_characters, cut=True)


@dataclass(frozen=True)
class EvaluationText:
    """One document as text; ``num_bytes`` counts the original UTF-8 text, before cleaning; ``source`` is its file."""

    text: str
    num_bytes: int
    language: str
    source: str | None = None

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.num_bytes

    @property
    def key(self) -> bytes:
        """A digest of the text: what makes it the same document for two models."""
        return hashlib.sha256(self.text.encode()).digest()

    def without(self, excess: int) -> EvaluationText:
        """The text without about so many bytes at its end."""
        start = self.text[: max(1, math.floor(len(self.text) * (1 - excess / self.num_bytes)))]
        return replace(self, text=start, num_bytes=len(start.encode()))


Sampled = TypeVar("Sampled", TokenizedDocument, EvaluationText)


@dataclass(frozen=True)
class Corpus:
    """Documents to score models on; every call of ``texts`` reads them anew, so that nothing is held in memory.

    ``name`` stands in the names of reports, ``record`` says where the texts are. Those of a split of a ``store`` that
    do not come back from its ``tokens`` are left out of ``texts``, and it is said.
    """

    name: str
    record: Mapping[str, object]
    texts: Callable[[], Iterable[EvaluationText]]
    store: Store | None = None
    tokens: TokenStore | None = None

    def tokens_of(self, tokenizer: Tokenizer) -> TokenStore | None:
        """The stored tokens, if they are this tokenizer's."""
        fits = self.store is not None and tokenizer.fingerprint == self.store.tokenizer.fingerprint
        return self.tokens if fits else None

    def num_tokens(self, tokenizer: Tokenizer) -> int | None:
        """Their number; of texts it is known only once everything is encoded."""
        tokens = self.tokens_of(tokenizer)
        return None if tokens is None else tokens.num_tokens

    def documents(self, tokenizer: Tokenizer) -> Iterator[TokenizedDocument]:
        """The stored ids, or the texts as ids."""
        if (tokens := self.tokens_of(tokenizer)) is not None:
            return store_documents(tokens)
        if self.store is not None:
            notice("evaluation.other_tokenizer")
        return encode_texts(self.texts(), tokenizer)

    def as_texts(self, max_bytes: int = 0) -> Corpus:
        """The texts alone, all or (``max_bytes`` above 0) a sample of them, for models of several tokenizers."""
        sample = sample_documents(self.texts(), max_bytes) if max_bytes else None
        return Corpus(self.name, self.record, self.texts if sample is None else lambda: sample)


def open_corpus(data: Sequence[str], *, split: str | None = None) -> Corpus:
    """The corpus in these files or folders, read and cleaned as for a token store, or in this one token store.

    Raises:
        DataError: ``evaluation.empty_split``, or whatever is wrong with the store.
            ``data.missing_file`` and others for what are no files of text.
        SettingsError: ``evaluation.split_unread`` when text files are given with a split.
    """
    path = Path(data[0])
    if len(data) > 1 or not Store.is_store(path):
        if split is not None:
            raise SettingsError("evaluation.split_unread", split=split, path=data[0])
        find_files(data, Report())  # which a scorer would ask for only when its turn comes
        return Corpus(path.stem or "text", {"files": list(data)}, partial(_file_texts, data))
    store, name = Store.open(path), split or "validation"
    assert name in SPLITS, "the command line offers the splits only"
    tokens = store.split(name)
    if not tokens.num_documents:
        sizes = ", ".join(f"{one}: {store.split(one).num_documents}" for one in SPLITS)
        raise DataError("evaluation.empty_split", path=path, split=name, sizes=sizes)
    record = {"store": str(path), "split": name, "fingerprint": tokens.fingerprint}
    return Corpus(name, record, partial(_decoded, store, name), store, tokens)


def _decoded(store: Store, split: Split) -> Iterator[EvaluationText]:
    """The texts that the ids of a split decode to; documents whose ids do not give the text back are left out.

    Raises:
        DataError: ``evaluation.no_texts`` when none is left.
    """
    tokens = store.split(split)
    left_out = int((~tokens.lossless).sum())
    if left_out == tokens.num_documents:
        raise DataError("evaluation.no_texts", path=store.path, split=split)
    if left_out:
        warn("evaluation.texts_left_out", count=left_out, total=tokens.num_documents, path=store.path)
    for number in np.flatnonzero(tokens.lossless).tolist():
        text = store.tokenizer.decode(tokens.document(number)[:-1].tolist())
        source = None if tokens.files is None else str(tokens.files[number])
        yield EvaluationText(text, int(tokens.original_bytes[number]), tokens.language(number), source)


def _file_texts(paths: Sequence[str]) -> Iterator[EvaluationText]:
    """The documents of text files; what was dropped is announced at the end."""
    report = Report()
    for document in read_documents(DataSettings(paths=tuple(paths)), report):
        source = document.source.rpartition(":")[0]
        yield EvaluationText(document.text, document.original_bytes, document.language, source)
    report.announce()


def store_documents(store: TokenStore) -> Iterator[TokenizedDocument]:
    """The documents of one split of a store, in its order."""
    for number in range(store.num_documents):
        ids, lossless = np.asarray(store.document(number), dtype=np.int64), bool(store.lossless[number])
        num_bytes, num_characters = int(store.original_bytes[number]), int(store.characters[number])
        yield TokenizedDocument(ids, num_bytes, num_characters, store.language(number), lossless)


def encode_texts(texts: Iterable[EvaluationText], tokenizer: Tokenizer) -> Iterator[TokenizedDocument]:
    """The texts as token ids, each with its end token."""
    remaining = iter(texts)
    while batch := list(islice(remaining, _TEXTS_AT_ONCE)):
        for one, ids in zip(batch, tokenizer.encode_batch([one.text for one in batch]), strict=True):
            whole, lossless = np.array([*ids, tokenizer.end_id], dtype=np.int64), tokenizer.round_trips(one.text, ids)
            yield TokenizedDocument(whole, one.num_bytes, len(one.text), one.language, lossless, source=one.source)


def sample_documents(documents: Iterable[Sampled], most: int) -> list[Sampled]:
    """Documents of ``most`` tokens in all, or texts of about so many bytes; the last one is cut to what is left.

    They are the fewest with the smallest keys. The choice depends on the documents alone, neither on their order nor on
    a seed, and is fair to all sources. No more than the sample is held in memory.
    """
    heap: list[tuple[int, int, Sampled]] = []  # the largest key first
    total = 0
    for number, document in enumerate(documents):
        heapq.heappush(heap, (-int.from_bytes(document.key, "big"), -number, document))
        total += document.size
        while total - heap[0][2].size >= most:
            total -= heapq.heappop(heap)[2].size
    chosen = [document for _, _, document in sorted(heap, key=lambda entry: entry[:2], reverse=True)]
    if total > most:
        chosen[-1] = chosen[-1].without(total - most)
    return chosen
