"""The batches of a run, numbered from 0: a batch depends on (store, settings, seed, its number) and on nothing else.

The exact position of a loader is therefore one number, and a resumed run continues with the next one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wenlu.core.errors import DataError
from wenlu.core.log import notice
from wenlu.data.packing import PackedWindows, StreamWindows, Window
from wenlu.data.store import TokenStore

Layout = Literal["packed", "stream"]
_EPOCHS_HELD = 2  # a batch at the border of two epochs needs both


class Loader:
    """Batches of input_ids, labels, position_ids, document_ids: int64 tensors of shape (batch_size, sequence_length).

    ``packed``: rows are independent windows; where an epoch ends inside a batch, the next epoch's first windows follow.
    ``stream``: row b of batch n + 1 continues row b of batch n (see StreamWindows); an epoch starts with a new batch.

    Raises:
        DataError: ``data.empty_split`` when there is no token at all.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        sequence_length: int,
        batch_size: int,
        seed: int,
        layout: Layout = "packed",
        num_workers: int = 0,
    ) -> None:
        if store.num_tokens == 0:
            raise DataError("data.empty_split")
        self._store = store
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._seed = seed
        self._layout = layout
        self._num_workers = num_workers
        self._lock = threading.Lock()
        self._epochs: dict[int, PackedWindows | StreamWindows] = {}
        self._per_epoch = len(self._epoch(0))
        slots = sequence_length * batch_size
        if store.num_tokens < slots:
            notice("data.smaller_than_batch", tokens=store.num_tokens, slots=slots)

    def epochs_at(self, number: int) -> float:
        """How many epochs lie before the batch with this number."""
        rows = self._batch_size if self._layout == "packed" else 1
        return number * rows / self._per_epoch

    def batch(self, number: int) -> dict[str, Tensor]:
        """The batch with this number."""
        windows = [self._epoch(epoch).window(place) for epoch, place in self._places(number)]
        return _tensors(windows, stack=self._layout == "packed")

    def documents(self, number: int) -> list[list[int]]:
        """For each row of this batch its documents by their numbers in the split; ``document_ids`` index them."""
        return [row for epoch, place in self._places(number) for row in self._epoch(epoch).documents(place)]

    def _places(self, number: int) -> list[tuple[int, int]]:
        """(epoch, place in its order) of the windows of a batch."""
        if self._layout == "stream":
            return [divmod(number, self._per_epoch)]
        rows = range(number * self._batch_size, (number + 1) * self._batch_size)
        return [divmod(row, self._per_epoch) for row in rows]

    def batches(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches from this number on, without end; worker threads prepare the next ones while one is used."""
        if self._num_workers == 0:
            yield from map(self.batch, count(start))
            return
        with ThreadPoolExecutor(self._num_workers, thread_name_prefix="wenlu-loader") as pool:
            numbers = count(start)
            waiting: deque[Future[dict[str, Tensor]]] = deque()
            try:
                while True:
                    while len(waiting) < 2 * self._num_workers:
                        waiting.append(pool.submit(self.batch, next(numbers)))
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _epoch(self, epoch: int) -> PackedWindows | StreamWindows:
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = self._make_epoch(epoch)
                for old in sorted(self._epochs)[:-_EPOCHS_HELD]:
                    if old != epoch:
                        del self._epochs[old]
            return self._epochs[epoch]

    def _make_epoch(self, epoch: int) -> PackedWindows | StreamWindows:
        if self._layout == "packed":
            return PackedWindows(self._store, sequence_length=self._sequence_length, seed=self._seed, epoch=epoch)
        return StreamWindows(
            self._store,
            sequence_length=self._sequence_length,
            num_tracks=self._batch_size,
            seed=self._seed,
            epoch=epoch,
        )


def _tensors(windows: list[Window], *, stack: bool) -> dict[str, Tensor]:
    columns = {
        "input_ids": [window.input_ids for window in windows],
        "labels": [window.labels for window in windows],
        "position_ids": [window.position_ids for window in windows],
        "document_ids": [window.document_ids for window in windows],
    }
    return {name: torch.from_numpy(np.stack(rows) if stack else rows[0]) for name, rows in columns.items()}
