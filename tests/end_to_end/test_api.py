"""The Python functions where the README's ten lines do not go."""

from __future__ import annotations

from pathlib import Path

import pytest

import wenlu
from tiny_training import tiny_texts
from wenlu.core.errors import DataError, RequestError
from wenlu.core.publication import verify
from wenlu.data.settings import DataSettings


@pytest.fixture(scope="module")
def novel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api") / "novel.txt"
    path.write_text("\n\n".join(tiny_texts(120)), encoding="utf-8")
    return path


def test_a_saved_tokenizer_is_published_with_its_digests(novel: Path, tmp_path: Path) -> None:
    tokenizer = wenlu.train_tokenizer([novel], vocab_size=400, output=tmp_path / "tokenizer")
    verify(tmp_path / "tokenizer")
    with pytest.raises(DataError, match="exists already"):
        wenlu.train_tokenizer(["nowhere.txt"], output=tmp_path / "tokenizer")  # before the texts are read
    store = wenlu.pack([novel], tmp_path / "store", tokenizer=tokenizer)
    assert wenlu.open_store(tmp_path / "store").fingerprint == store.fingerprint


def test_one_text_or_several(novel: Path, tmp_path: Path) -> None:
    store = wenlu.pack([novel], tmp_path / "store", settings=DataSettings(document="blank_line"))
    run = wenlu.train("ngram-5", data=store, output=tmp_path / "run", overrides=["model.order=3"])
    model = wenlu.load(run.path)
    assert isinstance(model.generate("", max_new_tokens=5, seed=1), str)
    assert len(model.complete("", max_new_tokens=5, num_sequences=3)) == 3
    with pytest.raises(RequestError, match="call complete"):
        model.generate("", max_new_tokens=5, num_sequences=3)


def test_text_that_is_all_held_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(tiny_texts(30)), encoding="utf-8")
    held_out = DataSettings(document="line", validation_fraction=0.5, test_fraction=0.499999999)
    with pytest.raises(DataError, match="no text to train on"):
        wenlu.pack([path], tmp_path / "store", settings=held_out)
    assert not (tmp_path / "store").exists()
