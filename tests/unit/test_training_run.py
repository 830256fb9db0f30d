"""What a run leaves behind, what it refuses, and what verification finds."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_training import GPT2, LSTM, SMALL, TRANSFORMER, losses, tiny_evaluate, tiny_settings, tiny_store
from wenlu.bundle import load_bundle
from wenlu.core import publication
from wenlu.core.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    GateError,
    NotFiniteError,
    RunError,
    SettingsError,
)
from wenlu.core.log import LOGGER
from wenlu.core.publication import verify
from wenlu.core.runs import Run
from wenlu.core.settings import load
from wenlu.data.settings import DataSettings
from wenlu.data.store import Store
from wenlu.data.tokens import build_store
from wenlu.evaluation.contestants import open_contestant
from wenlu.tasks.causal_lm import CausalLM
from wenlu.tokenization.tokenizer import TokenizerSettings
from wenlu.training import preparation
from wenlu.training.precision import check_environment, resolve_machine
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import RunSettings, TrainSettings
from wenlu.training.signals import StopRequest
from wenlu.training.verification import verify_run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tiny_store(tmp_path / "corpus")


@pytest.fixture
def finished(tmp_path: Path, store: Store) -> Path:
    """A finished run of 12 steps with checkpoints after 8 (the last before the end) and 12."""
    path = tmp_path / "run"
    train_run(tiny_settings("train.save_every=4", "evaluate.every=100"), path, evaluate=tiny_evaluate, store=store)
    return path


def log_of(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_finished_run_has_everything(finished: Path, store: Store) -> None:
    assert {entry.name for entry in finished.iterdir()} >= {
        "run.toml", "status.json", "log.jsonl", "data.json", "checkpoints", "best.json", "final",
    }  # fmt: skip
    status = Run(finished).status()
    assert (status["state"], status["step"], status["seed"]) == ("finished", 12, 1)
    assert {"versions", "commit", "device", "started", "ended", "evaluation"} <= status.keys()
    steps = [record for record in log_of(finished) if record["event"] == "step"]
    wanted = {"loss", "learning_rate", "gradient_norm", "targets", "tokens", "seconds", "epoch", "step"}
    assert all(wanted <= record.keys() for record in steps)
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"]  # type: ignore[operator]
    verify(finished / "final")
    newest = Run(finished).newest_checkpoint()
    assert newest is not None
    assert {entry.name for entry in newest.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
        "wenlu.toml", "optimizer.safetensors", "state.json", "MANIFEST.json",
    }  # fmt: skip
    data = json.loads((finished / "data.json").read_text(encoding="utf-8"))
    assert data["splits"]["train"] == {
        "fingerprint": store.train.fingerprint,
        "documents": 50,
        "tokens": store.train.num_tokens,
    }


def test_run_toml_leaves_nothing_open_and_reads_back(finished: Path) -> None:
    content = (finished / "run.toml").read_text(encoding="utf-8")
    found = tomllib.loads(content)["train"]
    assert (found["steps"], found["precision"], found["threads"], found["layout"], found["attention"]) == (
        12,
        "fp32",
        1,
        "packed",
        "sdpa",
    )
    assert "# this machine" in content
    assert load(RunSettings, file=finished / "run.toml").value.train.steps == 12


def test_the_model_of_a_run_loads_as_a_bundle(finished: Path) -> None:
    bundle = load_bundle(finished)
    assert bundle.path == finished / "final"
    assert bundle.task == "causal_lm"
    assert not bundle.model.training
    assert bundle.tokenizer.encode("the fox")


def test_a_run_is_not_written_over(finished: Path, store: Store) -> None:
    with pytest.raises(RunError) as caught:
        train_run(tiny_settings(), finished, store=store)
    assert caught.value.id == "core.run_exists"


def test_a_second_trainer_is_refused(finished: Path, store: Store) -> None:
    with Run(finished).lock():
        for attempt in (
            lambda: train_run(tiny_settings(), finished, store=store),
            lambda: resume_run(finished, store=store),
        ):
            with pytest.raises(RunError) as caught:
                attempt()
            assert caught.value.id == "core.run_locked"


def test_resuming_a_finished_run_says_so(finished: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wenlu")
    before = (finished / "log.jsonl").read_bytes()
    result = resume_run(finished, store=store)
    assert (result.state, result.step) == ("finished", 12)
    assert "nothing to resume" in caplog.text
    assert (finished / "log.jsonl").read_bytes() == before


def test_keep_and_best(tmp_path: Path, store: Store) -> None:
    """The validation loss rises from the second evaluation on: its checkpoint outlives the newer ones."""
    script = iter([3.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    settings = tiny_settings("train.save_every=1", "evaluate.every=2", "train.keep=2")
    train_run(settings, tmp_path / "run", evaluate=lambda *_, **__: {"loss": next(script)}, store=store)
    run = Run(tmp_path / "run")
    assert [path.name for path in run.checkpoints()] == ["step-00000004", "step-00000011", "step-00000012"]
    assert run.best() == {"checkpoint": "step-00000004", "step": 4, "loss": 2.0}


def test_not_finite_publishes_nothing(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CausalLM.loss
    calls = iter(range(100))

    def spoiled(self: CausalLM, module: object, batch: object, **given: object) -> object:
        found = plain(self, module, batch, **given)  # type: ignore[arg-type]
        term = found["cross_entropy"]
        return {"cross_entropy": type(term)(term.total * (float("inf") if next(calls) == 6 else 1.0), term.count)}

    monkeypatch.setattr(CausalLM, "loss", spoiled)
    with pytest.raises(NotFiniteError):
        train_run(tiny_settings("train.save_every=3"), tmp_path / "run", store=store)
    run = Run(tmp_path / "run")
    assert run.status()["state"] == "failed"
    assert run.status()["error"] == "training.not_finite"
    assert [path.name for path in run.checkpoints()] == ["step-00000003", "step-00000006"]
    assert len(losses(tmp_path / "run")) == 6
    assert not (tmp_path / "run" / "final").exists()


def test_weights_that_are_not_finite_are_not_saved(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wenlu.training.optimizers import Optimizer

    monkeypatch.setattr(Optimizer, "step", lambda self: next(iter(self.parameters.values())).data.fill_(float("nan")))
    with pytest.raises(NotFiniteError) as caught:
        train_run(tiny_settings("train.save_every=1"), tmp_path / "run", store=store)
    assert caught.value.id == "training.weights_not_finite"
    assert Run(tmp_path / "run").checkpoints() == []


def test_the_lstm_carries_and_saves_its_state(tmp_path: Path, store: Store) -> None:
    train_run(tiny_settings(*LSTM), tmp_path / "run", store=store)
    newest = Run(tmp_path / "run").newest_checkpoint()
    assert newest is not None
    tensors = load_file(newest / "optimizer.safetensors")
    assert tensors["carried/hidden"].abs().sum() > 0
    assert tomllib.loads((tmp_path / "run" / "run.toml").read_text(encoding="utf-8"))["train"]["layout"] == "stream"


def test_the_ngram_fills_the_same_directory(tmp_path: Path, store: Store) -> None:
    resolved = load(RunSettings, overrides=["model.kind=ngram", "model.order=3"])
    result = train_run(resolved, tmp_path / "run", evaluate=tiny_evaluate, store=store)
    assert result.state == "finished"
    assert result.evaluation["loss"] > 0
    assert load_bundle(tmp_path / "run").model is not None
    assert open_contestant(str(tmp_path / "run")).trained_tokens == store.train.num_tokens


def test_the_ngram_refuses_settings_of_steps(tmp_path: Path, store: Store) -> None:
    for unread in ("train.steps=5", "train.keep=1", "optimizer.beta1=0.5", "evaluate.every=1%"):
        resolved = load(RunSettings, overrides=["model.kind=ngram", unread])
        with pytest.raises(SettingsError, match=re.escape(unread.partition("=")[0])):
            train_run(resolved, tmp_path / "run", store=store)
    assert not (tmp_path / "run").exists()


# ---- how long ----


def test_a_budget_of_time_is_measured_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_LEAST_MEASURED_SECONDS", 0.05)
    settings = tiny_settings("train.budget=0.3s", "train.steps=none")
    result = train_run(settings, tmp_path / "run", store=store)
    content = (tmp_path / "run" / "run.toml").read_text(encoding="utf-8")
    assert f"steps = {result.step}" in content
    assert "measured once" in content
    assert result.step > 1

    def never(*_: object) -> float:
        raise AssertionError("a resume decides nothing again")

    (tmp_path / "run" / "status.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(preparation, "measure_seconds_per_step", never)
    assert resume_run(tmp_path / "run", store=store).step == result.step


def test_measuring_leaves_no_trace(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_LEAST_MEASURED_SECONDS", 0.05)
    measured = preparation.measure_seconds_per_step

    def two_hundredths(prepared: preparation.Prepared, seconds: float) -> float:
        measured(prepared, seconds)
        return 0.02

    monkeypatch.setattr(preparation, "measure_seconds_per_step", two_hundredths)
    train_run(tiny_settings("train.budget=240ms", "train.steps=none"), tmp_path / "budget", store=store)
    train_run(tiny_settings("train.steps=12"), tmp_path / "steps", store=store)
    assert losses(tmp_path / "budget") == losses(tmp_path / "steps")


@pytest.mark.parametrize(("written", "steps"), [("7 steps", 7), ("320 tokens", 10), ("1 epoch", None)])
def test_other_budgets_are_counted(written: str, steps: int | None, tmp_path: Path, store: Store) -> None:
    settings = tiny_settings(f"train.budget={written}", "train.steps=none")
    prepared = preparation.prepare(settings, store=store)
    preparation.decide_steps(prepared)
    windows = -(-store.train.num_tokens // 16)
    assert prepared.settings.train.steps == (steps or -(-windows // 2))


def test_steps_and_budget_together_are_refused(store: Store) -> None:
    with pytest.raises(SettingsError) as caught:
        preparation.decide_steps(preparation.prepare(tiny_settings("train.budget=3m"), store=store))
    assert caught.value.id == "training.steps_and_budget"


def test_a_kill_before_the_steps_are_decided_loses_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file says 12 steps, the command line a time: ``run.toml`` must not hold both, as if one source gave them."""
    file = tmp_path / "settings.toml"
    file.write_text("[train]\nsteps = 12\n", encoding="utf-8")
    overrides = [override for override in (*TRANSFORMER, *SMALL) if "steps" not in override]
    resolved = load(RunSettings, file=file, overrides=[*overrides, "train.budget=0.3s"])
    measured = preparation.measure_seconds_per_step

    def killed(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "measure_seconds_per_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train_run(resolved, tmp_path / "run", store=store)
    monkeypatch.setattr(preparation, "_LEAST_MEASURED_SECONDS", 0.05)
    monkeypatch.setattr(preparation, "measure_seconds_per_step", measured)
    assert resume_run(tmp_path / "run", store=store).state == "finished"


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (("evaluate.stride=17",), r"evaluate\.stride"),
        (("evaluate.context=20", "model.max_positions=18"), r"evaluate\.context"),
        (("model.max_positions=15",), r"train\.sequence_length"),
    ],
)
def test_windows_that_no_evaluation_could_score_are_refused_at_once(
    overrides: tuple[str, ...], setting: str, tmp_path: Path, store: Store
) -> None:
    with pytest.raises(SettingsError, match=setting):
        train_run(tiny_settings(*TRANSFORMER, *overrides), tmp_path / "run", store=store)
    assert not (tmp_path / "run").exists()


def test_a_rate_of_a_head_that_is_not_there_is_refused(tmp_path: Path, store: Store) -> None:
    tied = tiny_settings(*TRANSFORMER, "model.tie_embeddings=true", "optimizer.head_rate=0.1")
    with pytest.raises(SettingsError, match=r"optimizer\.head_rate"):
        train_run(tied, tmp_path / "run", store=store)


def test_settings_of_a_store_are_refused_for_an_open_one_too(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox\n" * 40, encoding="utf-8")
    settings = DataSettings(paths=(str(tmp_path / "text.txt"),))
    made = build_store(tmp_path / "store", settings, tokenizer_settings=TokenizerSettings(vocab_size=300))
    given = (f"data.paths=['{made.path}']", "tokenizer.vocab_size=4000")
    with pytest.raises(SettingsError, match=r"tokenizer\.vocab_size"):
        train_run(tiny_settings(*given), tmp_path / "run", store=made)


def test_a_run_does_not_move_into_a_store(tmp_path: Path, store: Store) -> None:
    publication.publish(tmp_path / "store", lambda folder: (folder / "train.bin").write_bytes(b"") and None)
    with pytest.raises(DataError) as caught:
        train_run(tiny_settings(), tmp_path / "store", store=store)
    assert caught.value.id == "core.target_exists"
    verify(tmp_path / "store")


def test_threads_where_the_system_does_not_count_free_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.delattr("os.sched_getaffinity")
    assert resolve_machine(TrainSettings(precision="fp32")).threads >= 1


# ---- resume ----


def test_a_kill_between_a_checkpoint_and_its_mention_as_the_best(tmp_path: Path, store: Store) -> None:
    stop_in_the_middle(tmp_path / "run", store)
    run = Run(tmp_path / "run")
    best = run.best()
    assert best["step"] == 4
    run.write_best(run.checkpoint_path(2), step=2, loss=3.0)
    for newer in run.checkpoints()[1:]:
        publication.remove_directory(newer)
    resume_run(run.path, evaluate=lambda *_, **__: {"loss": 9.0}, store=store)
    assert run.best() == best
    assert run.best_checkpoint() is not None


def test_a_kill_after_the_final_evaluation_does_not_write_it_twice(finished: Path, store: Store) -> None:
    shutil.rmtree(finished / "final")
    before = log_of(finished)
    resume_run(finished, evaluate=tiny_evaluate, store=store)
    assert [record["event"] for record in log_of(finished)] == [record["event"] for record in before]


def test_a_signal_while_a_line_is_written_still_stops_the_run() -> None:
    """Python refuses a second write into the buffer that the first one, blocked by a paused terminal, is in."""

    class Blocked(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    blocked, request = Blocked(), StopRequest()
    LOGGER.addHandler(blocked)
    try:
        request.handle(signal.SIGTERM, None)
    finally:
        LOGGER.removeHandler(blocked)
    assert request.exit_code == 143


def stop_in_the_middle(path: Path, store: Store) -> None:
    """A run that failed after its checkpoint at step 6."""
    calls = iter(range(100))

    def failing(*_: object, **__: object) -> dict[str, float]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return {"loss": 1.0}

    with pytest.raises(KeyboardInterrupt):
        train_run(tiny_settings("train.save_every=6", "evaluate.every=4"), path, evaluate=failing, store=store)


def test_another_corpus_is_refused(tmp_path: Path, store: Store) -> None:
    stop_in_the_middle(tmp_path / "run", store)
    other = Store(
        store.path, train=store.validation, validation=store.validation, test=store.test, record={}, fingerprint="other"
    )
    with pytest.raises(DataError) as caught:
        resume_run(tmp_path / "run", store=other)
    assert caught.value.id == "training.data_changed"


def test_settings_of_a_run_cannot_change(tmp_path: Path, store: Store) -> None:
    stop_in_the_middle(tmp_path / "run", store)
    with pytest.raises(SettingsError, match=r"optimizer\.learning_rate"):
        resume_run(tmp_path / "run", overrides=["optimizer.learning_rate=0.5"], store=store, allow_inexact=True)


def test_what_changes_the_bits_is_refused_or_announced(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    stop_in_the_middle(tmp_path / "run", store)
    with pytest.raises(SettingsError) as caught:
        resume_run(tmp_path / "run", overrides=["train.attention=eager"], store=store)
    assert caught.value.id == "training.inexact"
    assert "then sdpa, now eager" in str(caught.value)
    result = resume_run(tmp_path / "run", overrides=["train.attention=eager"], store=store, allow_inexact=True)
    assert result.state == "finished"
    assert "not bit-exact" in caplog.text


def with_settings(run: Path, **changed: str) -> None:
    """Edit ``run.toml`` as a user with an editor."""
    path = run / "run.toml"
    lines = path.read_text(encoding="utf-8").splitlines()
    for key, value in changed.items():
        [number] = [n for n, line in enumerate(lines) if line.startswith(f"{key} = ")]
        lines[number] = f"{key} = {value}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def with_state(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the state of the newest checkpoint anew, with a manifest that fits."""
    checkpoint = Run(run).checkpoints()[-1]
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    change(state)

    def write(target: Path) -> None:
        shutil.copytree(checkpoint, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("MANIFEST.json"))
        (target / "state.json").write_text(json.dumps(state), encoding="utf-8")

    publication.publish(checkpoint, write, replace=True)


def test_what_changes_the_bits_is_noticed_in_run_toml_too(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    stop_in_the_middle(run, store)
    with_settings(run, threads="2", compile="true")
    with pytest.raises(SettingsError) as caught:
        resume_run(run, store=store)
    assert (caught.value.id, caught.value.values["setting"]) == ("training.inexact", "train.compile")
    with_settings(run, compile="false")
    with pytest.raises(SettingsError, match=r"(?s)train\.threads.*then 1, now 2"):
        resume_run(run, store=store)
    assert resume_run(run, store=store, allow_inexact=True).state == "finished"
    assert caplog.text.count("not bit-exact from here on: train.threads was 1 and is 2") == 1
    [line] = [line for line in log_of(run) if line["event"] == "inexact"]
    assert line == {"event": "inexact", "step": 6, "setting": "train.threads", "then": 1, "now": 2}
    assert verify_run(run, store=store).last == 12


def test_what_an_earlier_wenlu_did_not_write_down_is_taken_from_run_toml(tmp_path: Path, store: Store) -> None:
    run = tmp_path / "run"
    stop_in_the_middle(run, store)

    def forget(state: dict[str, Any]) -> None:
        for name in ("threads", "compile", "attention", "device", "deterministic", "precision"):
            del state["settings"][f"train.{name}"]
        del state["environment"]["processor"], state["environment"]["bf16"]

    with_state(run, forget)
    with_settings(run, compile="false")
    with pytest.raises(SettingsError, match=r"train\.attention"):
        resume_run(run, overrides=["train.attention=eager"], store=store)
    assert resume_run(run, store=store).state == "finished"


def test_a_resume_that_is_refused_changes_no_setting(tmp_path: Path, store: Store) -> None:
    run = tmp_path / "run"
    stop_in_the_middle(run, store)
    with_state(run, lambda state: state.update(data="another"))
    before = (run / "run.toml").read_text(encoding="utf-8")
    with pytest.raises(DataError):
        resume_run(run, overrides=["train.attention=eager"], store=store, allow_inexact=True)
    assert (run / "run.toml").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("name", ["processor", "bf16"])
def test_another_processor_is_refused(name: str, tmp_path: Path, store: Store) -> None:
    """Instruction sets alone make most processors look alike."""
    run = tmp_path / "run"
    stop_in_the_middle(run, store)
    with_state(run, lambda state: state["environment"].update({name: state["environment"][name] + " too"}))
    with pytest.raises(SettingsError) as caught:
        resume_run(run, store=store)
    assert caught.value.values["setting"] == name


def test_the_processor_is_named_with_what_decides_its_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    from wenlu.training import precision

    monkeypatch.setattr(precision, "processor", lambda: ("A 9", frozenset({"sse", "amx_bf16", "avx512_bf16"})))
    found = precision.environment()
    assert (found["processor"], found["bf16"]) == ("A 9", "amx_bf16 avx512_bf16")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_advice_for_a_run_from_cuda_works(
    language: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_LANG", language)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = tmp_path / "run"
    stop_in_the_middle(run, store)
    there = {"device": "cuda", "precision": "bf16", "deterministic": False}
    with_state(run, lambda state: state["settings"].update({f"train.{name}": v for name, v in there.items()}))
    with_settings(run, device='"cuda"', precision='"bf16"', deterministic="false")
    with pytest.raises(DeviceError) as caught:
        resume_run(run, store=store)
    words = re.findall(r"train\.\w+=\w+", str(caught.value))
    assert resume_run(run, overrides=words, store=store, allow_inexact=True).state == "finished"


def test_another_version_is_refused_or_announced(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SettingsError, match=r"then 2\.12, now 2\.13"):
        check_environment({"torch": "2.12"}, {"torch": "2.13"}, allow_inexact=False)
    check_environment({"torch": "2.12"}, {"torch": "2.13"}, allow_inexact=True)
    assert "not bit-exact" in caplog.text


def test_precision_is_resolved_by_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    from wenlu.training import precision

    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    for gain, expected in ((0.6, "fp32"), (2.0, "bf16")):
        monkeypatch.setattr(precision, "bfloat16_gain", lambda gain=gain: gain)
        assert resolve_machine(TrainSettings()).precision == expected
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)
    assert resolve_machine(TrainSettings()).precision == "fp32"
    with pytest.raises(Exception, match="bfloat16"):
        resolve_machine(TrainSettings(precision="bf16"))


# ---- verification ----


@pytest.mark.parametrize("model", [GPT2, LSTM])
def test_an_honest_run_verifies(model: tuple[str, ...], tmp_path: Path, store: Store) -> None:
    settings = tiny_settings(*model, "train.save_every=5", "train.accumulation=2")
    train_run(settings, tmp_path / "run", evaluate=tiny_evaluate, store=store)
    found = verify_run(tmp_path / "run", store=store)
    assert found.last == 12
    assert 0 < found.first < 12


def test_one_checkpoint_is_replayed_from_the_start(tmp_path: Path, store: Store) -> None:
    train_run(tiny_settings("train.save_every=100"), tmp_path / "run", store=store)
    assert (verify_run(tmp_path / "run", store=store).first, verify_run(tmp_path / "run", store=store).last) == (0, 12)


def test_another_processor_proves_nothing(finished: Path, store: Store) -> None:
    """It is said before a replay whose bits would differ, also when there is one checkpoint alone."""
    with_state(finished, lambda state: state["environment"].update(processor="another"))
    for _ in range(2):
        with pytest.raises(SettingsError, match="processor"):
            verify_run(finished, store=store)
        for checkpoint in Run(finished).checkpoints()[:-1]:
            publication.remove_directory(checkpoint)


def test_a_changed_loss_is_found_with_its_step(finished: Path, store: Store) -> None:
    lines = log_of(finished)
    record = next(record for record in lines if record["event"] == "step" and record["step"] == 11)
    record["loss"] = float(
        torch.nextafter(torch.tensor(record["loss"], dtype=torch.float64), torch.tensor(9.0, dtype=torch.float64))
    )  # type: ignore[arg-type]
    (finished / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(GateError) as caught:
        verify_run(finished, store=store)
    assert (caught.value.id, caught.value.values["step"]) == ("training.verify_step", 11)
    assert caught.value.exit_code == 3


def test_a_missing_line_is_found(finished: Path, store: Store) -> None:
    lines = [record for record in log_of(finished) if not (record["event"] == "step" and record["step"] == 10)]
    (finished / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(GateError) as caught:
        verify_run(finished, store=store)
    assert caught.value.values["step"] == 10


def test_a_flipped_bit_of_a_weight_is_found(finished: Path, store: Store) -> None:
    weights = Run(finished).checkpoint_path(12) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(GateError) as caught:
        verify_run(finished, store=store)
    assert caught.value.id == "training.verify_damaged"


@pytest.mark.parametrize("where", ["checkpoint", "final"])
def test_weights_changed_together_with_their_manifest_are_found(where: str, finished: Path, store: Store) -> None:
    directory = Run(finished).checkpoint_path(12) if where == "checkpoint" else finished / "final"
    tensors = load_file(directory / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    next(iter(tensors.values())).view(-1)[0] += 1e-3

    def rewrite(target: Path) -> None:
        for entry in directory.iterdir():
            if entry.name not in ("MANIFEST.json", "model.safetensors"):
                (target / entry.name).write_bytes(entry.read_bytes())
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

    publication.publish(directory.parent / "forged", rewrite)
    publication.remove_directory(directory)
    (directory.parent / "forged").rename(directory)
    verify(directory)
    with pytest.raises(GateError) as caught:
        verify_run(finished, store=store)
    assert caught.value.id == "training.verify_weights"


def test_a_run_without_checkpoints_has_nothing_to_verify(tmp_path: Path, store: Store) -> None:
    resolved = load(RunSettings, overrides=["model.kind=ngram"])
    train_run(resolved, tmp_path / "run", store=store)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        verify_run(tmp_path / "run", store=store)


def test_a_run_below_or_onto_a_file_is_refused(tmp_path: Path, store: Store) -> None:
    (tmp_path / "text.txt").write_text("x", encoding="utf-8")
    for target, id in (("text.txt", "core.target_exists"), ("text.txt/run", "core.target_below_file")):
        with pytest.raises(DataError) as refused:
            train_run(tiny_settings(), tmp_path / target, store=store)
        assert refused.value.id == id
