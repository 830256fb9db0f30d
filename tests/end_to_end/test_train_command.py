"""``wenlu train`` as a user types it: from text files to a finished run, and every mistake with its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tiny_training import SMALL, TRANSFORMER, tiny_texts
from wenlu.cli.main import main
from wenlu.core.runs import Run

TINY = [*TRANSFORMER, *SMALL, "tokenizer.kind=characters", "data.document=line", "train.save_every=5"]


def wenlu(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="wenlu")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"{number} {line}" for number, line in enumerate(tiny_texts(80))), encoding="utf-8")
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings file, so that no preset is taken."""
    path = tmp_path / "settings.toml"
    path.write_text("[evaluate]\nmax_tokens = 500\n", encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path, text: Path, settings: Path) -> Path:
    found = wenlu("train", settings, *TINY, "--data", text, "-o", tmp_path / "run")
    assert found.exit_code == 0, found.output
    return tmp_path / "run"


def test_train_evaluate_log_and_verify(run: Path, text: Path) -> None:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {record["event"] for record in log} == {"step", "evaluation", "checkpoint", "final_evaluation"}
    final = next(record for record in log if record["event"] == "final_evaluation")
    assert 0 < final["bits_per_byte"] < 8
    content = (run / "run.toml").read_text(encoding="utf-8")
    assert "# command line" in content and "# settings.toml:2" in content and "# default" in content
    assert str(text) in content

    verified = wenlu("train", "--resume", run, "--verify", "--json")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["equal"] is True
    again = wenlu("train", "--resume", run)
    assert again.exit_code == 0
    assert "nothing to resume" in again.stderr


def test_json_says_how_it_ended(tmp_path: Path, text: Path, settings: Path) -> None:
    found = wenlu("train", settings, *TINY, "--data", text, "-o", tmp_path / "run", "--json")
    record = json.loads(found.stdout)
    assert (record["state"], record["step"]) == ("finished", 12)
    assert record["evaluation"]["loss"] > 0
    assert all(json.loads(line) for line in found.stderr.splitlines())


def test_a_packed_store_trains_and_knows_its_own_settings(tmp_path: Path, text: Path, settings: Path) -> None:
    assert wenlu("data", "pack", text, "-o", tmp_path / "store", "--kind", "characters").exit_code == 0
    model = [*TRANSFORMER, *SMALL]
    found = wenlu("train", settings, *model, "--data", tmp_path / "store", "-o", tmp_path / "run")
    assert found.exit_code == 0, found.output
    refused = wenlu(
        "train", settings, *model, "tokenizer.vocab_size=99", "--data", tmp_path / "store", "-o", tmp_path / "b"
    )
    assert refused.exit_code == 2
    assert "tokenizer.vocab_size" in refused.stderr
    mixed = wenlu("train", settings, *model, "--data", tmp_path / "store", "--data", text, "-o", tmp_path / "b")
    assert mixed.exit_code == 2
    assert not (tmp_path / "b").exists()


def test_without_settings_the_default_preset_is_taken_and_said(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train.steps=1", "train.threads=1", "tokenizer.kind=characters", "data.document=line"]
    found = wenlu("train", *words, "--data", text.name)
    assert found.exit_code == 0, found.output
    assert "llama-tiny" in found.stderr
    assert Run(tmp_path / "runs" / "llama-tiny").status()["state"] == "finished"
    toml = (tmp_path / "runs" / "llama-tiny" / "run.toml").read_text(encoding="utf-8")
    assert "# preset llama-tiny" in toml


def test_the_run_is_named_and_numbered(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ngram-5", "ngram-5-2"):
        found = wenlu("train", "--preset", "ngram-5", "--data", text, "data.document=line", "tokenizer.kind=characters")
        assert found.exit_code == 0, found.output
        assert (tmp_path / "runs" / name / "final").is_dir()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train.stepz=3"], 2, "train.steps"),
        (["train.steps=three"], 2, "three"),
        (["train.steps=0"], 2, "train.steps"),
        (["--budget", "soon"], 2, "soon"),
        (["--budget", "3m"], 2, "steps = 12"),
        (["model.kind=lama"], 2, "llama"),
        (["task.name=causal_lmm"], 2, "causal_lm"),
        (["optimizer.name=adamw", "optimizer.momentum=0.5"], 2, "optimizer.momentum"),
        (["train.layout=stream"], 2, "train.layout"),
        (["another.toml"], 2, "another.toml"),
        (["--verify"], 2, "--resume"),
        (["--allow-inexact"], 2, "--resume"),
        (["--preset", "llama-tini"], 2, "llama-tiny"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(
    words: list[str], code: int, said: str, tmp_path: Path, text: Path, settings: Path
) -> None:
    found = wenlu("train", settings, *TINY, *words, "--data", text, "-o", tmp_path / "run")
    assert found.exit_code == code
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words", [("model.order=9",), ("model.order=0",), ("model.num_layers=2",), ("train.steps=3",), ("lora.rank=4",)]
)
def test_a_model_that_is_counted_is_refused_before_its_texts_are_read(
    words: tuple[str, ...], tmp_path: Path, text: Path
) -> None:
    found = wenlu("train", "--preset", "ngram-5", *words, "--data", text, "-o", tmp_path / "run")
    assert found.exit_code == 2 and words[0].partition("=")[0].rpartition(".")[2] in found.stderr
    assert str(text.name) not in found.stderr and not (tmp_path / "run").exists()


def test_what_is_wrong_with_the_texts(tmp_path: Path, settings: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 10)
    for name in ("empty.txt", "binary.txt", "missing.txt"):
        found = wenlu("train", settings, *TINY, "--data", tmp_path / name, "-o", tmp_path / "run")
        assert found.exit_code == 2, found.output
        assert "Traceback" not in found.stderr
    assert wenlu("train", settings, *TINY, "-o", tmp_path / "run").exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_corpus_smaller_than_one_window_trains_and_says_so(tmp_path: Path, settings: Path) -> None:
    (tmp_path / "small.txt").write_text("one line\n两行\nthree\n", encoding="utf-8")
    words = [*TINY, "train.sequence_length=64", "train.steps=2"]
    found = wenlu("train", settings, *words, "--data", tmp_path / "small.txt", "-o", tmp_path / "run")
    assert found.exit_code == 0, found.output
    assert "smaller than one batch (128 slots)" in found.stderr


def test_a_run_that_is_there_or_being_trained_is_refused(run: Path, text: Path, settings: Path) -> None:
    words = ("train", settings, *TINY, "--data", text, "-o", run)
    found = wenlu(*words)
    assert found.exit_code == 1
    with Run(run).lock():
        for locked in (wenlu(*words), wenlu("train", "--resume", run), wenlu("train", "--resume", run, "--verify")):
            assert locked.exit_code == 1
            assert "Traceback" not in locked.stderr


def test_resume_takes_no_new_settings(run: Path, text: Path) -> None:
    assert wenlu("train", "--resume", run, "--data", text).exit_code == 2
    for words in ("train.steps=20000", "foo", "train.keep=9", "--verify train.threads=1", "--verify --allow-inexact"):
        found = wenlu("train", "--resume", run, *words.split())
        assert found.exit_code == 2, found.output
        assert words.split()[0] in found.stderr and "Traceback" not in found.stderr
    assert wenlu("train", "--resume", run.parent / "nowhere").exit_code == 2


def test_a_forged_log_fails_the_gate(run: Path) -> None:
    log = run / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    record = next(line for line in lines if line["event"] == "step" and line["step"] == 12)
    record["loss"] *= 0.99
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = wenlu("train", "--resume", run, "--verify")
    assert found.exit_code == 3
    assert "step 12" in found.stderr


def test_in_chinese(chinese: None, tmp_path: Path, text: Path, settings: Path) -> None:
    found = wenlu("train", settings, *TINY, "--budget", "一会儿", "--data", text, "-o", tmp_path / "run")
    assert found.exit_code == 2
    assert "训练时长写法有误" in found.stderr
    assert "训练" in wenlu("train", "--help").stdout


def test_a_text_where_settings_stand_is_told_of_data(text: Path, tmp_path: Path) -> None:
    for path in (text, tmp_path):
        found = wenlu("train", path)
        assert found.exit_code == 2
        assert f"--data {path}" in found.stderr
