"""Who looks at a run while it saves, wants to train it too, stops it while it evaluates, or removes its files."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from forking import fork, wait
from promises import Figure
from saved_run import Score, goes_on, saved_run
from skips import needs_posix
from system_calls import pause, stopped
from tiny_training import tiny_evaluate, tiny_settings, tiny_store, tiny_texts
from wenlu.cli.main import main
from wenlu.core.errors import CheckpointError, RunError
from wenlu.core.publication import read_manifest, verify
from wenlu.core.runs import Run, checkpoint_step
from wenlu.models.checkpoint import digest, load_model
from wenlu.training.run import resume_run, train_run


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its first checkpoint."""
    return saved_run(tmp_path_factory.mktemp("saved").resolve())


@pytest.mark.promise("T7")
def test_nobody_sees_a_half_checkpoint(saved: Path, tmp_path: Path, figure: Figure) -> None:
    """Saving is synchronous; whoever looks meanwhile sees whole checkpoints, of the values at the call."""
    polls = seen = 0
    for number in itertools.count():
        run = tmp_path / f"run-{number}"

        def train(run: Path = run) -> int:
            settings = tiny_settings("train.steps=40", "train.save_every=1", "evaluate.every=1000", "train.keep=2")
            return train_run(settings, run, store=tiny_store(saved.parent / "corpus")).exit_code

        child = fork(train)
        known: set[str] = set()
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            polls += 1
            for checkpoint in Run(run).checkpoints():
                incomplete = missing_from(checkpoint, whole=checkpoint.name in known)
                assert not incomplete or not checkpoint.exists(), f"{incomplete} in a published checkpoint"
                known.add(checkpoint.name)
        assert wait(child) == 0
        seen += len(known)
        assert_values_at_the_call(run)
        if polls >= 10_000:
            break
    assert seen > 20
    figure(f"{polls:,} polls saw {seen} checkpoints, 0 of them incomplete; saved is what was there at the call")


def missing_from(checkpoint: Path, *, whole: bool) -> str:
    """What a checkpoint lacks: its digests are compared when it is seen first, names and sizes each time."""
    try:
        if not whole:
            verify(checkpoint)
        wrong = [
            name
            for name, record in read_manifest(checkpoint).items()
            if (checkpoint / name).stat().st_size != record.bytes
        ]
    except (CheckpointError, RunError, FileNotFoundError) as error:
        return str(error)
    return ", ".join(wrong)


def assert_values_at_the_call(run: Path) -> None:
    """The digest that was logged at the call of each save is that of the saved tensors, and each differs."""
    logged = {record["step"]: record["digest"] for record in Run(run).read_log() if record["event"] == "checkpoint"}
    assert len(set(logged.values())) == len(logged) > 1
    for checkpoint in Run(run).checkpoints():
        tensors = {**dict(load_model(checkpoint).named_parameters()), **load_file(checkpoint / "optimizer.safetensors")}
        assert digest(tensors.items()) == logged[checkpoint_step(checkpoint)]


@pytest.mark.promise("T13")
def test_a_second_trainer_is_refused(saved: Path, tmp_path: Path, figure: Figure) -> None:
    run, corpus = tmp_path / "run", saved.parent / "corpus"
    shutil.copytree(saved, run)

    def first() -> int:
        return resume_run(run, evaluate=Score({1: pause}), store=tiny_store(corpus)).exit_code

    with stopped(first) as child:
        started = time.monotonic()
        with pytest.raises(RunError) as caught:
            resume_run(run, evaluate=tiny_evaluate, store=tiny_store(corpus))
        seconds = time.monotonic() - started
        assert caught.value.id == "core.run_locked"
        assert f"process {child}" in str(caught.value)
        assert seconds < 1
        os.kill(child, signal.SIGCONT)
        assert wait(child) == 0
    figure(f"a second trainer is refused after {seconds:.3f} s; the first ends as if alone")


PACK = ["data", "pack", "--kind", "characters", "--document", "line", "-o"]


def slow_pack(folder: Path, target: Path) -> Callable[[], int]:
    """A command that packs a text and then, after a pause, a late line."""
    needs_posix()
    text, pipe = folder / "text.txt", folder / "late.txt"
    text.write_text("\n".join(f"{number} {line}" for number, line in enumerate(tiny_texts(80))), encoding="utf-8")
    os.mkfifo(pipe)

    def feed() -> None:
        with pipe.open("w", encoding="utf-8") as file:  # opens when the pack reads it
            pause()
            time.sleep(0.2)
            file.write("the last line\n")

    def pack() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        threading.Thread(target=feed, daemon=True).start()
        return CliRunner().invoke(main, [*PACK, str(target), str(text), str(pipe)], prog_name="wenlu").exit_code

    return pack


@pytest.mark.promise("T6")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_without_a_run_leaves_nothing_behind(tmp_path: Path, number: int, code: int, figure: Figure) -> None:
    with stopped(slow_pack(tmp_path, tmp_path / "store")) as child:
        assert any(".spool.tmp-" in path.name for path in tmp_path.iterdir())
        os.kill(child, number)
        os.kill(child, signal.SIGCONT)
        assert wait(child) == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.txt", "text.txt"]
    figure(f"stopped while it reads texts: {code}, no temporary file left")


@pytest.mark.promise("T13")
def test_a_second_pack_on_one_output_is_refused(tmp_path: Path, figure: Figure) -> None:
    target = tmp_path / "store"
    with stopped(slow_pack(tmp_path, target)) as child:
        started = time.monotonic()
        second = CliRunner().invoke(main, [*PACK, str(target), str(tmp_path / "text.txt")], prog_name="wenlu")
        seconds = time.monotonic() - started
        assert second.exit_code == 1
        assert f"process {child}" in second.stderr
        assert seconds < 1
        os.kill(child, signal.SIGCONT)
        assert wait(child) == 0
    verify(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.txt", "store", "text.txt"]
    figure(f"a second pack on one output is refused after {seconds:.3f} s; the first one's store is whole")


@pytest.mark.promise("T6")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("call", [1, 3], ids=["first", "last"])
def test_a_long_evaluation_is_left_in_the_middle(
    saved: Path, tmp_path: Path, number: int, code: int, call: int, figure: Figure
) -> None:
    """What was not evaluated then is evaluated after the resume, so that the log is that of an unbroken run."""
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    (tmp_path / "corpus").symlink_to(saved.parent / "corpus")

    def wait_long() -> None:
        """Many short waits, as an evaluation is many short calls.

        Where a stopped process is woken, any of its threads may take the signal, and a sleep of the main thread then
        goes on to its end.
        """
        pause()
        for _ in range(600):
            time.sleep(0.1)

    with stopped(lambda: goes_on(run, Score({call: wait_long}))) as child:
        started = time.monotonic()
        os.kill(child, number)
        os.kill(child, signal.SIGCONT)
        assert wait(child) == code
        seconds = time.monotonic() - started
    assert seconds < 10
    left = Run(run)
    step = 2 * call + 2
    assert left.status()["state"] == "stopped"
    assert left.newest_checkpoint() == left.checkpoint_path(step)
    assert wait(fork(lambda: goes_on(run, Score(first=0.1)))) == 0
    evaluated = [record["step"] for record in left.read_log() if record["event"] == "evaluation"]
    assert evaluated == [2, 4, 6, 8]
    assert [record["event"] for record in left.read_log()][-1] == "final_evaluation"
    figure(f"an evaluation of 60 s is left after {seconds:.2f} s, the step is saved")


def test_a_run_that_lost_its_settings_is_told_so(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run")
    for content in ("", None):
        settings = tmp_path / "run" / "run.toml"
        if content is None:
            settings.unlink()
        else:
            settings.write_text(content)
        for words in (["--resume", tmp_path / "run"], ["--resume", tmp_path / "run", "--verify"]):
            found = CliRunner().invoke(main, ["train", *map(str, words)], prog_name="wenlu")
            assert found.exit_code == 2
            assert "lost its settings" in found.stderr
            assert "run.toml" in found.stderr
