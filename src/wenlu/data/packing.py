"""Cutting documents into windows of equal length so that every stored token is a target exactly once an epoch.

A document of tokens d[0..n-1], the end token last, has n slots: the input of slot k is d[k-1] (for k = 0 the token
before documents, ``TokenStore.context_id``), its label is d[k]. Slots of the shuffled documents stand one after another
and are cut every ``sequence_length`` slots; only the last window is padded. A part of a document inside a window is a
piece: attention and positions never cross it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wenlu.core.errors import SettingsError
from wenlu.core.reproducibility import numpy_generator
from wenlu.data.store import Int64Array, TokenStore

IGNORE_INDEX = -100  # label of a slot without target; equals wenlu.tasks' and torch's own
PADDING_DOCUMENT = -1  # document id of padding slots: a document of its own that sees itself


@dataclass(frozen=True)
class Window:
    """Slots as int64 arrays of one shape: (sequence_length,) packed, (num_tracks, sequence_length) in streams."""

    input_ids: Int64Array
    labels: Int64Array
    position_ids: Int64Array
    document_ids: Int64Array


class _Slots:
    """All slots of an epoch, in its order of documents."""

    def __init__(self, store: TokenStore, *, seed: int, epoch: int, shuffle: bool, more: int = 0) -> None:
        """``more`` slots a document than it has tokens."""
        self.store = store
        count = store.num_documents
        self.order: Int64Array = np.arange(count, dtype=np.int64)
        if shuffle:
            self.order = numpy_generator(seed, "data.documents", epoch).permutation(count)
        lengths = np.diff(store.bounds)[self.order] + more
        self.starts: Int64Array = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        self.total = int(self.starts[-1])

    def documents(self, first: int, stop: int) -> list[int]:
        """The numbers of the documents in slots first..stop, in order."""
        begin = int(np.searchsorted(self.starts, first, side="right")) - 1
        return [int(number) for number in self.order[begin : int(np.searchsorted(self.starts, stop))]]

    def fill(self, row: Window, first: int, stop: int, *, origin: int) -> None:
        """Write slots first..stop into one row of arrays, and padding behind them.

        Positions count from the later of the document's start and the slot ``origin``.
        """
        column, piece, slot = 0, 0, first
        number = int(np.searchsorted(self.starts, first, side="right")) - 1
        while slot < stop:
            begin, end = int(self.starts[number]), int(self.starts[number + 1])
            offset, count = slot - begin, min(end, stop) - slot
            base = int(self.store.bounds[self.order[number]]) + offset
            tokens = self.store.read(base - (offset > 0), base + count)
            target = slice(column, column + count)
            row.labels[target] = tokens[len(tokens) - count :]
            row.input_ids[target] = tokens[:count] if offset else np.append(self.store.context_id, tokens[:-1])
            row.position_ids[target] = np.arange(count) + (slot - max(begin, origin))
            row.document_ids[target] = piece
            column, slot, piece, number = column + count, slot + count, piece + 1, number + 1
        row.input_ids[column:] = self.store.end_id
        row.labels[column:] = IGNORE_INDEX
        row.position_ids[column:] = np.arange(len(row.labels) - column)
        row.document_ids[column:] = PADDING_DOCUMENT


class PackedWindows:
    """One epoch as shuffled windows for models that attend: each piece starts at position 0."""

    def __init__(self, store: TokenStore, *, sequence_length: int, seed: int, epoch: int, shuffle: bool = True) -> None:
        self._slots = _Slots(store, seed=seed, epoch=epoch, shuffle=shuffle)
        self._length = sequence_length
        count = -(-self._slots.total // sequence_length)
        self._order: Int64Array = np.arange(count, dtype=np.int64)
        if shuffle:
            self._order = numpy_generator(seed, "data.windows", epoch).permutation(count)

    def __len__(self) -> int:
        return len(self._order)

    def window(self, number: int) -> Window:
        """The window at this place of the epoch's order; arrays of shape (sequence_length,)."""
        first = int(self._order[number]) * self._length
        window = _empty((self._length,))
        self._slots.fill(window, first, min(first + self._length, self._slots.total), origin=first)
        return window

    def row(self, number: int) -> dict[str, Int64Array]:
        """The same by name."""
        return vars(self.window(number))

    def documents(self, number: int) -> list[list[int]]:
        """The numbers of the documents in the one row of this window."""
        first = int(self._order[number]) * self._length
        return [self._slots.documents(first, min(first + self._length, self._slots.total))]


class Piece(NamedTuple):
    """A part of one document: tokens ``first`` to ``stop`` of the store, without the end token.

    ``last`` says whether the document ends with it.
    """

    document: int
    first: int
    stop: int
    last: bool


class PieceWindows:
    """One epoch as shuffled windows of pieces that get marks of their own, as BERT's [CLS] piece [SEP].

    A document of n tokens, the end token among them, stands for n - 1 + ``marks`` slots: the first mark, the text, the
    others. Windows are cut every ``sequence_length - marks`` slots, so that every token of the text is in one piece and
    the pieces of a window, each with all its marks, fill ``sequence_length`` columns but for ``marks`` at most, in
    windows that end where a document does.
    """

    def __init__(
        self, store: TokenStore, *, sequence_length: int, marks: int, seed: int, epoch: int, shuffle: bool = True
    ) -> None:
        """Raises SettingsError, ``tasks.window``, when no token fits beside the marks."""
        if sequence_length <= marks:
            raise SettingsError("tasks.window", length=sequence_length)
        self._slots = _Slots(store, seed=seed, epoch=epoch, shuffle=shuffle, more=marks - 1)
        self._length = sequence_length - marks
        count = -(-self._slots.total // self._length)
        self._order: Int64Array = np.arange(count, dtype=np.int64)
        if shuffle:
            self._order = numpy_generator(seed, "data.windows", epoch).permutation(count)

    def __len__(self) -> int:
        return len(self._order)

    def pieces(self, number: int) -> list[Piece]:
        """The pieces of the window at this place of the epoch's order; none is empty."""
        slots, bounds = self._slots, self._slots.store.bounds
        first = int(self._order[number]) * self._length
        stop = min(first + self._length, slots.total)
        begin, end = np.searchsorted(slots.starts, first, side="right") - 1, np.searchsorted(slots.starts, stop)
        documents, starts = slots.order[begin:end], slots.starts[begin:end]
        sizes = bounds[documents + 1] - bounds[documents] - 1
        low = np.maximum(first - starts - 1, 0)
        high = np.minimum(stop - starts - 1, sizes)
        columns = (documents, bounds[documents] + low, bounds[documents] + high, high == sizes)
        pieces = itertools.starmap(Piece, zip(*(column.tolist() for column in columns), strict=True))
        return [piece for piece in pieces if piece.first < piece.stop]

    def documents(self, number: int) -> list[list[int]]:
        """The numbers of the documents in the one row of this window."""
        return [[piece.document for piece in self.pieces(number)]]


class StreamWindows:
    """One epoch as parallel tracks for recurrent models, whose state goes on from window to window.

    The slots are cut into ``num_tracks`` stretches of equal length; window t holds the t-th part of each. Positions
    count within the document, so a first slot with position 0 starts a document (reset the state), and one above 0
    continues the window before. A document that a track's border cuts starts anew on the next track.
    """

    def __init__(
        self, store: TokenStore, *, sequence_length: int, num_tracks: int, seed: int, epoch: int, shuffle: bool = True
    ) -> None:
        self._slots = _Slots(store, seed=seed, epoch=epoch, shuffle=shuffle)
        self._length = sequence_length
        self._num_tracks = num_tracks
        self._track_length = -(-self._slots.total // num_tracks)

    def __len__(self) -> int:
        return -(-self._track_length // self._length)

    def window(self, number: int) -> Window:
        """The t-th window of every track; arrays of shape (num_tracks, sequence_length)."""
        window = _empty((self._num_tracks, self._length))
        for track in range(self._num_tracks):
            origin, first, stop = self._stretch(track, number)
            row = Window(
                window.input_ids[track], window.labels[track], window.position_ids[track], window.document_ids[track]
            )
            self._slots.fill(row, first, stop, origin=origin)
        return window

    def row(self, number: int) -> dict[str, Int64Array]:
        """The same by name."""
        return vars(self.window(number))

    def documents(self, number: int) -> list[list[int]]:
        """The numbers of the documents in each row of this window."""
        stretches = [self._stretch(track, number) for track in range(self._num_tracks)]
        return [self._slots.documents(first, stop) if first < stop else [] for _, first, stop in stretches]

    def _stretch(self, track: int, number: int) -> tuple[int, int, int]:
        """Where the track begins, and the slots first..stop of its window with this number."""
        origin = track * self._track_length
        end = min(origin + self._track_length, self._slots.total)
        first = min(origin + number * self._length, end)
        return origin, first, min(first + self._length, end)


def _empty(shape: tuple[int, ...]) -> Window:
    return Window(*(np.empty(shape, dtype=np.int64) for _ in range(4)))
