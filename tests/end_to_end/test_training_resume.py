"""A run that is killed or stopped and goes on is, bit for bit, the run that was not."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from promises import Figure, Lane
from tiny_training import GPT2, LSTM, TRANSFORMER, Lives, losses, tiny_settings, tiny_store
from wenlu.core.runs import Run, checkpoint_step, is_run
from wenlu.core.settings import load
from wenlu.training.preparation import prepare
from wenlu.training.settings import RunSettings

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


@pytest.mark.promise("T1")
def test_killed_at_random_moments(lives: Lives, tmp_path: Path, lane: Lane, figure: Figure) -> None:
    """Kills from the first instant of a life on: while it reads, fits pairs, steps, evaluates, saves or deletes."""
    kills, every = lane(ci=40, nightly=200), 3
    seed = random.SystemRandom().getrandbits(32)
    draw = random.Random(seed)
    settings = [*TRANSFORMER, "model.tie_embeddings=false", "train.bigram_steps=8"]
    settings += ["train.steps=30", f"train.save_every={every}", "train.keep=2", "evaluate.every=8"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    life, whole = lives.seconds, losses(tmp_path / "unbroken")
    seen: dict[int, set[str]] = {}
    killed = runs = most_lost = 0
    while killed < kills:
        path, reach = tmp_path / f"broken-{runs}", life / 2
        runs += 1
        while (code := lives.live(path, settings, lines=0, delay=draw.uniform(0, reach))) == -signal.SIGKILL:
            killed += 1
            reach *= 1.1  # should the machine have become slower meanwhile
            most_lost = max(most_lost, lost_steps(path, seen))
        assert code == 0, f"seed {seed}"
        assert losses(path) == whole, f"seed {seed}"
    conflicting = [step for step, bits in seen.items() if len(bits) > 1]
    assert conflicting == [], f"seed {seed}"
    assert most_lost <= every, f"seed {seed}"
    figure(
        f"{killed} kills in {runs} runs (seed {seed}): 0 unreadable, 0 conflicting losses, curves equal to the last "
        f"bit, at most {most_lost} steps lost, {every} between two checkpoints"
    )


def lost_steps(path: Path, seen: dict[int, set[str]]) -> int:
    """Read what a kill left; how many logged steps its newest whole checkpoint lacks. Notes each step's loss."""
    if not is_run(path):
        return 0
    run = Run(path)
    assert run.status().get("state", "running") in ("running", "finished")
    steps = [record for record in run.read_log() if record["event"] == "step"]
    for record in steps:
        seen.setdefault(int(str(record["step"])), set()).add(float(str(record["loss"])).hex())
    newest = run.newest_checkpoint()
    return len(steps) - (checkpoint_step(newest) if newest else 0)


MATRIX = list(itertools.product(CASES, ["mid", "border"], [1, 4], [0, 2]))
DAILY = {("transformer", "mid", 1, 2), ("transformer", "border", 4, 0), ("lstm", "mid", 4, 2), ("lstm", "border", 1, 0)}


@pytest.mark.promise("T5")
@pytest.mark.parametrize(
    ("kind", "where", "accumulation", "workers"),
    [case if case in DAILY else pytest.param(*case, marks=pytest.mark.nightly) for case in MATRIX],
)
def test_goes_on_exactly(
    kind: str, where: str, accumulation: int, workers: int, lives: Lives, tmp_path: Path, figure: Figure
) -> None:
    """From a checkpoint in the middle of an epoch, and from one after the last micro-batch of an epoch."""
    settings = [*CASES[kind], f"train.accumulation={accumulation}", f"train.num_workers={workers}"]
    settings += ["train.steps=200", "train.save_every=1000", "evaluate.every=1000"]
    length, step, epochs = find_checkpoint(settings, tmp_path / "corpus", accumulation, at_border=where == "border")
    settings += [f"train.sequence_length={length}", f"train.steps={step + 50}", f"train.save_every={step}"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    code = lives.live(tmp_path / "broken", settings, lines=step + 2)  # the steps, the checkpoint, one step more
    assert code == -signal.SIGKILL
    newest = Run(tmp_path / "broken").newest_checkpoint()
    assert newest is not None
    assert checkpoint_step(newest) == step
    assert lives.live(tmp_path / "broken") == 0
    ours, theirs = losses(tmp_path / "broken"), losses(tmp_path / "unbroken")
    assert len(ours) == step + 50
    assert ours == theirs
    figure(f"after step {step}, {epochs:.2f} epochs: the next 50 losses are equal to the last bit")


def find_checkpoint(settings: list[str], corpus: Path, accumulation: int, *, at_border: bool) -> tuple[int, int, float]:
    """A window's length and an early step that ends at the border of an epoch, or not there; the epochs until then."""
    for length in range(16, 48):
        resolved = tiny_settings(*settings, f"train.sequence_length={length}")
        loader = prepare(resolved, store=tiny_store(corpus)).loader
        for step in range(5, 40):
            epochs = loader.epochs_at(step * accumulation)
            if epochs.is_integer() == at_border:
                return length, step, epochs
    raise AssertionError("no length divides the corpus")


def test_muon_in_the_machines_own_precision_resumes_exactly(lives: Lives, tmp_path: Path) -> None:
    settings = [*GPT2, f"train.steps={STEPS}", "train.precision=auto", "optimizer.name=muon", "train.save_every=4"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    chosen = load(RunSettings, file=tmp_path / "unbroken" / "run.toml").value.train.precision  # it was measured
    die_three_times(lives, tmp_path / "broken", [*settings, f"train.precision={chosen}"], seed=3)
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_another_seed_is_another_run(lives: Lives, tmp_path: Path) -> None:
    """The comparison above can fail."""
    for seed in (1, 2):
        assert lives.live(tmp_path / f"seed-{seed}", [f"train.steps={STEPS}", f"train.seed={seed}"]) == 0
    assert losses(tmp_path / "seed-1") != losses(tmp_path / "seed-2")


@pytest.mark.promise("T6")
def test_stopped_at_random_moments(lives: Lives, tmp_path: Path, lane: Lane, figure: Figure) -> None:
    seed = random.SystemRandom().getrandbits(32)
    draw = random.Random(seed)
    settings = [f"train.steps={STEPS}", "train.save_every=7", "evaluate.every=5"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    stopped = runs = 0
    slowest = 0.0
    while stopped < lane(ci=20, nightly=100):
        path, lines = tmp_path / f"stopped-{runs}", draw.randint(0, 1)
        runs += 1
        while True:
            number, expected = draw.choice([(signal.SIGINT, 130), (signal.SIGTERM, 143)])
            code = lives.live(path, settings, lines=lines, delay=draw.uniform(0, 0.03), signals=[number])
            lines += draw.randint(2, 8)
            run = Run(path)
            if code == 0:
                break
            assert code == expected, f"seed {seed}"
            assert lives.seconds < 10
            assert run.status().get("state", "stopped") == "stopped"
            step = int(str(run.status().get("step", 0)))
            assert run.newest_checkpoint() == (run.checkpoint_path(step) if step else None), "saved where it stood"
            slowest = max(slowest, lives.seconds)
            stopped += 1
        assert run.status()["state"] == "finished"
        assert_same_run(tmp_path / "unbroken", path)
    figure(
        f"{stopped} stops in {runs} runs (seed {seed}): saved, 130 or 143, gone in {slowest:.2f} s at most, exact after"
    )


@pytest.mark.promise("T6")
def test_a_second_signal_leaves_at_once_and_breaks_nothing(
    lives: Lives, tmp_path: Path, lane: Lane, figure: Figure
) -> None:
    settings = [f"train.steps={STEPS}", "train.save_every=1", "train.batch_size=64", "train.accumulation=4"]
    seed = random.SystemRandom().getrandbits(32)
    draw = random.Random(seed)
    times, slowest, at_once = lane(ci=5, nightly=25), 0.0, 0
    for _ in range(times):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        first, second = draw.choices([signal.SIGINT, signal.SIGTERM], k=2)
        moment = draw.uniform(0, 0.1)
        code = lives.live(tmp_path / "run", settings, lines=5, delay=moment, signals=[first, second])
        run = Run(tmp_path / "run")
        assert code in (130, 143), f"seed {seed}"
        at_once += run.status()["state"] == "running"
        slowest = max(slowest, lives.seconds)
        assert lives.seconds < 1
        newest = run.newest_checkpoint()
        assert newest is not None
        assert newest == run.checkpoints()[-1], "nothing was torn"
    assert at_once > 0, "a second signal does not wait for the save"
    figure(f"{times} times a second signal (seed {seed}): gone in {slowest:.3f} s at most, checkpoints whole")


def test_a_run_goes_on_without_its_status(lives: Lives, tmp_path: Path) -> None:
    settings = [f"train.steps={STEPS}", "train.save_every=5"]
    assert lives.live(tmp_path / "unbroken", settings) == 0
    for content in ("", '{"state": "runn'):
        assert lives.live(tmp_path / "torn", settings, lines=9) == -signal.SIGKILL
        for name in ("status.json", "best.json"):
            (tmp_path / "torn" / name).write_text(content, encoding="utf-8")
    assert lives.live(tmp_path / "torn") == 0
    assert Run(tmp_path / "torn").status()["state"] == "finished"
    assert_same_run(tmp_path / "unbroken", tmp_path / "torn")


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
