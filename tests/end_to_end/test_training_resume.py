"""A run that is killed or stopped and goes on is, bit for bit, the run that was not."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tiny_training import GPT2, LSTM, TRANSFORMER, Lives, losses
from wenlu.core.runs import Run, verify

STEPS = 36
CASES = {
    "transformer": TRANSFORMER,
    "lstm": LSTM,
}


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    """One server of forked trainers for the whole file."""
    server = Lives()
    yield server
    server.close()


def assert_same_run(left: Path, right: Path) -> None:
    """The same loss curve, weights and optimizer, to the last bit."""
    assert losses(left) == losses(right)
    for name in ("final/model.safetensors", f"checkpoints/step-{STEPS:08d}/optimizer.safetensors"):
        ours, theirs = load_file(left / name), load_file(right / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert tensor.tobytes() == theirs[key].tobytes(), key


def die_three_times(lives: Lives, run: Path, settings: list[str], *, seed: int) -> None:
    """Kill a run at three random moments, resuming it each time, and let it finish."""
    draw = random.Random(seed)
    for first, last in ((2, 9), (13, 20), (24, 30)):
        code = lives.live(run, settings, lines=draw.randint(first, last), delay=draw.uniform(0, 0.01))
        assert code == -signal.SIGKILL
        assert Run(run).status()["state"] == "running"
    assert lives.live(run) == 0
    assert Run(run).status()["state"] == "finished"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("kind", list(CASES))
def test_killed_three_times_is_the_unbroken_run(
    kind: str, accumulation: int, workers: int, lives: Lives, tmp_path: Path
) -> None:
    settings = [
        *CASES[kind],
        f"train.steps={STEPS}",
        f"train.accumulation={accumulation}",
        f"train.num_workers={workers}",
        "train.save_every=5",
        "evaluate.every=8",
    ]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    die_three_times(lives, tmp_path / "broken", settings, seed=accumulation * 10 + workers)
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    assert len(losses(tmp_path / "broken")) == STEPS


def test_muon_in_the_machines_own_precision_resumes_exactly(lives: Lives, tmp_path: Path) -> None:
    settings = [*GPT2, f"train.steps={STEPS}", "train.precision=auto", "optimizer.name=muon", "train.save_every=4"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    die_three_times(lives, tmp_path / "broken", settings, seed=3)
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_another_seed_is_another_run(lives: Lives, tmp_path: Path) -> None:
    """The comparison above can fail."""
    for seed in (1, 2):
        assert lives.live(tmp_path / f"seed-{seed}", [f"train.steps={STEPS}", f"train.seed={seed}"]) == 0
    assert losses(tmp_path / "seed-1") != losses(tmp_path / "seed-2")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves_and_the_run_goes_on(number: int, code: int, lives: Lives, tmp_path: Path) -> None:
    settings = [f"train.steps={STEPS}", "train.save_every=1000"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    for moment in (3, 9, 17):
        assert lives.live(tmp_path / "stopped", settings, lines=moment, signals=[number]) == code
        run = Run(tmp_path / "stopped")
        step = run.status()["step"]
        assert run.status()["state"] == "stopped"
        newest = run.newest_checkpoint()
        assert newest == run.checkpoint_path(int(str(step))), "the step that was being made is saved"
    assert lives.live(tmp_path / "stopped") == 0
    assert_same_run(tmp_path / "unbroken", tmp_path / "stopped")


def test_a_second_signal_leaves_at_once_and_breaks_nothing(lives: Lives, tmp_path: Path) -> None:
    settings = [f"train.steps={STEPS}", "train.save_every=5", "train.batch_size=64", "train.accumulation=16"]
    run = tmp_path / "run"
    code = lives.live(run, settings, lines=7, signals=[signal.SIGTERM, signal.SIGTERM])
    assert code == 143
    assert Run(run).status()["state"] == "running", "it had no time to say more"
    for checkpoint in Run(run).checkpoints():
        verify(checkpoint)


def test_killed_before_the_first_checkpoint_begins_again(lives: Lives, tmp_path: Path) -> None:
    settings = [f"train.steps={STEPS}", "train.save_every=1000"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    assert lives.live(tmp_path / "broken", settings, lines=5) == -signal.SIGKILL
    assert lives.live(tmp_path / "broken") == 0
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_a_damaged_newest_checkpoint_is_passed_over(lives: Lives, tmp_path: Path) -> None:
    settings = [f"train.steps={STEPS}", "train.save_every=4"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    assert lives.live(tmp_path / "broken", settings, lines=16) == -signal.SIGKILL
    newest = Run(tmp_path / "broken").checkpoints()[-1]
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    assert lives.live(tmp_path / "broken") == 0
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_the_log_has_every_step_once(lives: Lives, tmp_path: Path) -> None:
    die_three_times(lives, tmp_path / "run", [f"train.steps={STEPS}", "train.save_every=10"], seed=5)
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if record["event"] == "step"]
    assert steps == list(range(1, STEPS + 1))
