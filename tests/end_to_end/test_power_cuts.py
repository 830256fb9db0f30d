"""The order in which a training run's saves reach the disk, and what a power cut at any point of it may take away."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from promises import Figure, Lane
from skips import needs_tool
from system_calls import CHANGES, Call, Disk, pause, read_calls, traced
from tiny_training import tiny_evaluate, tiny_settings, tiny_store
from wenlu.core.publication import verify
from wenlu.core.runs import Run, checkpoint_step
from wenlu.training.run import train_run
from wenlu.training.state import read_state


@pytest.mark.promise("T4")
def test_flushed_before_named_before_deleted(tmp_path: Path, lane: Lane, figure: Figure) -> None:
    """Data before folder before name before the parent's entry; then power cuts that take whatever was not flushed."""
    strace = needs_tool("strace")
    disk = tmp_path.resolve() / "disk"
    disk.mkdir()
    run = disk / "runs" / "run"  # two levels below what is there

    def child() -> int:
        settings = tiny_settings("train.steps=6", "train.save_every=2", "evaluate.every=1000", "train.keep=1")
        store = tiny_store(tmp_path / "corpus")
        pause()
        return train_run(settings, run, evaluate=tiny_evaluate, store=store).exit_code

    options = ("-y", "-s", "99999999", "-e", f"trace={CHANGES}", "-o", str(tmp_path / "calls"))
    assert traced(strace, options, child) == 0
    calls = read_calls(tmp_path / "calls", disk)
    orders = check_order(calls, run, disk)
    seed = random.SystemRandom().getrandbits(32)
    replays = lane(ci=500, nightly=2000)
    accepted = sum(
        replay(calls, run, disk, tmp_path / "after", random.Random(seed + number)) for number in range(replays)
    )
    assert orders == 4  # three checkpoints and the final model
    assert accepted > replays / 2
    figure(f"{len(calls)} calls, {orders} publications in order; {replays} power cuts (seed {seed}): 0 halves accepted")


def check_order(calls: list[Call], run: Path, root: Path) -> int:
    """How many directories were published; each was flushed when it was named, and its parent before all else."""
    disk, published = Disk(root), 0
    for call, following in zip(calls, [*calls[1:], None], strict=True):
        if call.name.startswith("rename") and is_published(call.paths[-1], run):
            assert disk.unflushed(call.paths[0]) == []
            assert following is not None
            assert (following.name, following.paths[0]) == ("fsync", call.paths[-1].parent)
            published += 1
        disk.apply(call)
    return published


def is_published(path: Path, run: Path) -> bool:
    """Whether this is the name of a checkpoint or of the final model."""
    return path == run / "final" or (path.parent == run / "checkpoints" and path.name.startswith("step-"))


def replay(calls: list[Call], run: Path, root: Path, after: Path, draw: random.Random) -> bool:
    """Cut the power at a random call and look at what is left; whether there was a checkpoint to go on from."""
    cut = draw.randrange(1, len(calls) + 1)
    disk, promised, deleted = Disk(root), 0, set[str]()
    for call, before in zip(calls[:cut], [None, *calls], strict=False):
        disk.apply(call)
        if call.name.startswith("rename") and ".step-" in call.paths[-1].name:
            deleted.add(call.paths[0].name)
        if before is not None and before.name.startswith("rename") and before.paths[-1].name.startswith("step-"):
            promised = checkpoint_step(before.paths[-1])
    shutil.rmtree(after, ignore_errors=True)
    disk.write_to(after, draw if draw.random() < 0.5 else None)
    left = Run(after / run.relative_to(root))
    for checkpoint in left.checkpoints():
        if checkpoint.name not in deleted:
            verify(checkpoint)
            assert read_state(checkpoint).step == checkpoint_step(checkpoint)
    newest = left.newest_checkpoint()
    assert (checkpoint_step(newest) if newest else 0) >= promised
    for name in ("status.json", "data.json"):
        assert not (left.path / name).exists() or json.loads((left.path / name).read_bytes())
    logged = [record["step"] for record in left.read_log() if record["event"] == "step"]
    assert newest is None or logged[: checkpoint_step(newest)] == list(range(1, checkpoint_step(newest) + 1))
    return newest is not None
