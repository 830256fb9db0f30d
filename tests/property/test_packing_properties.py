"""Packing for arbitrary documents and window lengths: every stored token is a target exactly once an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wenlu.data.packing import IGNORE_INDEX, PADDING_DOCUMENT, PackedWindows, StreamWindows, Window
from wenlu.data.store import TokenStore

END = 0
lengths_of_documents = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def numbered_store(lengths: list[int]) -> tuple[TokenStore, dict[int, tuple[int, int]]]:
    """A store in which every token but the ends is different, and where each one stands."""
    documents, places, token = [], {}, 1
    for number, length in enumerate(lengths):
        document = list(range(token, token + length - 1))
        places |= {token + index: (number, index) for index in range(length - 1)}
        documents.append([*document, END])
        token += length
    return TokenStore.from_documents(documents, end_id=END, vocab_size=token + 1), places


def targets_of(row: Window, lengths: list[int], places: dict[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """(document, index) of every target of a row, after checking the row slot by slot."""
    found = []
    piece = row.document_ids
    real = row.labels != IGNORE_INDEX
    assert (piece[real] >= 0).all() and (piece[~real] == PADDING_DOCUMENT).all()
    assert (np.diff(real.astype(int)) <= 0).all()  # padding only behind
    previous: tuple[int, int] | None = None
    for slot in np.flatnonzero(real):
        label, source = int(row.labels[slot]), int(row.input_ids[slot])
        begins = slot == 0 or piece[slot] != piece[slot - 1]
        assert piece[slot] == (0 if slot == 0 else piece[slot - 1] + begins)
        if not begins:
            assert source == row.labels[slot - 1]  # within a piece the input is the target before
            assert row.position_ids[slot] == row.position_ids[slot - 1] + 1
        if label != END:
            place = places[label]
        else:
            document = places[source][0] if source != END else None
            place = (document, lengths[document] - 1) if document is not None else (-1, 0)  # a document of no text
        if previous is not None and not begins and place[0] >= 0:
            assert place == (previous[0], previous[1] + 1)  # a window mixes no documents inside a piece
        if place[1] == 0:
            assert source == END and begins
        elif source != END:
            assert places[source] == (place[0], place[1] - 1)
        previous = place
        found.append(place)
    return found


def expected_targets(lengths: list[int]) -> Counter[tuple[int, int]]:
    places = [(number, index) for number, length in enumerate(lengths) for index in range(length) if length > 1]
    return Counter([*places, *((-1, 0) for length in lengths if length == 1)])


@settings(max_examples=200, deadline=None)
@given(lengths_of_documents, st.integers(1, 50), st.integers(0, 2**40), st.integers(0, 3), st.booleans())
def test_packed_windows(lengths: list[int], length: int, seed: int, epoch: int, shuffle: bool) -> None:
    store, places = numbered_store(lengths)
    windows = PackedWindows(store, sequence_length=length, seed=seed, epoch=epoch, shuffle=shuffle)
    found: Counter[tuple[int, int]] = Counter()
    padded = 0
    for number in range(len(windows)):
        row = windows.window(number)
        assert {len(array) for array in (row.input_ids, row.labels, row.position_ids, row.document_ids)} == {length}
        found.update(targets_of(row, lengths, places))
        starts = np.flatnonzero(np.diff(row.document_ids, prepend=-2))
        assert (row.position_ids[starts] == 0).all()
        padded += int((row.document_ids == PADDING_DOCUMENT).any())
    assert found == expected_targets(lengths)
    assert padded <= 1 and len(windows) == -(-sum(lengths) // length)


@settings(max_examples=200, deadline=None)
@given(lengths_of_documents, st.integers(1, 20), st.integers(1, 7), st.integers(0, 2**40))
def test_stream_windows(lengths: list[int], length: int, tracks: int, seed: int) -> None:
    store, places = numbered_store(lengths)
    windows = StreamWindows(store, sequence_length=length, num_tracks=tracks, seed=seed, epoch=0)
    found: Counter[tuple[int, int]] = Counter()
    before: list[tuple[int, int] | None] = [None] * tracks  # last label and its position on each track
    for number in range(len(windows)):
        block = windows.window(number)
        assert block.labels.shape == (tracks, length)
        for track in range(tracks):
            row = Window(
                block.input_ids[track], block.labels[track], block.position_ids[track], block.document_ids[track]
            )
            found.update(targets_of(row, lengths, places))
            if row.labels[0] == IGNORE_INDEX:
                continue
            last = before[track]
            if number == 0 or (last is not None and last[0] == END):
                assert row.position_ids[0] == 0  # nothing to continue
            else:
                assert last is not None
                assert (row.input_ids[0], row.position_ids[0]) == (last[0], last[1] + 1)
            real = np.flatnonzero(row.labels != IGNORE_INDEX)
            before[track] = (int(row.labels[real[-1]]), int(row.position_ids[real[-1]]))
    assert found == expected_targets(lengths)
