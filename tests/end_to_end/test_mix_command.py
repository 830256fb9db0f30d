"""``wenlu mix`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from wenlu.bundle import load_bundle, save_bundle
from wenlu.cli.main import main
from wenlu.core.publication import publish
from wenlu.data.documents import DataSettings
from wenlu.data.store import Store
from wenlu.data.tokens import build_store
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.models.mixture import Mixture
from wenlu.models.ngram import fit
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


def save(model: nn.Module, tokenizer: Tokenizer, path: Path) -> Path:
    publish(path, lambda directory: save_bundle(directory, model=model, tokenizer=tokenizer))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, an n-gram model and an LSTM of its tokenizer, and an LSTM of another one."""
    home = tmp_path_factory.mktemp("mix")
    lines = [f"第{number % 17}首。床前明月光，疑是地上霜。number {number} of {number % 5}" for number in range(80)]
    text = home / "poems.txt"
    text.write_text("\n".join(lines), encoding="utf-8")
    settings = DataSettings(paths=(str(text),), document="line", validation_fraction=0.3)
    kind = TokenizerSettings(kind="characters", vocab_size=100)
    store = build_store(home / "store", settings, tokenizer_settings=kind)
    tokenizer = store.tokenizer
    sizes = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id}
    save(fit(store.train, order=3, **sizes), tokenizer, home / "ngram")
    small = ModelSettings(kind="lstm", hidden_size=8, embedding_size=6)
    save(build_model(small, **sizes, sequence_length=16, seed=1), tokenizer, home / "lstm")
    other = Tokenizer.train(["another text"], kind)
    sizes = {"vocab_size": other.vocab_size, "end_id": other.end_id}
    save(build_model(small, **sizes, sequence_length=16), other, home / "stranger")
    return home


def test_two_models_become_one_that_is_better(home: Path) -> None:
    words = ("mix", home / "ngram", home / "lstm", "--data", home / "store", "-o", home / "mixed")
    done = wenlu(*words, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert sum(record["weights"]) == pytest.approx(1)
    assert record["losses"][2] <= min(record["losses"][:2]) + 1e-6
    store = Store.open(home / "store")
    assert record["documents"] == store.validation.num_documents
    assert record["tokens"] == store.validation.num_tokens
    bundle = load_bundle(home / "mixed")
    assert isinstance(bundle.model, Mixture)
    document = torch.from_numpy(store.validation.document(0).astype("int64"))
    inputs = torch.cat([torch.tensor([store.tokenizer.end_id]), document[:-1]])[None]
    first, second = (load_bundle(home / name).model(inputs).double().softmax(dim=-1) for name in ("ngram", "lstm"))
    expected = record["weights"][0] * first + record["weights"][1] * second
    torch.testing.assert_close(bundle.model(inputs).double().exp(), expected, atol=1e-6, rtol=1e-4)

    again = wenlu(*words)
    assert again.exit_code == 2
    negative = wenlu(*words[:-1], home / "other", "--max-tokens", "-1")
    assert negative.exit_code == 2 and "at least 1" in negative.stderr
    assert "mixed" in again.stderr
    table = wenlu(*words, "--replace", "--context", 8, "--max-tokens", 200)
    assert table.exit_code == 0, table.output
    assert "bits per byte" in table.stdout
    assert "200 tokens, windows of 8" in table.stdout


def test_models_of_different_tokenizers_are_refused(home: Path) -> None:
    refused = wenlu("mix", home / "ngram", home / "stranger", "--data", home / "store", "-o", home / "never")
    assert refused.exit_code == 2
    assert "different tokenizers" in refused.stderr
    assert not (home / "never").exists()


def test_a_store_without_validation_documents_is_refused(home: Path, tmp_path: Path) -> None:
    settings = DataSettings(paths=(str(home / "poems.txt"),), document="line", validation_fraction=0.0)
    build_store(tmp_path / "store", settings, tokenizer=Store.open(home / "store").tokenizer)
    refused = wenlu("mix", home / "ngram", home / "lstm", "--data", tmp_path / "store", "-o", tmp_path / "never")
    assert refused.exit_code == 2
    assert "validation" in refused.stderr
