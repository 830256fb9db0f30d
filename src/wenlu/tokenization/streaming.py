"""Ids to text one by one, as a model generates them: no half characters, and the same text as decoding all at once.

``push`` takes an id and gives the text that is certain now: complete characters only, often ``""``. ``finish``, called
once, gives what was held back. All pieces in order are what ``Tokenizer.decode`` gives for all ids.

And many ids at once, for byte-level vocabularies.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt


class ByteStreamDecoder:
    """For byte-level vocabularies: bytes wait until they are a character, or cannot become one (U+FFFD)."""

    def __init__(self, token_bytes: Callable[[int], bytes], *, hidden: Collection[int]) -> None:
        self._token_bytes = token_bytes
        self._hidden = hidden
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        data = self._token_bytes(id)
        return "" if id in self._hidden else self._decoder.decode(data)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class TextStreamDecoder:
    """For vocabularies of text: decodes each id behind the one before it, which settles spaces and first tokens.

    Ids of a byte fallback (``<0xE6>``) wait for the end of their run, because it decides what they mean.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], *, hidden: Collection[int], fallback: Collection[int]
    ) -> None:
        self._decode = decode
        self._hidden = hidden
        self._fallback = fallback
        self._before: list[int] = []
        self._held: list[int] = []

    def push(self, id: int) -> str:
        if id in self._hidden:
            return ""
        if id in self._fallback:
            self._held.append(id)
            return ""
        return self._release([*self._held, id])

    def finish(self) -> str:
        return self._release(self._held)

    def _release(self, ids: list[int]) -> str:
        if not ids:
            return ""
        text = self._decode([*self._before, *ids])[len(self._decode(self._before)) if self._before else 0 :]
        self._before, self._held = ids[-1:], []
        return text


class ByteTable:
    """The bytes of every id, one behind another."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._pool = np.frombuffer(b"".join(token_bytes), dtype=np.uint8)
        self._sizes = np.array([len(data) for data in token_bytes], dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def decode(self, ids: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.int64], bytes]:
        """How many bytes stand before each id and, last, in all; and the bytes."""
        sizes = self._sizes[ids]
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        places = np.repeat(self._starts[ids] - before[:-1], sizes) + np.arange(before[-1])
        return before, self._pool[places].tobytes()
