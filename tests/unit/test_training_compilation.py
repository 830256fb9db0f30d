"""When a run is compiled, and that compiled it is the same run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from skips import needs_tool
from tiny_training import GPT2, LSTM, losses, tiny_evaluate, tiny_settings, tiny_store
from wenlu.core import machine
from wenlu.core.errors import CheckpointError, DataError, DeviceError, SettingsError
from wenlu.core.runs import Run
from wenlu.core.settings import load
from wenlu.data.store import Store
from wenlu.training import compilation, precision, preparation, trial
from wenlu.training.memory import memory_parts
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import RunSettings
from wenlu.training.trainer import Step
from wenlu.training.verification import replay_step, verify_run


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


def steps_of(seconds: list[float], taken: list[float]) -> Iterator[Step]:
    """Steps that say they took so long, the last time again and again; those that were asked for are in ``taken``."""
    for number in range(1, 100_000):
        taken.append(seconds[min(number, len(seconds)) - 1])
        yield Step(number, 1.0, 1.0, 1.0, 1, 1, taken[-1])


@pytest.mark.parametrize(
    ("seconds", "expected", "steps"),
    [
        ([30, 0.1, 0.1, 0.1], 0.1, 3 + 20),
        ([30, 0.1, 0.1, 0.1, 0.1, 30, 0.1], 0.1, 3 + 21),
        ([30, 0.1, 0.1, 30, 0.1], 0.1, 3 + 21),
        ([30, 3.0], 3.0, 3 + 2),
        ([0.1, 0.1, 0.1, 30], 30.0, 7),
        ([30, *[0.001, 0.001, 30] * 100], 0.001, 12),
    ],
    ids=["usual", "late compilation", "right after the warm-up", "long steps", "slower from now on", "hopeless"],
)
def test_a_step_that_compiles_does_not_count(seconds: list[float], expected: float, steps: int) -> None:
    taken: list[float] = []
    measured = preparation.mean_seconds(steps_of([*map(float, seconds)], taken), 0.0)
    assert (measured, len(taken)) == (pytest.approx(expected), pytest.approx(steps, abs=1))


def test_short_steps_of_a_short_run_are_not_measured_for_long(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []
    assert preparation.mean_seconds(steps_of([9.0, 0.5], taken), 0.0, short=0.6) == 0.5
    assert len(taken) == 3
    shorts: list[float] = []

    def measure(*_: object, short: float) -> float:
        shorts.append(short)
        return 0.001

    monkeypatch.setattr(preparation, "measure_seconds_per_step", measure)
    monkeypatch.setattr(compilation, "find_compiler", lambda: "c++")
    prepared = preparation.prepare(tiny_settings("train.steps=300"), store=store)
    preparation.decide_steps(prepared)
    assert shorts == [1.0], "of 300 steps of a second nobody would compile"
    assert prepared.settings.train.compile is False


def test_a_kill_while_it_is_decided_loses_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resume decides it again; a replay of what is not decided decides nothing."""

    def killed(*_: object, **__: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(compilation, "find_compiler", lambda: "c++")
    monkeypatch.setattr(preparation, "measure_seconds_per_step", killed)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(tiny_settings("train.steps=200", "train.save_every=100"), run, store=store)
    assert load(RunSettings, file=run / "run.toml").value.train.compile is None
    assert replay_step(run, 1, store=store).is_finite
    monkeypatch.setattr(preparation, "measure_seconds_per_step", lambda *_, **__: 0.001)
    resume_run(run, store=store)
    assert load(RunSettings, file=run / "run.toml").value.train.compile is False


def test_what_an_earlier_wenlu_did_not_decide_is_not_decided_afterwards(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train_run(tiny_settings("train.steps=200", "train.save_every=150"), run, store=store)
    text = (run / "run.toml").read_text(encoding="utf-8")
    assert "compile = false" in text
    (run / "run.toml").write_text(text.replace("compile = false", "# compile ="), encoding="utf-8")
    (run / "status.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(compilation, "find_compiler", lambda: "c++")
    monkeypatch.setattr(preparation, "measure_seconds_per_step", lambda *_, **__: pytest.fail("decided"))
    assert verify_run(run, store=store).last == 200
    assert replay_step(run, 199, store=store).is_finite
    assert resume_run(run, store=store).state == "finished"


def test_a_run_whose_length_is_not_decided_has_nothing_to_replay(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "measure_seconds_per_step", lambda *_, **__: 1 / 0)
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train_run(tiny_settings("train.steps=none", "train.budget=1s"), run, store=store)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        replay_step(run, 1, store=store)


@pytest.mark.parametrize("failing", [False, True], ids=["as it is", "compiled"])
def test_a_copy_without_memory_leaves_the_run_as_it_is(
    failing: bool, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def measure(prepared: preparation.Prepared, *_: object, **__: object) -> float:
        if bool(prepared.settings.train.compile) == failing:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return 1000.0

    monkeypatch.setattr(preparation, "measure_seconds_per_step", measure)
    monkeypatch.setattr(compilation, "find_compiler", lambda: "c++")
    prepared = preparation.prepare(tiny_settings("train.steps=300"), store=store)
    preparation.decide_steps(prepared)
    assert prepared.settings.train.compile is False
    assert "does not suffice" in caplog.text and "could not be compiled" not in caplog.text


def test_without_room_for_a_copy_none_is_made(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = preparation.prepare(tiny_settings("train.steps=300"), store=store)
    parts = memory_parts(prepared.model, prepared.settings)
    needed = parts.peak(accumulation=1)
    monkeypatch.setattr(compilation, "find_compiler", lambda: "c++")
    monkeypatch.setattr(machine, "resident_bytes", lambda: (0, 0))
    monkeypatch.setattr(preparation, "measure_seconds_per_step", lambda *_, **__: pytest.fail("a copy was made"))
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(None, None, needed + parts.weights - 1))
    preparation.decide_steps(prepared)
    assert prepared.settings.train.compile is False and "does not suffice" in caplog.text


def test_an_error_of_ours_is_not_one_of_the_compiler() -> None:
    def measure(compile: bool) -> float:
        raise DataError("data.empty_split")

    with pytest.raises(DataError):
        compilation.repays(10_000, measure, seconds_per_step=1.0)


@pytest.mark.parametrize(
    ("platform", "named", "called"),
    [
        ("linux", None, "g++"),
        ("darwin", None, "clang++"),
        ("win32", None, "cl"),
        ("linux", "my-c++", "my-c++"),
        ("linux", "ccache g++", None),
    ],
)
def test_the_compiler_is_the_one_that_torch_calls(
    platform: str, named: str | None, called: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch calls the whole of CXX as one program: with arguments in it there is no such program."""
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(shutil, "which", lambda name: None if " " in name else f"/bin/{name}")
    monkeypatch.delenv("CXX", raising=False)
    if named is not None:
        monkeypatch.setenv("CXX", named)
    assert compilation.find_compiler() == (called and f"/bin/{called}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_first_step_that_cannot_be_compiled_is_an_error_of_ours(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise ValueError("no such instruction")

    monkeypatch.setattr(compilation, "find_compiler", lambda: "c++")
    with torch.compiler.set_stance(force_backend=broken), pytest.raises(DeviceError) as caught:
        train_run(tiny_settings("train.compile=true"), tmp_path / "run", store=store)
    assert caught.value.id == "training.compilation" and "no such instruction" in str(caught.value)
    assert Run(tmp_path / "run").status()["error"] == "training.compilation"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_later_models_of_a_process_are_compiled_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch stops compiling at a number of graphs that all models of a process share."""
    monkeypatch.setattr(compilation, "find_compiler", lambda: "c++")
    with (
        torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True),
        torch.compiler.set_stance(force_backend="eager"),
    ):
        for width in (16, 32, 48):
            settings = tiny_settings(*GPT2, f"model.hidden_size={width}", "train.compile=true", "train.steps=4")
            prepared = preparation.prepare(settings, store=store)
            with precision.machine(prepared.settings.train):
                assert len(list(prepared.trainer())) == 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_trial_evaluates_what_a_run_evaluates(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not compiled, and without the time that torch's compiler takes to be loaded."""
    prepared = preparation.prepare(tiny_settings("train.compile=true"), store=store)
    stances: list[str] = []

    def evaluate(*_: object, **__: object) -> dict[str, float]:
        stances.append(torch._dynamo.eval_frame._stance.stance)
        return {"loss": 1.0}

    assert trial._time_evaluation(prepared, 0.1, evaluate) < 0.1
    assert stances == ["force_eager"]


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
