"""The batches of a run, numbered from 0: a batch depends on (store, settings, seed, its number) and on nothing else.

The exact position of a loader is therefore one number, and a resumed run continues with the next one.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import count
from typing import Generic, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from wenlu.core.errors import DataError
from wenlu.core.log import notice
from wenlu.core.reproducibility import derive_seed, numpy_generator
from wenlu.data.ordered import in_order
from wenlu.data.packing import PackedWindows, StreamWindows
from wenlu.data.store import Int64Array, TokenStore

Layout = Literal["packed", "stream"]
FeaturesT = TypeVar("FeaturesT")
EpochT = TypeVar("EpochT")
_EPOCHS_HELD = 2  # a batch at the border of two epochs needs both
_POOL = 32  # batches whose rows are sorted by length together: fewer leave more padding, more make batches less random


class Epoch(Protocol):
    """One epoch of a run; the same number always gives the same row."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> Mapping[str, Int64Array]:
        """Arrays by name, of the same shapes in every row."""

    def documents(self, number: int) -> list[list[int]]:
        """The numbers of the documents in each row of a batch that this is, or is a part of."""


class Batches(ABC):
    """Micro-batches by number, without end; worker threads prepare the next ones while one is used."""

    num_workers: int

    @abstractmethod
    def batch(self, number: int) -> dict[str, Tensor]:
        """The batch with this number."""

    @abstractmethod
    def epochs_at(self, number: int) -> float:
        """How many epochs lie before the batch with this number."""

    @abstractmethod
    def documents(self, number: int) -> list[list[int]]:
        """For each row of this batch what it is made of, by numbers in the split."""

    def batches(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches from this number on."""
        ahead = 2 * self.num_workers
        return in_order(self.batch, count(start), num_workers=self.num_workers, num_ahead=ahead, name="wenlu-loader")


def _held(make: Callable[[int], EpochT]) -> Callable[[int], EpochT]:
    """``make``, with the last epochs that it gave at hand; of several threads that ask, one makes, the others wait.

    A method is held weakly: its object holds what is given back, and a cycle would keep the store open after it.
    """
    found = weakref.WeakMethod(make) if inspect.ismethod(make) else lambda: make
    lock = threading.Lock()

    @functools.lru_cache(_EPOCHS_HELD)
    def cached(number: int) -> EpochT:
        return cast(Callable[[int], EpochT], found())(number)

    def epoch(number: int) -> EpochT:
        with lock:
            return cached(number)

    return epoch


@dataclass(eq=False)
class Loader(Batches):
    """Batches of input_ids, labels, position_ids, document_ids: int64 tensors of shape (batch_size, sequence_length).

    ``packed``: rows are independent windows; where an epoch ends inside a batch, the next epoch's first windows follow.
    ``stream``: row b of batch n + 1 continues row b of batch n (see StreamWindows); an epoch starts with a new batch.
    With ``make_epoch`` rows are what an objective makes of the corpus, under the names that it gives, instead of packed
    windows; all its epochs have the same number of rows.

    Raises:
        DataError: ``data.empty_split`` when there is no token at all.
    """

    store: TokenStore
    _: KW_ONLY
    sequence_length: int
    batch_size: int
    seed: int
    layout: Layout = "packed"
    num_workers: int = 0
    make_epoch: Callable[[int], Epoch] | None = None

    def __post_init__(self) -> None:
        if self.store.num_tokens == 0:
            raise DataError("data.empty_split")
        self._epoch = _held(self.make_epoch or self._windows)
        self._per_epoch = len(self._epoch(0))
        slots = self.sequence_length * self.batch_size
        if self.store.num_tokens < slots:
            notice("data.smaller_than_batch", tokens=self.store.num_tokens, slots=slots)

    def epochs_at(self, number: int) -> float:
        """How many epochs lie before the batch with this number."""
        rows = self.batch_size if self.layout == "packed" else 1
        return number * rows / self._per_epoch

    def batch(self, number: int) -> dict[str, Tensor]:
        """The batch with this number."""
        rows = [self._epoch(epoch).row(place) for epoch, place in self._places(number)]
        if self.layout == "stream":
            return {name: torch.from_numpy(column) for name, column in rows[0].items()}
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}

    def documents(self, number: int) -> list[list[int]]:
        """For each row of this batch its documents by their numbers in the split; ``document_ids`` index them."""
        return [row for epoch, place in self._places(number) for row in self._epoch(epoch).documents(place)]

    def _places(self, number: int) -> list[tuple[int, int]]:
        """(epoch, place in its order) of the windows of a batch."""
        if self.layout == "stream":
            return [divmod(number, self._per_epoch)]
        rows = range(number * self.batch_size, (number + 1) * self.batch_size)
        return [divmod(row, self._per_epoch) for row in rows]

    def _windows(self, epoch: int) -> Epoch:
        length, seed = self.sequence_length, self.seed
        if self.layout == "packed":
            return PackedWindows(self.store, sequence_length=length, seed=seed, epoch=epoch)
        return StreamWindows(self.store, sequence_length=length, num_tracks=self.batch_size, seed=seed, epoch=epoch)


@dataclass(eq=False)
class ExampleLoader(Batches, Generic[FeaturesT]):
    """Every epoch reads each row once, in another order; its last batch may have fewer rows.

    ``lengths`` are those of the rows, ``owners`` the numbers of the examples that they are made of. Whatever
    ``collate`` draws comes from a generator of the batch's own.

    Raises:
        DataError: ``data.no_examples``.
    """

    rows: Sequence[FeaturesT]
    lengths: Sequence[int]
    owners: Sequence[int]
    collate: Callable[[Sequence[FeaturesT], torch.Generator], dict[str, Tensor]]
    _: KW_ONLY
    batch_size: int
    seed: int
    num_workers: int = 0

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError("data.no_examples")
        self._order = _held(self._shuffled)
        self._per_epoch = -(-len(self.rows) // self.batch_size)

    def epochs_at(self, number: int) -> float:
        return number / self._per_epoch

    def batch(self, number: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"data.examples {number}"))
        return self.collate([self.rows[row] for row in self._numbers(number)], generator)

    def documents(self, number: int) -> list[list[int]]:
        return [[self.owners[row]] for row in self._numbers(number)]

    def _numbers(self, number: int) -> list[int]:
        """The rows of a batch."""
        epoch, place = divmod(number, self._per_epoch)
        return self._order(epoch)[place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch: rows in a random order, sorted by length in pools; then the batches, shuffled."""
        generator = numpy_generator(self.seed, "data.examples", epoch)
        order = generator.permutation(len(self.rows))
        lengths, size = np.asarray(self.lengths)[order], self.batch_size
        pools = np.arange(len(order)) // (_POOL * size)
        order = order[np.lexsort((lengths, pools))]
        batches = [order[first : first + size].tolist() for first in range(0, len(order), size)]
        return [batches[number] for number in generator.permutation(len(batches))]
