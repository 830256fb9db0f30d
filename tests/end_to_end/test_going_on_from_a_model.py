"""``model.start``: a run that goes on from a model that is there, with its kind, its sizes and its tokenizer."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from tiny_training import LSTM, SMALL, TRANSFORMER, tiny_texts
from wenlu.bundle import load_bundle
from wenlu.cli.main import main
from wenlu.core.errors import CheckpointError
from wenlu.core.publication import MANIFEST
from wenlu.models.transformer import Transformer
from wenlu.training.run import resume_run
from wenlu.training.verification import verify_run

COMMON = (*SMALL, "data.document=line", "evaluate.max_tokens=500", "train.save_every=4")
BERT = ("--preset", "bert-tiny", "model.num_layers=2", "model.num_heads=2", "model.hidden_size=16", "train.budget=none")


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


def train(*words: object) -> None:
    found = wenlu("train", *COMMON, *words)
    assert found.exit_code == 0, found.output


@pytest.fixture(params=[TRANSFORMER, BERT], ids=["causal", "masked"])
def first(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A finished run in ``first``, texts of two domains; the settings that name its task."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{number} {line}" for number, line in enumerate(tiny_texts(160))]
    (tmp_path / "old.txt").write_text("\n".join(lines[:80]), encoding="utf-8")
    (tmp_path / "new.txt").write_text("\n".join(lines[80:]), encoding="utf-8")
    train(*request.param, "tokenizer.kind=words", "tokenizer.min_frequency=1", "--data", "old.txt", "-o", "first")
    return ("--preset", "bert-tiny", "train.budget=none") if request.param is BERT else ()


def first_loss(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return next(line["loss"] for line in lines if "loss" in line and line.get("step") == 1)


def test_the_run_begins_where_the_model_is(first: tuple[str, ...], tmp_path: Path) -> None:
    train(*first, "model.start=first", "--data", "new.txt", "-o", "second")
    start, end = load_bundle("first"), load_bundle("second")
    assert end.tokenizer.fingerprint == start.tokenizer.fingerprint
    assert end.model.config == start.model.config
    assert any(not torch.equal(a, b) for a, b in zip(start.model.parameters(), end.model.parameters(), strict=True)), (
        "it was trained"
    )
    assert first_loss(Path("second")) < first_loss(Path("first")) - 0.05
    written = tomllib.loads(Path("second/run.toml").read_text(encoding="utf-8"))["model"]
    assert written == {"kind": written["kind"], "start": str((tmp_path / "first" / "final").absolute())}


def test_it_resumes_and_verifies(first: tuple[str, ...]) -> None:
    train(*first, "model.start=first", "--data", "new.txt", "-o", "second")
    assert verify_run(Path("second")).last == 12
    for path in (Path("second/final"), *Path("second/checkpoints").glob("step-*12")):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    again = wenlu("train", "--resume", "second")
    assert again.exit_code == 0, again.output
    assert verify_run(Path("second")).last == 12


def test_a_plan_knows_the_model(first: tuple[str, ...]) -> None:
    planned = wenlu("plan", *COMMON, *first, "model.start=first", "--data", "new.txt", "--json")
    assert planned.exit_code == 0, planned.output
    expected = sum(parameter.numel() for parameter in load_bundle("first").model.parameters())
    assert json.loads(planned.stdout)["parameters"]["total"] == expected


@pytest.mark.parametrize("word", ["model.hidden_size=32", "tokenizer.vocab_size=50", "train.bigram_steps=3"])
def test_what_the_model_has_decided_is_refused(word: str, first: tuple[str, ...]) -> None:
    refused = wenlu("train", *COMMON, *first, "model.start=first", word, "--data", "new.txt", "-o", "second")
    assert refused.exit_code == 2
    assert word.partition("=")[0] in refused.stderr and "model.start" in refused.stderr
    assert not Path("second").exists()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_other_starts_are_refused(language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WENLU_LANG", language)
    (tmp_path / "text.txt").write_text("\n".join(tiny_texts(80)), encoding="utf-8")
    train(
        "--preset",
        "lstm-base",
        *LSTM,
        "train.budget=none",
        "tokenizer.kind=characters",
        "--data",
        "text.txt",
        "-o",
        "lstm",
    )
    train(*TRANSFORMER, "tokenizer.kind=words", "--data", "text.txt", "-o", "first")
    packed = wenlu("data", "pack", "text.txt", "-o", "store", "--set", "tokenizer.kind=characters")
    assert packed.exit_code == 0, packed.output
    (tmp_path / "counted").mkdir()
    (tmp_path / "counted" / "config.json").write_text('{"model_type": "wenlu_ngram"}', encoding="utf-8")
    for start, data, said in (
        ("counted", "not-there.txt", "counted"),  # nothing is read before it is refused
        ("lstm", "not-there.txt", "lstm"),
        ("first", "store", "store"),
        ("nowhere", "text.txt", "nowhere"),
    ):
        refused = wenlu("train", *SMALL, f"model.start={start}", "--data", data, "-o", "second")
        assert refused.exit_code == 2 and said in refused.stderr, refused.output
        assert not Path("second").exists()


def test_what_a_preset_says_for_a_head_is_left_out_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without settings a preset has a rate for the head; the user who goes on from a tied model never said it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(tiny_texts(80)), encoding="utf-8")
    tied = (
        "model.tie_embeddings=true",
        "model.initialization=gpt2",
        "optimizer.head_rate=none",
        "train.bigram_steps=0",
    )
    train(*TRANSFORMER, *tied, "tokenizer.kind=words", "--data", "text.txt", "-o", "first")
    again = ("train", *COMMON, "model.start=first", "--data", "text.txt")
    found = wenlu(*again, "-o", "second")
    assert found.exit_code == 0, found.output
    assert "head_rate" not in tomllib.loads(Path("second/run.toml").read_text(encoding="utf-8"))["optimizer"]
    refused = wenlu(*again, "optimizer.head_rate=0.1", "-o", "third")
    assert refused.exit_code == 2 and "optimizer.head_rate" in refused.stderr, refused.output
    encoder = wenlu(*again, "task.name=masked_lm", "-o", "third")
    assert encoder.exit_code == 2 and "masked_lm" in encoder.stderr, encoder.output  # that first, not a rate
    assert not Path("third").exists()


def bare(run: str, directory: str, *, dropped: str, added: dict[str, torch.Tensor] | None = None) -> None:
    """A model directory as others write it: without these tensors of the final model of a run."""
    shutil.copytree(Path(run) / "final", directory)
    (Path(directory) / MANIFEST).unlink()
    weights = load_file(Path(directory) / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(dropped)} | (added or {})

    save_file(kept, Path(directory) / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("first", [BERT], ids=["masked"], indirect=True)
def test_a_head_for_words_that_is_missing_is_added(first: tuple[str, ...]) -> None:
    """As its kind has it, and it is said; an evaluation of the model without one is refused."""
    bare("first", "bare", dropped="cls.")
    refused = wenlu("evaluate", "bare", "--data", "new.txt")
    assert refused.exit_code == 2 and "bert" in refused.stderr, refused.output
    found = wenlu("train", *COMMON, *first, "model.start=bare", "--data", "new.txt", "-o", "second")
    assert found.exit_code == 0 and "transform" in found.stderr, found.output
    start, end = load_bundle("first").model, load_bundle("second").model
    assert isinstance(start, Transformer) and isinstance(end, Transformer)
    assert end.config == start.config and end.config.head_bias


@pytest.mark.parametrize("first", [TRANSFORMER], ids=["causal"], indirect=True)
def test_a_classifier_is_not_gone_on_from_as_a_decoder(first: tuple[str, ...]) -> None:
    bare("first", "bare", dropped="lm_head", added={"score.weight": torch.ones(2, 16)})
    refused = wenlu("train", *COMMON, *first, "model.start=bare", "--data", "nowhere.txt", "-o", "second")
    assert refused.exit_code == 2 and "qwen3; heads: sequence" in refused.stderr, refused.output
    assert not Path("second").exists()


@pytest.mark.parametrize("first", [TRANSFORMER], ids=["causal"], indirect=True)
def test_a_model_that_is_counted_goes_on_from_none(first: tuple[str, ...]) -> None:
    words = ("--preset", "ngram-5", "data.document=line", "model.start=first", "--data", "new.txt", "-o", "second")
    refused = wenlu("train", *words)
    assert refused.exit_code == 2 and "model.start" in refused.stderr, refused.output
    assert not Path("second").exists()


@pytest.mark.parametrize("first", [BERT], ids=["masked"], indirect=True)
def test_a_plan_counts_the_heads_of_the_task(first: tuple[str, ...]) -> None:
    task = ("--preset", "bert-tiny", "train.budget=none", "task.name=next_sentence", "model.start=first")
    planned = wenlu("plan", *COMMON, *task, "--data", "new.txt", "--json")
    assert planned.exit_code == 0, planned.output
    before = sum(parameter.numel() for parameter in load_bundle("first").model.parameters())
    pooler, pair = 16 * 16 + 16, 2 * 16 + 2
    assert json.loads(planned.stdout)["parameters"]["total"] == before + pooler + pair


@pytest.fixture
def second(first: tuple[str, ...]) -> Path:
    """A run that went on from the directory ``start``, cut back to its first two checkpoints."""
    shutil.copytree("first/final", "start")
    train(*first, "train.keep=9", "model.start=start", "--data", "new.txt", "-o", "second")
    for path in (Path("second/final"), Path("second/checkpoints/step-00000012")):
        shutil.rmtree(path)
    return Path("second")


def change_start() -> None:
    """Other weights, in a directory that verifies."""
    shutil.rmtree("start")
    bare("first", "start", dropped="-")
    weights = load_file("start/model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, "start/model.safetensors", {"format": "pt"})


def test_a_checkpoint_needs_no_start(second: Path) -> None:
    """Kind, sizes and tokenizer are in it; the run goes on as if the model it came from were still there."""
    before = (second / "log.jsonl").read_text(encoding="utf-8")
    settings = (second / "run.toml").read_text(encoding="utf-8")
    shutil.rmtree("start")
    again = wenlu("train", "--resume", second)
    assert again.exit_code == 0, again.output
    assert (second / "run.toml").read_text(encoding="utf-8") == settings
    digests = [
        [line["digest"] for line in map(json.loads, text.splitlines()) if line["event"] == "checkpoint"][-1]
        for text in (before, (second / "log.jsonl").read_text(encoding="utf-8"))
    ]
    assert digests[0] == digests[1]
    assert verify_run(second).last == 12


@pytest.mark.parametrize("language", ["en", "zh"])
def test_first_weights_are_made_again_only_from_the_same_start(
    language: str, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    replay = ("train", "--resume", second, "--replay", "1")
    assert wenlu(*replay).exit_code == 0
    change_start()
    assert wenlu(*replay, "--json").exit_code == CheckpointError.exit_code
    for path in sorted((second / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(path)
    with pytest.raises(CheckpointError) as error:
        verify_run(second)
    assert error.value.id == "training.start_changed" and "start" in str(error.value)
    shutil.rmtree(second / "checkpoints")
    for id in ("training.start_changed", "training.start_lost"):
        with pytest.raises(CheckpointError) as error:
            resume_run(second)
        assert error.value.id == id
        shutil.rmtree("start", ignore_errors=True)
