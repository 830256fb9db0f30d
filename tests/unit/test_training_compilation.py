"""When a run is compiled, and that compiled it is the same run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from skips import needs_tool
from tiny_training import GPT2, LSTM, losses, tiny_evaluate, tiny_settings, tiny_store
from wenlu.core.errors import DeviceError, SettingsError
from wenlu.core.runs import Run
from wenlu.core.settings import load
from wenlu.data.store import Store
from wenlu.training import compilation, preparation
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import RunSettings
from wenlu.training.verification import verify_run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tiny_store(tmp_path / "corpus")


def test_a_short_run_is_not_even_measured(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "measure_seconds_per_step", lambda *_: pytest.fail("measured"))
    train_run(tiny_settings(), tmp_path / "run", store=store)
    assert load(RunSettings, file=tmp_path / "run" / "run.toml").value.train.compile is False


@pytest.mark.parametrize(
    ("eager", "compiled", "decision"),
    [(4.0, 3.0, True), (4.0, 4.0, False), (2.0, 1.0, None)],
    ids=["repays", "gains nothing", "too short"],
)
def test_long_runs_are_tried(
    eager: float, compiled: float, decision: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """250 steps of 4 s are long, of 2 s are not."""
    asked: list[bool] = []

    def measure(compile: bool) -> float:
        asked.append(compile)
        return compiled

    with caplog.at_level(logging.INFO):
        assert compilation.repays(250 * eager, measure, seconds_per_step=eager) == bool(decision)
    assert asked == ([] if decision is None else [True])
    said = [record.getMessage() for record in caplog.records]
    assert any("train.compile = " + str(decision).lower() in text for text in said) == (decision is not None)


def test_a_compiler_that_fails_leaves_the_run_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def measure(compile: bool) -> float:
        raise RuntimeError("no such instruction")

    assert not compilation.repays(10_000, measure, seconds_per_step=1.0)
    assert "no such instruction" in caplog.text


def test_refused_where_nothing_can_be_compiled(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as refused:
        train_run(tiny_settings(*LSTM, "train.compile=true"), tmp_path / "lstm", store=store)
    assert refused.value.id == "core.setting_unused"
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError) as missing:
        train_run(tiny_settings("train.compile=true"), tmp_path / "run", store=store)
    assert missing.value.id == "training.no_compiler"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch's compiler uses torch's scripting
def test_compiled_is_the_same_run_and_resumes_exactly(tmp_path: Path, store: Store) -> None:
    """Against the run that is not compiled to 1e-4 (sums in another order), against itself to the last bit."""
    needs_tool("cc")
    settings = (*GPT2, "model.num_layers=1", "model.dropout=0.0", "train.save_every=4", "train.steps=8")
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    train_run(tiny_settings(*settings), plain, store=store)
    train_run(tiny_settings(*settings, "train.compile=true"), compiled, evaluate=tiny_evaluate, store=store)
    whole = losses(compiled)
    values = [[float.fromhex(bits) for _, bits in losses(run)] for run in (plain, compiled)]
    torch.testing.assert_close(torch.tensor(values[1]), torch.tensor(values[0]), rtol=1e-4, atol=0)
    run = Run(compiled)
    for step in (8,):
        for file in sorted(run.checkpoint_path(step).rglob("*"), reverse=True):
            file.unlink()
        run.checkpoint_path(step).rmdir()
    (compiled / "status.json").write_text('{"state": "running"}', encoding="utf-8")
    resume_run(compiled, evaluate=tiny_evaluate, store=store)
    assert losses(compiled) == whole
    verify_run(compiled, store=store)
