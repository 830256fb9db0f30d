"""Texts that are nearly the same: candidates by MinHash, then compared by the character triples that they share.

Broder, "On the resemblance and containment of documents", 1997.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from wenlu.core.extras import load_extra

SIMILAR = 0.8
"""The share of their triples (Jaccard) that texts which are nearly the same have in common."""
_PERMUTATIONS, _BANDS = 64, 16  # of MinHash: neighbours at 0.8 are found with a probability of 0.9998
_AT_ONCE = 8192  # rows whose hashes are held
_TRIES = 64  # candidates that are compared with one row
RowT = TypeVar("RowT")


def neighbours(
    rows: Sequence[RowT], others: Sequence[RowT], texts: Callable[[RowT], Sequence[str]]
) -> Iterator[tuple[RowT, RowT, float]]:
    """For each of ``others`` one of ``rows`` that is nearly the same in each of its texts, if there is one; how much.

    Raises:
        RunError: ``core.missing_extra`` without rensa.
    """
    rensa: Any = load_extra("rensa", extra="data")
    if not rows or not others:
        return
    index, written = rensa.RMinHashLSH(SIMILAR, _PERMUTATIONS, _BANDS), [texts(row) for row in others]
    index.insert_many(_hashes(rensa, written))
    triples = [[_triples(text) for text in row] for row in written]
    tries: Counter[int] = Counter()
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        written = [texts(row) for row in some]
        for row, mine, numbers in zip(some, written, index.query_all(_hashes(rensa, written)), strict=True):
            for number in numbers:
                if tries[number] < _TRIES:
                    tries[number] += 1
                    pairs = zip(map(_triples, mine), triples[number], strict=True)
                    alike = min((len(one & other) / len(one | other) for one, other in pairs), default=0.0)
                    if alike >= SIMILAR:
                        tries[number] = _TRIES
                        yield others[number], row, alike


def _hashes(rensa: Any, rows: Sequence[Sequence[str]]) -> list[Any]:
    sets = [set[str]().union(*map(_triples, row)) for row in rows]
    hashes: list[Any] = rensa.RMinHash.from_token_sets(sets, _PERMUTATIONS, 0)
    return hashes


def _triples(text: str) -> set[str]:
    return {text[at : at + 3] for at in range(max(1, len(text) - 2))}
