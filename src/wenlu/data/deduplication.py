"""Exact de-duplication: SHA-256 of the cleaned text, of which 128 bits are kept a document."""

from __future__ import annotations

import hashlib
from array import array

_GROWTH = 1.5
_FULLEST = 0.75
_FIRST_CAPACITY = 1 << 10


def text_digest(text: str) -> bytes:
    """SHA-256 of a text's UTF-8."""
    return hashlib.sha256(text.encode()).digest()


class DigestSet:
    """A set of 128-bit digests in 21 to 32 bytes each (a Python set of bytes takes about 100).

    Open addressing with linear probing over two flat arrays; the digests are uniform, so they are their own hash.
    """

    def __init__(self) -> None:
        self._allocate(_FIRST_CAPACITY)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, digest: bytes) -> bool:
        """Add a digest of at least 16 bytes; False when it was there already."""
        halves = _halves(digest)
        place = self._find(*halves)
        if self._high[place]:
            return False
        self._high[place], self._low[place] = halves
        self._count += 1
        if self._count > _FULLEST * self._capacity:
            before = zip(self._high, self._low, strict=True)
            self._allocate(int(self._capacity * _GROWTH))
            for high, low in before:
                if high:
                    place = self._find(high, low)
                    self._high[place], self._low[place] = high, low
        return True

    def __contains__(self, digest: bytes) -> bool:
        return self._high[self._find(*_halves(digest))] != 0

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return 16 * self._capacity

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        self._high, self._low = array("Q", bytes(8 * capacity)), array("Q", bytes(8 * capacity))

    def _find(self, high: int, low: int) -> int:
        """The place of a digest, or the free place where it would stand."""
        place = high % self._capacity
        while self._high[place] and not (self._high[place] == high and self._low[place] == low):
            place = (place + 1) % self._capacity
        return place


def _halves(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[:8], "little") or 1, int.from_bytes(digest[8:16], "little")  # 0 marks a free place
