"""The loader: a batch depends on its number alone, epochs are complete, threads change nothing."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from itertools import islice

import pytest
import torch

from wenlu.core.errors import DataError
from wenlu.core.reproducibility import derive_seed
from wenlu.data.loader import Layout, Loader
from wenlu.data.packing import IGNORE_INDEX, PackedWindows, StreamWindows
from wenlu.data.store import TokenStore

END = 0


def store(*lengths: int) -> TokenStore:
    documents, token = [], 1
    for length in lengths:
        documents.append([*range(token, token + length - 1), END])
        token += length
    return TokenStore.from_documents(documents, end_id=END, vocab_size=token)


def test_windows_by_hand() -> None:
    corpus = TokenStore.from_documents([[5, 6, 7, END], [8, END]], end_id=END, vocab_size=9)
    windows = PackedWindows(corpus, sequence_length=5, seed=1, epoch=0, shuffle=False)
    first, second = windows.window(0), windows.window(1)
    assert first.input_ids.tolist() == [END, 5, 6, 7, END]
    assert first.labels.tolist() == [5, 6, 7, END, 8]
    assert first.position_ids.tolist() == [0, 1, 2, 3, 0]
    assert first.document_ids.tolist() == [0, 0, 0, 0, 1]
    assert second.input_ids.tolist()[0] == 8
    assert second.labels.tolist() == [END, *[IGNORE_INDEX] * 4]
    assert second.position_ids.tolist()[0] == 0
    assert second.document_ids.tolist() == [0, -1, -1, -1, -1]


def test_a_start_token_stands_before_documents() -> None:
    corpus = TokenStore.from_documents([[5, 6, 7, END], [8, END]], end_id=END, context_id=9, vocab_size=10)
    windows = PackedWindows(corpus, sequence_length=6, seed=1, epoch=0, shuffle=False)
    assert windows.window(0).input_ids.tolist() == [9, 5, 6, 7, 9, 8]
    assert windows.window(0).labels.tolist() == [5, 6, 7, END, 8, END]


def test_streams_by_hand() -> None:
    corpus = TokenStore.from_documents([[5, 6, 7, END], [8, END], [9, END]], end_id=END, vocab_size=10)
    windows = StreamWindows(corpus, sequence_length=2, num_tracks=2, seed=1, epoch=0, shuffle=False)
    assert len(windows) == 2
    assert windows.window(0).labels.tolist() == [[5, 6], [8, END]]
    assert windows.window(1).labels.tolist() == [[7, END], [9, END]]
    assert windows.window(0).position_ids.tolist() == [[0, 1], [0, 1]]
    assert windows.window(1).position_ids.tolist() == [[2, 3], [0, 1]]  # track 0 goes on, track 1 starts anew


@pytest.mark.parametrize("layout", ["packed", "stream"])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_any_start_and_any_number_of_workers_give_the_same_batches(layout: Layout, num_workers: int) -> None:
    corpus = store(*[3, 17, 9, 1, 30, 2] * 5)

    def loader(workers: int) -> Loader:
        return Loader(corpus, sequence_length=8, batch_size=3, seed=7, layout=layout, num_workers=workers)

    reference = loader(0)
    expected = [reference.batch(number) for number in range(40)]
    for start in (0, 5, 33):
        batches = loader(num_workers).batches(start)
        for number, batch in enumerate(islice(batches, 6), start):
            for key, value in batch.items():
                assert value.dtype == torch.int64 and value.shape == (3, 8)
                assert torch.equal(value, reference.batch(number)[key])
        batches.close()  # type: ignore[attr-defined]
    assert not torch.equal(expected[0]["labels"], loader(0).batch(39)["labels"])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("wenlu-loader")]


@pytest.mark.parametrize("layout", ["packed", "stream"])
def test_each_epoch_has_every_token_once_and_its_own_order(layout: Layout) -> None:
    corpus = store(*range(1, 25))
    loader = Loader(corpus, sequence_length=7, batch_size=4, seed=3, layout=layout)
    rows = [row for number in range(200) for row in loader.batch(number)["labels"].tolist()]
    per_epoch = round(1 / (loader.epochs_at(1))) if layout == "stream" else None
    windows = -(-corpus.num_tokens // 7) if per_epoch is None else per_epoch * 4
    epochs = [rows[epoch * windows : (epoch + 1) * windows] for epoch in range(3)]
    for epoch in epochs:
        seen = Counter(label for row in epoch for label in row if label != IGNORE_INDEX)
        assert seen == Counter(corpus.tokens.tolist())
    assert epochs[0] != epochs[1] != epochs[2]


def test_another_seed_is_another_order() -> None:
    corpus = store(*[20] * 20)
    first, second = (Loader(corpus, sequence_length=8, batch_size=4, seed=seed).batch(0)["labels"] for seed in (1, 2))
    assert not torch.equal(first, second)
    assert derive_seed(1, "data.windows", 0) != derive_seed(1, "data.documents", 0)


def test_epochs_at() -> None:
    corpus = store(*[10] * 10)
    assert Loader(corpus, sequence_length=10, batch_size=5, seed=1).epochs_at(4) == 2.0
    assert Loader(corpus, sequence_length=10, batch_size=5, seed=1, layout="stream").epochs_at(4) == 2.0


@pytest.mark.parametrize("layout", ["packed", "stream"])
def test_less_text_than_a_batch_still_works_and_is_said(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="wenlu")
    loader = Loader(store(3), sequence_length=8, batch_size=4, seed=1, layout=layout)
    batch = loader.batch(0)
    assert batch["labels"].shape == (4, 8)
    assert set(batch["labels"].flatten().tolist()) == {1, 2, END, IGNORE_INDEX}
    assert ["smaller than one batch" in message for message in caplog.messages] == [True]


def test_no_text_at_all_is_refused() -> None:
    empty = TokenStore.from_documents([], end_id=END, vocab_size=3)
    with pytest.raises(DataError, match="no text to train on"):
        Loader(empty, sequence_length=8, batch_size=4, seed=1)


def test_a_loader_that_is_dropped_drops_its_store() -> None:
    """At once: an open file cannot be deleted on every system."""
    corpus = store(5, 6, 7)
    loader, seen = Loader(corpus, sequence_length=4, batch_size=1, seed=1), weakref.ref(corpus)
    loader.batch(0)
    gc.disable()
    try:
        del loader, corpus
        assert seen() is None
    finally:
        gc.enable()
