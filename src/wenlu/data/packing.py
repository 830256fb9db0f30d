"""Cutting documents into windows of equal length so that every stored token is a target exactly once an epoch.

A document of tokens d[0..n-1], the end token last, has n slots: the input of slot k is d[k-1] (for k = 0 the token
before documents, ``TokenStore.context_id``), its label is d[k]. Slots of the shuffled documents stand one after another
and are cut every ``sequence_length`` slots; only the last window is padded. A part of a document inside a window is a
piece: attention and positions never cross it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
    """All slots of an epoch, in its order of documents, and the windows that they are cut into."""

    def __init__(
        self, store: TokenStore, *, sequence_length: int, seed: int, epoch: int, shuffle: bool = True, more: int = 0
    ) -> None:
        """Windows of ``sequence_length`` slots; ``more`` slots a document than it has tokens."""

        def order(what: str, count: int) -> Int64Array:
            return numpy_generator(seed, what, epoch).permutation(count) if shuffle else np.arange(count)

        self._store, self._length = store, sequence_length
        self._documents = order("data.documents", store.num_documents)
        lengths = np.diff(store.bounds)[self._documents] + more
        self._starts: Int64Array = np.cumsum(np.append(0, lengths))
        self._total = int(self._starts[-1])
        self._order = order("data.windows", -(-self._total // sequence_length))

    def __len__(self) -> int:
        return len(self._order)

    def _stretch(self, number: int) -> tuple[int, int]:
        """The slots first..stop of the window at this place of the epoch's order."""
        first = int(self._order[number]) * self._length
        return first, min(first + self._length, self._total)

    def _inside(self, first: int, stop: int) -> slice:
        """Which documents, in the epoch's order, have slots in first..stop."""
        begin = int(np.searchsorted(self._starts, first, side="right")) - 1
        return slice(begin, int(np.searchsorted(self._starts, stop)) if first < stop else begin)

    def _filled(self, first: int, stop: int, *, origin: int) -> Window:
        """Slots first..stop as one row, and padding behind them.

        Positions count from the later of the document's start and the slot ``origin``.
        """
        fills = (self._store.end_id, IGNORE_INDEX, 0, PADDING_DOCUMENT)
        row = Window(*(np.full(self._length, fill, dtype=np.int64) for fill in fills))
        row.position_ids[:] = np.arange(self._length) - (stop - first)
        slot, inside = first, self._inside(first, stop)
        for piece, number in enumerate(range(inside.start, inside.stop)):
            begin, end = int(self._starts[number]), int(self._starts[number + 1])
            offset, count = slot - begin, min(end, stop) - slot
            base = int(self._store.bounds[self._documents[number]]) + offset
            tokens = self._store.read(base - (offset > 0), base + count)
            target = slice(slot - first, slot - first + count)
            row.labels[target] = tokens[len(tokens) - count :]
            row.input_ids[target] = tokens[:count] if offset else np.append(self._store.context_id, tokens[:-1])
            row.position_ids[target] = np.arange(count) + (slot - max(begin, origin))
            row.document_ids[target] = piece
            slot += count
        return row


class PackedWindows(_Slots):
    """One epoch as shuffled windows for models that attend: each piece starts at position 0."""

    def window(self, number: int) -> Window:
        """The window at this place of the epoch's order; arrays of shape (sequence_length,)."""
        first, stop = self._stretch(number)
        return self._filled(first, stop, origin=first)

    def row(self, number: int) -> dict[str, Int64Array]:
        """The same by name."""
        return vars(self.window(number))

    def documents(self, number: int) -> list[list[int]]:
        """The numbers of the documents in the one row of this window."""
        return [self._documents[self._inside(*self._stretch(number))].tolist()]


class Piece(NamedTuple):
    """A part of one document: tokens ``first`` to ``stop`` of the store, without the end token.

    ``last`` says whether the document ends with it.
    """

    document: int
    first: int
    stop: int
    last: bool


class PieceWindows(_Slots):
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
        length = sequence_length - marks
        super().__init__(store, sequence_length=length, seed=seed, epoch=epoch, shuffle=shuffle, more=marks - 1)

    def pieces(self, number: int) -> list[Piece]:
        """The pieces of the window at this place of the epoch's order; none is empty."""
        first, stop = self._stretch(number)
        inside, bounds = self._inside(first, stop), self._store.bounds
        documents, starts = self._documents[inside], self._starts[inside]
        sizes = bounds[documents + 1] - bounds[documents] - 1
        low = np.maximum(first - starts - 1, 0)
        high = np.minimum(stop - starts - 1, sizes)
        columns = (documents, bounds[documents] + low, bounds[documents] + high, high == sizes)
        pieces = itertools.starmap(Piece, zip(*(column.tolist() for column in columns), strict=True))
        return [piece for piece in pieces if piece.first < piece.stop]

    def documents(self, number: int) -> list[list[int]]:
        """The numbers of the documents in the one row of this window."""
        return [[piece.document for piece in self.pieces(number)]]


class StreamWindows(_Slots):
    """One epoch as parallel tracks for recurrent models, whose state goes on from window to window.

    The slots are cut into ``num_tracks`` stretches of equal length; window t holds the t-th part of each. Positions
    count within the document, so a first slot with position 0 starts a document (reset the state), and one above 0
    continues the window before. A document that a track's border cuts starts anew on the next track.
    """

    def __init__(
        self, store: TokenStore, *, sequence_length: int, num_tracks: int, seed: int, epoch: int, shuffle: bool = True
    ) -> None:
        super().__init__(store, sequence_length=sequence_length, seed=seed, epoch=epoch, shuffle=shuffle)
        self._num_tracks = num_tracks
        self._track_length = -(-self._total // num_tracks)

    def __len__(self) -> int:
        return -(-self._track_length // self._length)

    def window(self, number: int) -> Window:
        """The t-th window of every track; arrays of shape (num_tracks, sequence_length)."""
        rows = [self._filled(first, stop, origin=origin) for origin, first, stop in self._stretches(number)]
        return Window(*(np.stack([vars(row)[name] for row in rows]) for name in vars(rows[0])))

    def row(self, number: int) -> dict[str, Int64Array]:
        """The same by name."""
        return vars(self.window(number))

    def documents(self, number: int) -> list[list[int]]:
        """The numbers of the documents in each row of this window."""
        return [self._documents[self._inside(first, stop)].tolist() for _, first, stop in self._stretches(number)]

    def _stretches(self, number: int) -> Iterator[tuple[int, int, int]]:
        """For each track where it begins, and the slots first..stop of its window with this number."""
        for track in range(self._num_tracks):
            origin = track * self._track_length
            end = min(origin + self._track_length, self._total)
            first = min(origin + number * self._length, end)
            yield origin, first, min(first + self._length, end)
