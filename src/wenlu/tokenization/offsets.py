"""Character offsets behind a normalization.

The library gives a composed character the place of its first part only: "e" + U+0301, which NFC makes one "é", would
end before its accent, and a label on the accented letter would lose half of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_HANGUL_VOWELS_AND_FINALS = range(0x1160, 0x1200)


def with_joined_marks(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans, each extended over the marks (and Hangul parts) behind it that no other token claims."""
    ends: dict[int, int] = {}
    following = [*(start for start, _ in offsets[1:]), len(text)]
    for (_, end), limit in zip(offsets, following, strict=False):  # no offsets: nothing follows
        stop = end
        while stop < limit and _joins(text[stop]):
            stop += 1
        ends[end] = max(stop, ends.get(end, end))
    return [(start, ends[end]) for start, end in offsets]


def _joins(character: str) -> bool:
    full = unicodedata.normalize("NFKC", character)[0]  # half-width marks and Hangul parts join as their full forms
    return unicodedata.category(full).startswith("M") or ord(full) in _HANGUL_VOWELS_AND_FINALS
