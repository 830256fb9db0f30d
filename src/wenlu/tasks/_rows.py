"""From the windows of a corpus to the rows of an objective, each drawn from a generator of its own.

What a row draws depends on (seed, number of the row in the run) and on nothing else: not on the rows before it, nor on
the thread that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch

from wenlu.core.reproducibility import derive_seed, numpy_generator
from wenlu.data.packing import PADDING_DOCUMENT, PackedWindows, PieceWindows
from wenlu.data.store import Int64Array
from wenlu.tasks._base import IGNORE_INDEX, Batch

WindowsT = TypeVar("WindowsT", bound=PackedWindows | PieceWindows)
Row = dict[str, Int64Array]

_PADDING = {"labels": IGNORE_INDEX, "pair_labels": IGNORE_INDEX, "document_ids": PADDING_DOCUMENT}


class DrawnRows(Generic[WindowsT]):
    """One epoch: ``make`` turns a window, by its number, into a row. Implements ``wenlu.data.loader.Epoch``."""

    def __init__(
        self, windows: WindowsT, make: Callable[[WindowsT, int, np.random.Generator], Row], *, seed: int, epoch: int
    ) -> None:
        self._windows, self._make, self._seed = windows, make, seed
        self._first = epoch * len(windows)

    def __len__(self) -> int:
        return len(self._windows)

    def row(self, number: int) -> Row:
        """The row at this place of the epoch."""
        return self._make(self._windows, number, numpy_generator(self._seed, "tasks.row", self._first + number))

    def documents(self, number: int) -> list[list[int]]:
        """The documents of the one row."""
        return self._windows.documents(number)


def fill(row: Mapping[str, Int64Array], lengths: Mapping[str, int]) -> Row:
    """The row with every array padded at the right to its length; what is too long is an error of the program."""
    return {name: _padded(array, lengths[name], name) for name, array in row.items()}


def stack(rows: Sequence[Row]) -> Batch:
    """A batch of rows of any lengths."""
    lengths = {name: max(len(row[name]) for row in rows) for name in rows[0]}
    columns = [fill(row, lengths) for row in rows]
    return {name: torch.from_numpy(np.stack([row[name] for row in columns])) for name in lengths}


def row_generators(rows: Sequence[Sequence[int]], generator: torch.Generator) -> list[np.random.Generator]:
    """One generator a row of ids, from one draw and the ids: the order of the rows does not matter."""
    seed = int(torch.randint(1 << 62, (), generator=generator))
    return [numpy_generator(derive_seed(seed, ",".join(map(str, ids))), "tasks.row") for ids in rows]


def _padded(array: Int64Array, length: int, name: str) -> Int64Array:
    missing = length - len(array)
    if not missing:
        return array
    if name == "position_ids":
        return np.concatenate([array, np.arange(missing)])
    return np.concatenate([array, np.full(missing, _PADDING.get(name, 0), dtype=array.dtype)])
