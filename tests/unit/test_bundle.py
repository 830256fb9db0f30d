"""Model directories: what is written is what is loaded, and what was changed is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny_tokenizers import tiny
from tiny_training import tiny_store
from wenlu.bundle import load_bundle, save_bundle
from wenlu.core.errors import CheckpointError
from wenlu.core.publication import publish
from wenlu.exchange import import_checkpoint
from wenlu.generation.settings import GenerationSettings
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A published model directory."""
    tokenizer = tiny_store(tmp_path / "corpus").tokenizer
    settings = ModelSettings(kind="qwen3", num_layers=1, hidden_size=8, num_heads=2)
    model = build_model(settings, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, sequence_length=8, seed=1)
    generation = GenerationSettings(max_new_tokens=7, temperature=0.5)

    def write(target: Path) -> None:
        save_bundle(
            target, model=model, tokenizer=tokenizer, generation=generation, provenance={"run": "here", "step": 3}
        )

    publish(tmp_path / "model", write)
    return tmp_path / "model"


def test_what_is_saved_is_loaded(directory: Path, tmp_path: Path) -> None:
    bundle = load_bundle(directory)
    tokenizer = tiny_store(tmp_path / "corpus").tokenizer
    model = build_model(
        ModelSettings(kind="qwen3", num_layers=1, hidden_size=8, num_heads=2),
        vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, sequence_length=8, seed=1,
    )  # fmt: skip
    loaded = bundle.model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())
    assert bundle.tokenizer.fingerprint == tokenizer.fingerprint
    assert (bundle.task, bundle.generation.max_new_tokens, bundle.generation.temperature) == ("causal_lm", 7, 0.5)
    toml = (directory / "wenlu.toml").read_text(encoding="utf-8")
    assert 'run = "here"' in toml and "step = 3" in toml


def test_a_flipped_bit_of_the_weights_is_refused(directory: Path) -> None:
    content = bytearray((directory / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_bundle(directory)
    assert caught.value.id == "core.digest_mismatch"


def test_an_edited_text_file_is_announced(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = directory / "generation_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.9"), encoding="utf-8")
    assert load_bundle(directory).generation.temperature == 0.9
    assert "generation_config.json" in caplog.text


def test_a_directory_without_a_manifest_is_unverified(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wenlu")
    (directory / "MANIFEST.json").unlink()
    (directory / "wenlu.toml").unlink()
    assert load_bundle(directory).task == "causal_lm"
    assert "unverified" in caplog.text


@pytest.mark.parametrize("content", ["task = 3\nformat = 1\n", 'task = "x"\nformat = 0\n', "not toml", "\ufeff"])
def test_a_wrong_wenlu_toml_is_refused(content: str, directory: Path) -> None:
    (directory / "wenlu.toml").write_text(content, encoding="utf-8")
    (directory / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        load_bundle(directory)
    assert caught.value.id == "bundle.bad_file"


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(directory: Path, tmp_path: Path) -> None:
    tiny("bpe").save(tmp_path / "words")
    with pytest.raises(CheckpointError, match=r"(?s)more tokens than the model.*embeddings"):
        import_checkpoint(directory, tmp_path / "imported", tokenizer=tmp_path / "words")
    assert not (tmp_path / "imported").exists()
    tiny("bpe").save(directory)
    with pytest.raises(CheckpointError, match=r"(?s)more tokens than the model.*embeddings"):
        load_bundle(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_a_pickle_in_place_of_a_model_is_refused_with_the_remedy(name: str, directory: Path) -> None:
    torch.save({"weight": torch.ones(2)}, directory / name)
    (directory / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)pickle.*save_pretrained"):
        load_bundle(directory / name if name == "model.pt" else directory)
