"""The batches of a run, numbered from 0: a batch depends on (store, settings, seed, its number) and on nothing else.

The exact position of a loader is therefore one number, and a resumed run continues with the next one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import count
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from wenlu.core.errors import DataError
from wenlu.core.log import notice
from wenlu.data.packing import PackedWindows, StreamWindows
from wenlu.data.store import Int64Array, TokenStore

Layout = Literal["packed", "stream"]
_EPOCHS_HELD = 2  # a batch at the border of two epochs needs both


class Epoch(Protocol):
    """One epoch of a run; the same number always gives the same row."""

    def __len__(self) -> int: ...

    def row(self, number: int) -> Mapping[str, Int64Array]:
        """Arrays by name, of the same shapes in every row."""

    def documents(self, number: int) -> list[list[int]]:
        """The numbers of the documents in each row of a batch that this is, or is a part of."""


@dataclass(eq=False)
class Loader:
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
        self._lock = threading.Lock()
        self._epochs: dict[int, Epoch] = {}
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

    def batches(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches from this number on, without end; worker threads prepare the next ones while one is used."""
        if self.num_workers == 0:
            yield from map(self.batch, count(start))
            return
        with ThreadPoolExecutor(self.num_workers, thread_name_prefix="wenlu-loader") as pool:
            numbers = count(start)
            waiting: deque[Future[dict[str, Tensor]]] = deque()
            try:
                while True:
                    while len(waiting) < 2 * self.num_workers:
                        waiting.append(pool.submit(self.batch, next(numbers)))
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _epoch(self, epoch: int) -> Epoch:
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = (self.make_epoch or self._windows)(epoch)
                for old in sorted(self._epochs)[:-_EPOCHS_HELD]:
                    if old != epoch:
                        del self._epochs[old]
            return self._epochs[epoch]

    def _windows(self, epoch: int) -> Epoch:
        if self.layout == "packed":
            return PackedWindows(self.store, sequence_length=self.sequence_length, seed=self.seed, epoch=epoch)
        return StreamWindows(
            self.store, sequence_length=self.sequence_length, num_tracks=self.batch_size, seed=self.seed, epoch=epoch
        )
