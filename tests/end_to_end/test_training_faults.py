"""A run that is killed, or whose disk fails, at any call of a save keeps a whole checkpoint and tells of it."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from forking import fork, wait
from full_disk import CANNOT_MOUNT, enlarge, make_read_only, mount_small_disk
from promises import Figure, Lane
from saved_run import FIRST, SECOND, Score, goes_on, leave, saved_run
from skips import cannot_mount, needs_posix, needs_tool
from system_calls import CHANGES, pause, traced
from tiny_training import SMALL, TRANSFORMER, losses, tiny_texts
from wenlu.cli.main import main
from wenlu.core.errors import CheckpointError
from wenlu.core.runs import Run, checkpoint_step
from wenlu.training.state import read_state


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its first checkpoint."""
    return saved_run(tmp_path_factory.mktemp("saved").resolve())


class Attempts:
    """Makes the second save of a copy of a run again and again, each time with another call broken by strace."""

    def __init__(self, saved: Path, folder: Path) -> None:
        self.strace = needs_tool("strace")
        self.folder = folder.resolve()
        self.run = self.folder / "run"
        self.said = ""
        self._saved = saved
        self._corpus = saved.parent / "corpus"

    def once(self, *options: str) -> int:
        """One second save, from its evaluation to the next, with strace's options."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._saved, self.run)
        (self.folder / "corpus").symlink_to(self._corpus)
        options = ("-y", "-o", str(self.folder / "calls"), *options)
        said = mmap.mmap(-1, 1 << 16)
        code = traced(self.strace, options, lambda: goes_on(self.run, Score({1: pause, 2: leave}), said))
        self.said = said[:].rstrip(b"\0").decode()
        return code

    def calls(self) -> list[tuple[str, int]]:
        """Every call that changes the disk in one unbroken save, in order: its name, and which of that name it is."""
        assert self.once("-e", f"trace={CHANGES}") == 0
        found: Counter[str] = Counter()
        calls = []
        for line in (self.folder / "calls").read_text(encoding="utf-8", errors="replace").splitlines():
            name = line.split("(")[0]
            found[name] += name.isidentifier()
            if name.isidentifier() and not (name == "openat" and "O_CREAT" not in line):
                calls.append((name, found[name]))
        return calls

    def broken(self) -> str:
        """The call that strace broke, and what came of it."""
        lines = (self.folder / "calls").read_text(encoding="utf-8", errors="replace").splitlines()
        call = next((line for line in lines if "(INJECTED)" in line), lines[-1])
        return f"{call[:200]} ... {call[-100:]}: {self.said}"

    def start_again(self) -> int:
        """What the next start finds, having removed what was left: the step of the newest whole checkpoint."""
        before = Run(self.run).newest_checkpoint()
        assert before is not None
        with Run(self.run).lock():
            names = [entry.name for place in (self.run, self.run / "checkpoints") for entry in place.iterdir()]
            assert [name for name in names if name.startswith(".")] == []
        newest = Run(self.run).newest_checkpoint()
        assert newest is not None
        assert newest == before
        assert read_state(newest).step == checkpoint_step(newest)
        return checkpoint_step(newest)


@pytest.mark.promise("T2")
def test_killed_at_every_call_of_a_save(saved: Path, tmp_path: Path, figure: Figure) -> None:
    attempts = Attempts(saved, tmp_path / "attempt")
    found = []
    for name, number in attempts.calls():
        code = attempts.once("-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
        assert code == -signal.SIGKILL
        found.append(attempts.start_again())
        if len(found) % 10 == 0:
            assert wait(fork(lambda: goes_on(attempts.run, Score()))) == 0
            assert [step for step, _ in losses(attempts.run)] == list(range(1, 9))
    assert set(found) == {FIRST, SECOND}
    assert found == sorted(found)
    assert len(found) > 60
    figure(f"{len(found)} calls of a save, killed at each: a whole checkpoint after all, leftovers removed")


ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT")


@pytest.mark.promise("T3")
def test_an_error_at_every_call_of_a_save(saved: Path, tmp_path: Path, lane: Lane, figure: Figure) -> None:
    """Daily each call meets one of the errors, nightly all; every other time they stay from that call on.

    Opening files fails once only: nobody could read the messages either.
    """
    attempts = Attempts(saved, tmp_path / "attempt")
    refused = tolerated = 0
    for shift in range(lane(ci=1, nightly=len(ERRORS))):
        for place, (name, number) in enumerate(attempts.calls()):
            error = ERRORS[(place + shift) % len(ERRORS)]
            when = f"{number}{'+' if place // len(ERRORS) % 2 and name != 'openat' else ''}"
            code = attempts.once("-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={when}")
            if code == 1:
                assert str(attempts.run) in attempts.said, attempts.broken()
                assert os.strerror(getattr(errno, error)) in attempts.said, attempts.broken()
                assert "B free" in attempts.said, attempts.broken()
                refused += 1
            else:
                assert code == 0, attempts.broken()
                tolerated += 1
            attempts.start_again()
    assert refused > 40
    figure(f"{refused + tolerated} errors: {refused} told with path and free space, {tolerated} harmless, all whole")


@pytest.mark.promise("T3")
def test_a_disk_that_is_really_full(tmp_path: Path, figure: Figure) -> None:
    """A tmpfs of one megabyte and the command as a user types it; then there is room, then no right to write."""
    needs_posix()
    text, disk = tmp_path / "text.txt", tmp_path / "disk"
    text.write_text("\n".join(f"{number} {line}" for number, line in enumerate(tiny_texts(80))), encoding="utf-8")
    disk.mkdir()
    (tmp_path / "settings.toml").write_text("[evaluate]\nmax_tokens = 500\n", encoding="utf-8")
    words = [*TRANSFORMER, *SMALL, "train.steps=12", "train.save_every=1", "train.keep=100", "data.document=line"]

    def wenlu(*arguments: object) -> tuple[int, str]:
        found = CliRunner().invoke(main, ["train", *map(str, arguments)], prog_name="wenlu")
        return found.exit_code, found.stderr

    def child() -> int:
        if not mount_small_disk(disk, "1m"):
            return CANNOT_MOUNT
        run = disk / "run"
        code, said = wenlu(tmp_path / "settings.toml", *words, "tokenizer.kind=characters", "--data", text, "-o", run)
        assert code == 1, said
        assert "Traceback" not in said
        assert str(run) in said
        assert "0.0" in said and "MB free" in said
        whole = Run(run).newest_checkpoint()
        assert whole is not None
        code, said = wenlu("--resume", run)
        assert code == 1, said
        assert "the disk is full" in said
        assert Run(run).newest_checkpoint() == whole
        assert enlarge(disk, "8m")
        code, said = wenlu("--resume", run)
        assert code == 0, said
        assert [step for step, _ in losses(run)] == list(range(1, 13))
        assert make_read_only(disk)
        for arguments in (["--resume", run], [tmp_path / "settings.toml", *words, "--data", text, "-o", disk / "b"]):
            code, said = wenlu(*arguments)
            assert code == 1, said
            assert "the disk is read-only" in said
            assert str(disk) in said
        return checkpoint_step(whole)

    code = wait(fork(child))
    if code == CANNOT_MOUNT:
        cannot_mount()
    assert 0 < code < 12
    figure(f"a full tmpfs: told, {code} checkpoints whole; with room the run ends; a read-only disk is told")


@pytest.mark.parametrize("key", ["step", "next_batch", "seconds", "data"])
def test_a_state_without_its_place_is_refused(key: str, tmp_path: Path) -> None:
    place = {"step": 3, "next_batch": 3, "seconds": 1.5, "data": "0"}
    (tmp_path / "state.json").write_text(json.dumps({"format": 1, **place}), encoding="utf-8")
    assert read_state(tmp_path).step == 3
    del place[key]
    (tmp_path / "state.json").write_text(json.dumps({"format": 1, **place}), encoding="utf-8")
    with pytest.raises(CheckpointError) as refused:
        read_state(tmp_path)
    assert refused.value.id == "training.state_format"
