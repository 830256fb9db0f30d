"""What a run leaves behind, what it refuses, and what verification finds."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_training import GPT2, LSTM, losses, tiny_evaluate, tiny_settings, tiny_store
from wenlu.bundle import load_bundle
from wenlu.core import publication
from wenlu.core.errors import CheckpointError, DataError, GateError, NotFiniteError, RunError, SettingsError
from wenlu.core.runs import Run, verify
from wenlu.core.settings import load
from wenlu.data.store import Store
from wenlu.tasks.causal_lm import CausalLM
from wenlu.training import preparation
from wenlu.training.precision import check_environment, resolve_machine
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import RunSettings, TrainSettings
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


def test_the_ngram_refuses_settings_of_steps(tmp_path: Path, store: Store) -> None:
    resolved = load(RunSettings, overrides=["model.kind=ngram", "train.steps=5"])
    with pytest.raises(SettingsError, match=r"train\.steps"):
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


# ---- resume ----


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


def test_another_version_is_refused_or_announced(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SettingsError, match=r"then 2\.12, now 2\.13"):
        check_environment({"torch": "2.12"}, {"torch": "2.13"}, allow_inexact=False)
    check_environment({"torch": "2.12"}, {"torch": "2.13"}, allow_inexact=True)
    assert "not bit-exact" in caplog.text


def test_precision_is_resolved_by_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    from wenlu.training import precision

    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    for gain, expected in ((0.6, "fp32"), (2.0, "bf16")):
        monkeypatch.setattr(precision, "bfloat16_gain", lambda gain=gain: gain)
        assert resolve_machine(TrainSettings()).precision == expected
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
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
