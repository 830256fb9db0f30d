"""Counting for the n-gram model: adjusted counts of all n-grams of a corpus, and the discounts that follow from them.

NumPy only, and no loop over n-grams: an order's n-grams are the sorted unique integers
``number of the context * vocabulary size + token``, where the context is an n-gram of the order below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


class TokenSource(Protocol):
    """What is counted: documents one after the other; ``bounds`` are their starts, then the total length."""

    @property
    def tokens(self) -> NDArray[np.unsignedinteger]: ...

    @property
    def bounds(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Level:
    """The n-grams of one order: the continuations of context ``i`` stand at ``offsets[i]:offsets[i + 1]``.

    ``counts`` are adjusted: plain in the highest order and for n-grams that begin a document, else the number of
    different tokens that the n-gram follows. Order 1 has one context, the empty one, and every token of the vocabulary.
    """

    offsets: NDArray[np.int32]
    tokens: NDArray[np.int32]
    counts: NDArray[np.int32]


def count_levels(source: TokenSource, *, order: int, vocab_size: int, end_id: int, context_id: int) -> Iterator[Level]:
    """The levels of orders 1 to ``order``, in this order; documents end with ``end_id``, and are read after
    ``context_id``.
    """
    text, depth = _text_and_depth(source, end_id)
    numbers = text.astype(np.int32)  # number of the n-gram (of the order at hand) that ends in each slot
    num_contexts = vocab_size
    # Of the order below: the continuations of its contexts.
    offsets, tokens = np.array([0, vocab_size], dtype=np.int32), np.arange(vocab_size, dtype=np.int32)
    for level_order in range(2, order + 1):
        slots = np.flatnonzero(depth >= level_order - 1)
        keys = numbers[slots - 1].astype(np.int64)
        if level_order == 2:  # no longer n-gram reaches back to what closes the document before
            keys[keys == end_id] = context_id
        keys *= vocab_size
        keys += text[slots]
        number_of_slot, unique_keys, plain = _number(keys)
        del keys
        # The order below now gets its adjusted counts: one for each different n-gram that ends in it.
        suffix = np.empty(len(unique_keys), dtype=np.int32)
        suffix[number_of_slot] = numbers[slots]
        adjusted = np.bincount(suffix, minlength=num_contexts)
        del suffix
        if level_order > 2:
            opening = np.flatnonzero(depth == level_order - 2)  # n-grams of the order below that begin a document
            adjusted += np.bincount(numbers[opening], minlength=num_contexts)
        yield Level(offsets, tokens, adjusted.astype(np.int32))
        next_numbers = np.full(len(text), -1, dtype=np.int32)
        next_numbers[slots] = number_of_slot
        numbers = next_numbers
        contexts, next_tokens = np.divmod(unique_keys, vocab_size)
        offsets, tokens = np.zeros(num_contexts + 1, dtype=np.int32), next_tokens.astype(np.int32)
        np.cumsum(np.bincount(contexts, minlength=num_contexts), out=offsets[1:])
        num_contexts = len(unique_keys)
        del contexts, next_tokens, unique_keys, number_of_slot, slots
    if order == 1:
        plain = np.bincount(text[depth > 0], minlength=vocab_size)
    yield Level(offsets, tokens, plain.astype(np.int32))


def discounts(counts: NDArray[np.int32]) -> tuple[float, float, float] | None:
    """D1, D2 and D3+ of one order from its counts of counts (Chen and Goodman, equation 17).

    None when they are not defined: no n-gram has count 1, 2 or 3, or one of the three would be negative.
    """
    n1, n2, n3, n4 = np.bincount(np.clip(counts, 0, 5), minlength=6)[1:5].tolist()
    if not (n1 and n2 and n3):
        return None
    y = n1 / (n1 + 2 * n2)
    d1, d2, d3 = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (d1, d2, d3) if min(d1, d2, d3) >= 0 else None


def _text_and_depth(source: TokenSource, end_id: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The corpus with one end token in front, and for each slot how many slots its document has before it.

    The end token that closes a document also stands for the first context of the next one; its own depth is that of
    the close.
    """
    bounds = np.asarray(source.bounds, dtype=np.int64)
    text = np.empty(int(bounds[-1]) + 1, dtype=np.int32)
    text[0] = end_id
    text[1:] = source.tokens[: int(bounds[-1])]
    depth = np.arange(len(text), dtype=np.int32)
    depth[1:] -= np.repeat(bounds[:-1], np.diff(bounds)).astype(np.int32)
    return text, depth


def _number(keys: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Number the different keys in sorted order: number of each key, the different keys, how often each occurs."""
    by_key = np.argsort(keys)
    ordered = keys[by_key]
    first = np.empty(len(keys), dtype=bool)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    unique_keys = ordered[first]
    del ordered
    numbers = np.empty(len(keys), dtype=np.int32)
    numbers[by_key] = np.cumsum(first, dtype=np.int32) - 1
    del by_key
    starts = np.append(np.flatnonzero(first), len(keys))
    return numbers, unique_keys, np.diff(starts)
