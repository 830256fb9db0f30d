"""The token store on disk and in memory.

    STORE/
      tokenizer/                    the tokenizer that made the ids
      train.bin                     token ids of all documents one after another, little-endian uint16 or uint32
      train.index.safetensors       bounds, original_bytes, characters, languages, lossless, files: a value a document
      validation.bin  ...  test.bin  ...
      store.json                    format, data type, end token, language names, digests of splits and tokenizer
      data.json                     where it came from: what was read, dropped, cut, replaced, and why
      MANIFEST.json                 SHA-256 and size of every file

A document's tokens are those of its text followed by the end token.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from wenlu.core import publication
from wenlu.core.errors import DataError

if TYPE_CHECKING:
    from wenlu.tokenization.tokenizer import Tokenizer

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FORMAT = 1

Int64Array = npt.NDArray[np.int64]
TokenArray = npt.NDArray[np.unsignedinteger]


@dataclass(eq=False, repr=False, kw_only=True)
class DocumentIndex:
    """What is known of each document of a split besides its tokens; arrays of one value a document."""

    bounds: Int64Array  # num_documents + 1: document i is tokens[bounds[i]:bounds[i + 1]]
    original_bytes: Int64Array  # UTF-8 bytes of the text as it was read, before cleaning
    characters: Int64Array  # characters of the cleaned text
    languages: npt.NDArray[np.uint16]  # index into the language names
    lossless: npt.NDArray[np.bool_]  # False: the tokens do not decode to the cleaned text
    files: npt.NDArray[np.uint32] | None = None  # number of the file it came from; None: packed before this was kept


class TokenStore(DocumentIndex):
    """The documents of one split as token ids, memory-mapped when they are on disk."""

    def __init__(
        self,
        tokens: TokenArray,
        index: DocumentIndex,
        *,
        end_id: int,
        context: Callable[[], int] | None = None,
        vocab_size: int,
        language_names: Sequence[str] = ("unknown",),
        fingerprint: str = "",
        path: Path | None = None,
    ) -> None:
        super().__init__(**vars(index))
        self.tokens, self.end_id, self.vocab_size, self.fingerprint = tokens, end_id, vocab_size, fingerprint
        self.language_names = tuple(language_names)
        self._context = context
        self._descriptor: int | None = None
        if path is not None and sys.platform != "win32":
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Sequence[int]],
        *,
        end_id: int,
        context_id: int | None = None,
        vocab_size: int,
        original_bytes: Sequence[int] | None = None,
    ) -> TokenStore:
        """A store in memory, of one file; each document must end with ``end_id``, which is also what is read before it
        without a ``context_id``. Bytes default to 3 a token.
        """
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        bounds = np.cumsum(np.append(0, lengths))
        tokens = np.array([token for document in documents for token in document], dtype=token_dtype(vocab_size))
        sizes = 3 * lengths if original_bytes is None else np.array(original_bytes, dtype=np.int64)
        index = DocumentIndex(
            bounds=bounds,
            original_bytes=sizes,
            characters=sizes.copy(),
            languages=np.zeros_like(lengths, dtype=np.uint16),
            lossless=np.ones_like(lengths, dtype=np.bool_),
            files=np.zeros_like(lengths, dtype=np.uint32),
        )
        digest = hashlib.sha256(tokens.tobytes() + bounds.tobytes()).hexdigest()
        context = None if context_id is None else lambda: context_id
        return cls(tokens, index, end_id=end_id, context=context, vocab_size=vocab_size, fingerprint=digest)

    @functools.cached_property
    def context_id(self) -> int:
        """The token that is read before a document, ``Tokenizer.context_id``; the first call may load the tokenizer."""
        return self.end_id if self._context is None else self._context()

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents, end tokens included."""
        return int(self.bounds[-1])

    @property
    def num_documents(self) -> int:
        return len(self.bounds) - 1

    def document(self, number: int) -> TokenArray:
        """Token ids of one document, the end token last."""
        return self.tokens[self.bounds[number] : self.bounds[number + 1]]

    def language(self, number: int) -> str:
        """Language code of one document."""
        return self.language_names[int(self.languages[number])]

    def read(self, start: int, stop: int) -> Int64Array:
        """Tokens start..stop as int64, read from the file without mapping pages into this process."""
        if self._descriptor is None or sys.platform == "win32":
            return self.tokens[start:stop].astype(np.int64)
        size = self.tokens.dtype.itemsize
        raw = os.pread(self._descriptor, (stop - start) * size, start * size)
        if len(raw) != (stop - start) * size:
            raise DataError("data.store_shrank", expected=(stop - start) * size, found=len(raw))
        return np.frombuffer(raw, dtype=self.tokens.dtype).astype(np.int64)


@dataclass(eq=False, repr=False)
class Store:
    """A packed corpus: three splits, their tokenizer and the record of how they were made."""

    path: Path
    train: TokenStore
    validation: TokenStore
    test: TokenStore
    record: Mapping[str, object]
    fingerprint: str
    load_tokenizer: Callable[[], Tokenizer] | None = None  # what the splits call, too

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids, loaded on first use."""
        return (self.load_tokenizer or _tokenizer_of(self.path))()

    def split(self, name: Split) -> TokenStore:
        """One split by its name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @staticmethod
    def is_store(path: Path) -> bool:
        """Whether this directory calls itself a token store; its contents are not checked."""
        return (path / "store.json").is_file()

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Store:
        """Open a store directory, by default only after every file's digest was compared with the manifest.

        Raises:
            DataError: ``data.not_a_store``, ``data.store_format`` (made by a newer version), ``data.store_damaged``.
            CheckpointError: a file is missing, or its digest or size differs from the manifest.
        """
        if not cls.is_store(path):
            raise DataError("data.not_a_store", path=path)
        if verify:
            publication.verify(path)
        try:
            description = (path / "store.json").read_bytes()
            header = json.loads(description)
            record = json.loads((path / "data.json").read_text(encoding="utf-8"))
            if header["format"] != FORMAT:
                raise DataError("data.store_format", path=path, found=header["format"], known=FORMAT)
            tokenizer = _tokenizer_of(path)
            splits = {name: _open_split(path, name, header, lambda: tokenizer().context_id) for name in SPLITS}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError("data.store_damaged", path=path, reason=f"{type(error).__name__}: {error}") from error
        fingerprint = hashlib.sha256(description).hexdigest()
        return cls(path, **splits, record=record, fingerprint=fingerprint, load_tokenizer=tokenizer)


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type on disk that holds every id."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _tokenizer_of(path: Path) -> Callable[[], Tokenizer]:
    """What loads the tokenizer of a store when it is first called."""

    @functools.cache
    def load() -> Tokenizer:
        from wenlu.tokenization.tokenizer import Tokenizer

        return Tokenizer.load(path / "tokenizer")

    return load


def _open_split(path: Path, name: Split, header: Mapping[str, Any], context: Callable[[], int]) -> TokenStore:
    token_file, columns = path / f"{name}.bin", load_file(path / f"{name}.index.safetensors")
    names = {column.name for column in fields(DocumentIndex)}
    index = DocumentIndex(**{name: column for name, column in columns.items() if name in names})
    vocab_size = int(header["vocab_size"])
    dtype, num_tokens = token_dtype(vocab_size), int(index.bounds[-1])
    if token_file.stat().st_size != num_tokens * dtype.itemsize:
        raise ValueError(f"{token_file.name}: {token_file.stat().st_size} bytes, {num_tokens} tokens expected")
    tokens: TokenArray = np.memmap(token_file, dtype=dtype, mode="r") if num_tokens else np.empty(0, dtype=dtype)
    return TokenStore(
        tokens,
        index,
        end_id=int(header["end_id"]),
        context=context,
        vocab_size=vocab_size,
        language_names=header["languages"],
        fingerprint=header["digests"][name],
        path=token_file,
    )
