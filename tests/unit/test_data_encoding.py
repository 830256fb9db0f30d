"""The fast encoder: never believed without a proof, never the cause of another store."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promises import Figure
from skips import needs_test_data
from tiny_tokenizers import KINDS, corpus, tiny
from wenlu.data import encoding
from wenlu.data.settings import DataSettings, EncoderName
from wenlu.data.tokens import Store, build_store, corpus_key
from wenlu.tokenization import fast
from wenlu.tokenization.fast import FastEncoder, FastEncoderError
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings

DOCUMENTS = 300
Pack = Callable[[EncoderName, int], Store]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of one to eight sentences, some with the strings of special tokens."""
    draw = random.Random(5)
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(DOCUMENTS):
            text = f"{number} " + "\n".join(draw.choices([*corpus(), *fast.DIFFICULT[:5]], k=draw.randint(1, 8)))
            file.write(json.dumps({"text": text}) + "\n")
    return path


@pytest.fixture(scope="module")
def pack(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[EncoderName, int], Store]:
    """Packs the texts with an encoder."""

    def run(encoder: EncoderName, workers: int) -> Store:
        target = tmp_path_factory.mktemp("stores") / "store"
        settings = DataSettings(paths=(str(texts),), test_fraction=0.1, encoder=encoder)
        return build_store(target, settings, tokenizer=tiny("bpe"), workers=workers)

    return run


@pytest.fixture(scope="module")
def reference(pack: Pack) -> Store:
    return pack("reference", 1)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "gigatoken" in record.getMessage()]


class Liar:
    """The library, but for documents that satisfy ``about`` it leaves out the last id, or raises."""

    about: Callable[[bytes], bool]
    raises: BaseException | None = None

    def __init__(self, backend: fast._Library) -> None:
        self._backend = backend

    def encode_batch_padded(
        self, inputs: list[bytes], pad_id: int, *, parallel: bool
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        matrix, lengths = self._backend.encode_batch_padded(inputs, pad_id, parallel=parallel)
        wrong = [type(self).about(text) for text in inputs]
        if self.raises is not None and any(wrong):
            raise self.raises
        return matrix, np.asarray(lengths) - np.array(wrong)


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> type[Liar]:
    honest = FastEncoder._load
    made = type("Made", (Liar,), {"about": staticmethod(lambda text: False)})
    monkeypatch.setattr(FastEncoder, "_load", lambda self: made(honest(self)))
    return made


@pytest.mark.promise("T17")
@pytest.mark.parametrize("workers", [1, 3])
def test_the_store_is_the_same(
    pack: Pack, reference: Store, workers: int, caplog: pytest.LogCaptureFixture, figure: Figure
) -> None:
    caplog.set_level(logging.INFO)
    store = pack("fast", workers)
    assert len(said(caplog)) == 1 and "the same ids" in said(caplog)[0]
    names = [path.relative_to(store.path) for path in store.path.rglob("*") if path.is_file()]
    assert all((store.path / name).read_bytes() == (reference.path / name).read_bytes() for name in names)
    figure(
        f"{DOCUMENTS} documents, fast encoder, {workers} workers: {len(names)} files byte-identical to the reference's"
    )


def test_the_cache_does_not_ask_which_encoder(texts: Path) -> None:
    keys = {
        corpus_key(DataSettings(paths=(str(texts),), encoder=encoder), None, TokenizerSettings())
        for encoder in ("auto", "reference", "fast")
    }
    assert len(keys) == 1


def test_small_texts_are_left_to_the_reference(
    pack: Pack, reference: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert pack("auto", 1).fingerprint == reference.fingerprint
    assert said(caplog) == []
    monkeypatch.setattr(encoding, "FAST_FROM_BYTES", 1000)
    assert pack("auto", 1).fingerprint == reference.fingerprint
    assert len(said(caplog)) == 1


def test_without_the_library(
    pack: Pack, reference: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert pack("fast", 1).fingerprint == reference.fingerprint
    assert len(said(caplog)) == 1 and "wenlu[data]" in said(caplog)[0]


def test_the_proof_fails(pack: Pack, reference: Store, liar: type[Liar], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    liar.about = staticmethod(lambda text: text == fast.DIFFICULT[4].encode())
    assert pack("fast", 1).fingerprint == reference.fingerprint
    assert len(said(caplog)) == 1 and "other ids" in said(caplog)[0] and "u3000" in said(caplog)[0]


@pytest.mark.parametrize(
    "error", [None, RuntimeError("out of luck"), type("PanicException", (BaseException,), {})("at the disco")]
)
def test_it_fails_on_the_way(
    pack: Pack,
    reference: Store,
    liar: type[Liar],
    error: BaseException | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For one document that the proof has not seen: the hundredth is compared, an error is noticed anywhere."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(encoding, "PROVED_PER_LANGUAGE", 1)
    number = encoding.COMPARED_EVERY if error is None else 123
    text = tiny("bpe").decode(reference.train.document(number)[:-1].tolist()).encode()
    liar.raises = error
    liar.about = staticmethod(lambda given: given == text)
    assert pack("fast", 2).fingerprint == reference.fingerprint
    reasons = [text for text in said(caplog) if "given up" in text]
    assert len(reasons) == 1 and ("other ids" if error is None else str(error)) in reasons[0]


def test_an_interrupt_is_no_failure(pack: Pack, liar: type[Liar]) -> None:
    liar.raises = KeyboardInterrupt()
    liar.about = staticmethod(lambda text: True)
    with pytest.raises(KeyboardInterrupt):
        pack("fast", 1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bpe"])
def test_only_byte_level_tokenizers(kind: str) -> None:
    with pytest.raises(FastEncoderError, match=kind):
        FastEncoder(tiny(kind))  # type: ignore[arg-type]


def test_what_the_library_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    honest = FastEncoder._load
    monkeypatch.setattr(FastEncoder, "_load", lambda self: (loads.append(1), honest(self))[1])
    monkeypatch.setattr(fast, "_CACHE_BYTES", 10_000)
    encoder = FastEncoder(tiny("bpe"))
    for number in range(60):
        batch = [f"{number} {text}".encode() for text in corpus()[:7]]
        encoder.compare(batch, encoder.encode(batch))
    size = 60 * sum(len(text.encode()) + 3 for text in corpus()[:7])
    assert size // 14_000 <= len(loads) <= size // 10_000 + 1


@functools.cache
def shared_encoder() -> FastEncoder:
    return FastEncoder(tiny("bpe"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=40))
def test_any_texts(made: list[str]) -> None:
    assert shared_encoder().prove(made) == len(made) + len(fast.DIFFICULT)


def test_long_runs() -> None:
    for text in ("a" * 100_000, " " * 600_000 + "b", "的" * 100_000, "😀" * 50_000):
        shared_encoder().prove([text])


@pytest.mark.parametrize(
    "settings_", [TokenizerSettings(vocab_size=420), TokenizerSettings(vocab_size=420, lowercase=True)]
)
def test_round_trips_of_a_batch_are_those_of_each(settings_: TokenizerSettings) -> None:
    tokenizer = tiny("bpe", settings_)
    rows = [np.array(tokenizer.encode(text), dtype=np.uint32) for text in corpus()]
    rows[3] = rows[3][:-1]
    rows[5] = np.append(rows[5], np.uint32(tokenizer.end_id))  # special: not shown
    rows[6] = np.array([], dtype=np.uint32)
    raw = [text.encode() for text in corpus()]
    expected = [tokenizer.round_trips(text, row.tolist()) for text, row in zip(corpus(), rows, strict=True)]
    assert tokenizer.round_trips_batch(raw, rows) == expected
    assert 0 < sum(expected) < len(expected) - 1
    assert tokenizer.round_trips_batch([], []) == []
    # the bytes of both texts in order, but divided elsewhere
    moved = [np.append(rows[0], rows[1][:1]), rows[1][1:]]
    assert tokenizer.round_trips_batch(raw[:2], moved) == [False, False]


def test_all_documents_of_the_large_sets() -> None:
    folder = needs_test_data("lm")
    documents = []
    for path in sorted(folder.glob("*/*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            documents += [json.loads(line)["text"] for line in file]
    tokenizer = Tokenizer.train(documents[::4], TokenizerSettings(vocab_size=4096, max_training_bytes=2**21))
    assert FastEncoder(tokenizer).prove(documents) > 20_000
