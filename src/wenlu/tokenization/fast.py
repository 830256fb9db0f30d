"""A second encoder for byte-level tokenizers, gigatoken: several times as fast, and believed only where it was proved.

``tokenizers`` stays the reference. Before the first text the two must give the same ids for a sample of the texts and
for strings on which encoders like to differ; whoever uses it goes on comparing (``FastEncoder.compare``).
"""

from __future__ import annotations

import ctypes
import json
import platform
import sys
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wenlu.core.log import Notice
from wenlu.tokenization.tokenizer import IdArray, Tokenizer

DIFFICULT = (
    "<|endoftext|>",
    "a<|endoftext|>b<|pad|> [UNK]<s></s>",
    "\u200d👨\u200d👩\u200d👧\u200d👦 🇨🇳 ☎\ufe0f",
    "e\u0301 a\u0300\u0301\u0302 한\u1100\u1161",
    "\r\n\r\n \t x\u3000\xa0\u2028\x85 y  \n",
    "I'll he'D it'S 'Re don\u2019t '\u017f o'\u212a",
    "１２３ ٣٤ Ⅷ ½ 3.14e-5 1,000,000",
    "\x00\x01\x7f\ufdd0\uffff\U0010ffff\ufffd",
    "学而时习之，不亦说乎？「𠀀」々〇…——",
    "if x:\n\t\treturn {'a': [1, 2]}  # end\n\n\n",
    "ﬁ ǅ ʰ ª \u1e9e \u0130 \u00ad\u200b\ufeff",
    "a" * 1000 + " " * 1000 + "的" * 1000 + "\n" * 1000 + "🙂" * 100,
)
_CACHE_BYTES = 1 << 25
"""The library keeps about five bytes for a byte of text that it has seen; after so much text it begins anew."""
_LONGEST_GROUP = 64
_ARENA_MAX = -8  # of mallopt


class FastEncoderError(Exception):
    """The fast encoder cannot be used, or no longer; ``because`` says why. Its callers turn to the reference."""

    def __init__(self, because: Notice) -> None:
        super().__init__(str(because))
        self.because = because


class _Library(Protocol):
    """What is used of ``gigatoken.Tokenizer``."""

    def encode_batch_padded(
        self, inputs: list[bytes], pad_id: int, *, parallel: bool
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]: ...


class FastEncoder:
    """Encodes as ``tokenizer`` does, or raises ``FastEncoderError``; may be called from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.kind != "bpe":
            raise FastEncoderError(Notice("tokenization.because_fast_kind", {"kind": tokenizer.kind}))
        self._tokenizer = tokenizer
        self._description = _plain(tokenizer.encoder_json)
        _share_one_heap()
        self._lock = threading.Lock()
        self._backend = self._load()
        self._seen_bytes = 0

    def encode(self, texts: Sequence[bytes]) -> list[IdArray]:
        """The ids of texts given in UTF-8, on the calling thread alone."""
        backend = self._current(sum(map(len, texts)))
        by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        rows: dict[int, IdArray] = {}
        while by_length:  # texts of about one length at a time, as the library fills a rectangle
            longest = len(texts[by_length[-1]])
            group = [number for number in by_length[-_LONGEST_GROUP:] if 2 * len(texts[number]) >= longest]
            del by_length[-len(group) :]
            try:
                matrix, lengths = backend.encode_batch_padded([texts[number] for number in group], 0, parallel=False)
            except BaseException as error:
                raise _failed(error) from error
            for number, row, length in zip(group, matrix, lengths.tolist(), strict=True):
                rows[number] = row[:length]
        return [rows[number] for number in range(len(texts))]

    def prove(self, texts: Sequence[str]) -> int:
        """Compare with the reference on these texts and on difficult ones; gives how many were compared."""
        sample = [*texts, *DIFFICULT]
        raw = [text.encode() for text in sample]
        self.compare(raw, self.encode(raw))
        return len(sample)

    def compare(self, texts: Sequence[bytes], rows: Sequence[IdArray]) -> None:
        """Raise unless the reference gives these ids for these texts."""
        expected = self._tokenizer.encode_batch([text.decode() for text in texts])
        for text, row, ids in zip(texts, rows, expected, strict=True):
            if row.tolist() != ids:
                start = text.decode()[:40]
                raise FastEncoderError(Notice("tokenization.because_fast_differs", {"text": ascii(start)}))

    def _current(self, size: int) -> _Library:
        with self._lock:
            if self._seen_bytes > _CACHE_BYTES:
                self._backend = self._load()
                self._seen_bytes = 0
            self._seen_bytes += size
            return self._backend

    def _load(self) -> _Library:
        try:
            from gigatoken import Tokenizer as Library
        except ImportError as error:
            raise FastEncoderError(Notice("tokenization.because_fast_missing")) from error
        try:
            library: _Library = Library.from_json(self._description)
        except BaseException as error:
            raise _failed(error) from error
        return library


def _share_one_heap() -> None:
    """Have threads that start from now on share a heap: each on its own would keep a cleared cache's memory (glibc)."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def _plain(serialized: str) -> str:
    """tokenizer.json without what the reference does not do with texts: special tokens, padding, templates."""
    description = json.loads(serialized)
    description["added_tokens"] = [token for token in description["added_tokens"] if not token["special"]]
    return json.dumps({**description, "truncation": None, "padding": None, "post_processor": None})


def _failed(error: BaseException) -> BaseException:
    """Our error for what the library raised; its panics derive from BaseException and have no public name."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return FastEncoderError(Notice("tokenization.because_fast_failed", {"reason": error}))
    return error
