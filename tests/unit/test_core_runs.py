"""A run directory: one writer, a log that can be cut, checkpoints of which a whole one always stays."""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forking import break_call, fork, kill_self, wait
from promises import Figure, Lane
from skips import needs_posix
from wenlu.core import locking, publication
from wenlu.core.errors import CheckpointError, RunError
from wenlu.core.publication import publish, verify
from wenlu.core.runs import Run, checkpoint_step, newest_run, resolve_model, wenlu_home


def make_run(path: Path, **status: object) -> Run:
    run = Run.create(path)
    run.write_settings("[train]\nsteps = 1\n")
    run.write_status(state="running", **status)
    return run


def save(run: Run, step: int) -> Path:
    path = run.checkpoint_path(step)

    def write(folder: Path) -> None:
        (folder / "config.json").write_text(str(step))

    publish(path, write)
    return path


def damage(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("damaged")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = make_run(tmp_path / "runs" / "a")
    yield run
    run.close()


# ---- files ----


def test_create_refuses_a_run_and_open_refuses_anything_else(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        Run.create(run.path)
    assert caught.value.id == "core.run_exists"
    assert Run.open(run.path).status() == {"state": "running"}
    for other in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="not a run directory"):
            Run.open(other)


def test_status_is_merged(run: Run) -> None:
    run.write_status(step=3)
    run.write_status(state="stopped")
    assert run.status() == {"state": "stopped", "step": 3}


@pytest.mark.parametrize("content", ["", '{"state": "runn', "[]", "\0"])
def test_a_damaged_status_is_announced_and_written_anew(
    run: Run, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("status.json", "best.json"):
        (run.path / name).write_text(content, "utf-8")
    assert run.status() == {}
    assert run.best_checkpoint() is None
    assert "status.json is damaged" in caplog.text
    assert "best.json is damaged" in caplog.text
    run.write_status(state="running")
    assert run.status() == {"state": "running"}


def test_only_what_a_run_makes_is_removed_from_it(run: Run) -> None:
    spared = [run.path / ".notes.txt.tmp-1", run.path / "checkpoints" / ".mine.old-1"]
    for path in spared:
        path.touch()
    (run.path / ".final.tmp-1").mkdir()
    (run.path / "checkpoints" / ".step-00000001.tmp-1").mkdir()
    with run.lock():
        assert all(path.exists() for path in spared)
        assert not (run.path / ".final.tmp-1").exists()
        assert [path.name for path in (run.path / "checkpoints").iterdir()] == [".mine.old-1"]


def test_an_empty_settings_file_is_none(run: Run) -> None:
    """It would be read as the defaults."""
    assert run.has_settings()
    run.settings_path.write_text("")
    assert not run.has_settings()
    run.settings_path.unlink()
    assert not run.has_settings()


def test_log_keeps_every_bit_of_a_float(run: Run) -> None:
    losses = [0.1 + 0.2, 1e-300, 1 / 3, float("inf")]
    for step, loss in enumerate(losses):
        run.append_log({"step": step, "loss": loss, "文": "炉"})
    assert [record["loss"] for record in run.read_log()] == losses


@pytest.mark.parametrize("torn", [b'{"step": 9, "lo', b'{"step": 9}', b"\xe6\x96", b"x" * 9000])
def test_a_torn_last_line_is_left_out_and_overwritten(run: Run, torn: bytes) -> None:
    run.append_log({"step": 1})
    run.close()
    with (run.path / "log.jsonl").open("ab") as file:
        file.write(torn)
    assert run.read_log() == [{"step": 1}]
    run.append_log({"step": 2})
    run.close()
    assert (run.path / "log.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_log_that_is_one_torn_line_becomes_empty(run: Run) -> None:
    (run.path / "log.jsonl").write_bytes(b"half")
    assert run.read_log() == []
    run.append_log({"step": 1})
    assert run.read_log() == [{"step": 1}]


def test_a_damaged_line_inside_the_log_is_an_error(run: Run) -> None:
    (run.path / "log.jsonl").write_bytes(b'half\n{"step": 1}\n')
    with pytest.raises(CheckpointError, match="not JSON"):
        run.read_log()


def test_cut_log_drops_later_steps_and_the_log_goes_on(run: Run) -> None:
    for step in range(6):
        run.append_log({"step": step, "kind": "train"})
        run.append_log({"step": step, "kind": "evaluation"})
    run.cut_log(2)
    assert [record["step"] for record in run.read_log()] == [0, 0, 1, 1, 2, 2]
    run.append_log({"step": 3})
    assert run.read_log()[-1] == {"step": 3}
    assert len(run.read_log()) == 7


# ---- the lock ----


@pytest.mark.promise("T13")
def test_second_writer_is_refused_at_once_and_told_who_writes(run: Run, figure: Figure) -> None:
    needs_posix()
    with run.lock():

        def other() -> int:
            started = time.monotonic()
            try:
                with Run(run.path).lock():
                    return 1
            except RunError as error:
                told = error.id == "core.run_locked" and f"process {os.getppid()}, since 20" in str(error)
                return 0 if told and time.monotonic() - started < 1 else 2

        assert wait(fork(other)) == 0
    with run.lock():
        pass
    figure("a second writer is refused in less than 1 s and told which process writes")


def test_lock_within_one_process_is_exclusive_too(run: Run) -> None:
    needs_posix()
    with run.lock(), pytest.raises(RunError, match="another process is writing"), Run(run.path).lock():
        pass


@pytest.mark.promise("T13")
def test_a_dead_holder_is_taken_over_fifty_times(run: Run, caplog: pytest.LogCaptureFixture, figure: Figure) -> None:
    needs_posix()
    caplog.set_level("INFO", "wenlu")

    def die() -> int:
        with run.lock():
            (run.path / "checkpoints" / ".step-00000001.tmp-1").mkdir(exist_ok=True)
            kill_self()
        return 0

    for _ in range(50):
        child = fork(die)
        assert wait(child) == -9
        caplog.clear()
        with run.lock():
            assert f"process {child} " in caplog.text
            assert list((run.path / "checkpoints").iterdir()) == []
    caplog.clear()
    with run.lock():
        assert "died" not in caplog.text
    figure("a dead holder taken over, and its leftovers removed: 50 of 50")


def test_a_lock_is_waited_for_and_leaves_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    needs_posix()
    caplog.set_level("INFO", "wenlu")
    path, done = tmp_path / ".store.lock", tmp_path / "done"

    def first() -> int:
        with locking.hold(path, tmp_path / "store", remove=True):
            time.sleep(0.3)
            done.touch()
        return 0

    child = fork(first)
    while not path.exists() or not path.read_text("utf-8"):
        time.sleep(0.001)
    with pytest.raises(RunError) as caught, locking.hold(path, tmp_path / "store", remove=True):
        pass
    assert caught.value.id == "core.run_locked"
    with locking.hold(path, tmp_path / "store", wait=True, remove=True):
        assert done.exists()
        assert "waiting for it" in caplog.text
    assert wait(child) == 0
    assert not path.exists()


def test_one_holder_at_a_time_while_the_lock_file_comes_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_posix()
    monkeypatch.setattr(locking, "_POLL_SECONDS", 0)
    path, inside = tmp_path / "lock", tmp_path / "inside"

    def many() -> int:
        for _ in range(200):
            with locking.hold(path, tmp_path, wait=True, remove=True):
                inside.mkdir()  # fails when somebody is there
                inside.rmdir()
        return 0

    children = [fork(many) for _ in range(3)]
    assert [wait(child) for child in children] == [0, 0, 0]


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)


def test_without_flock_an_exclusive_file_stands_in(run: Run, no_flock: None, caplog: pytest.LogCaptureFixture) -> None:
    with run.lock():
        assert "cannot lock files" in caplog.text
        with pytest.raises(RunError) as caught, Run(run.path).lock():
            pass
        assert caught.value.id == "core.run_locked_exclusively"
        assert "lock.exclusive" in str(caught.value)
    with run.lock():
        pass


def test_who_can_lock_does_not_pass_by_who_could_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of locks that fails for a while must not let in two writers."""
    needs_posix()
    import fcntl

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as broken:
        broken.setattr(fcntl, "flock", fail)
        first = run.lock()
        first.__enter__()
    with pytest.raises(RunError) as caught, Run(run.path).lock():
        pass
    assert caught.value.id == "core.run_locked_exclusively" and f"process {os.getpid()}" in str(caught.value)
    first.__exit__(None, None, None)
    with run.lock():
        pass


def test_lock_on_a_read_only_disk_is_one_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(locking.Path, "open", fail)
    with pytest.raises(RunError) as caught, run.lock():
        pass
    assert caught.value.id == "core.disk_read_only"


@pytest.mark.parametrize("room", [200, 10])
def test_a_full_disk_is_one_error_when_the_files_are_closed_too(run: Run, room: int) -> None:
    """Closing a file flushes again what the disk did not take: the log's line (room for the lock), the lock's."""
    needs_posix()

    def fill() -> int:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))  # no file may grow beyond it
        try:
            with run.lock():
                run.append_log({"step": 1, "text": "x" * 1000})
        except RunError as error:
            return 42 if error.id == "core.file_failed" else 1
        return 2

    assert wait(fork(fill)) == 42


# ---- checkpoints ----


def test_checkpoints_are_sorted_by_step(run: Run) -> None:
    for step in (123456789, 20, 3):
        save(run, step)
    (run.path / "checkpoints" / "notes").mkdir()
    assert [checkpoint_step(path) for path in run.checkpoints()] == [3, 20, 123456789]
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint_step(run.path)


def test_newest_checkpoint_is_the_newest_whole_one(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert run.newest_checkpoint() is None
    for step in (1, 2, 3):
        save(run, step)
    assert run.newest_checkpoint() == run.checkpoint_path(3)
    damage(run.checkpoint_path(3))
    (run.checkpoint_path(2) / "MANIFEST.json").unlink()
    assert run.newest_checkpoint() == run.checkpoint_path(1)
    assert str(run.checkpoint_path(3)) in caplog.text
    assert str(run.checkpoint_path(2)) in caplog.text


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_an_unreadable_checkpoint_is_passed_over(
    run: Run, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    digest = publication.file_sha256

    def fail(path: Path) -> str:
        if path.parent == run.checkpoint_path(2):
            raise OSError(code, os.strerror(code))
        return digest(path)

    save(run, 1)
    save(run, 2)
    monkeypatch.setattr(publication, "file_sha256", fail)
    assert run.newest_checkpoint() == run.checkpoint_path(1)
    assert str(run.checkpoint_path(2)) in caplog.text and os.strerror(code) in caplog.text


def test_retention_keeps_the_newest_the_best_and_the_last_whole_one(run: Run) -> None:
    for step in range(1, 7):
        save(run, step)
    run.write_best(run.checkpoint_path(2), value=1.5)
    assert run.best_checkpoint() == run.checkpoint_path(2)
    damage(run.checkpoint_path(5))
    damage(run.checkpoint_path(6))
    deleted = run.retain(2, protect=[run.checkpoint_path(1)])
    assert deleted == [run.checkpoint_path(3)]
    assert [checkpoint_step(path) for path in run.checkpoints()] == [1, 2, 4, 5, 6]
    assert run.retain(10) == []
    assert run.retain(0) == [run.checkpoint_path(step) for step in (1, 5, 6)]


@pytest.mark.promise("T8")
def test_retention_under_kill_always_leaves_a_whole_checkpoint(run: Run, lane: Lane, figure: Figure) -> None:
    """A kill at every call of every deletion: with the newest whole or damaged, and keeping two, one or none."""
    needs_posix()
    kills, wanted = 0, lane(ci=40, nightly=200)
    cases = itertools.cycle(itertools.product((True, False), (2, 1, 0)))
    while kills < wanted:
        newest_whole, keep = next(cases)
        number = 0
        while kill_in_retention(run, number, keep=keep, newest_whole=newest_whole):
            number += 1
            kills += 1
        assert number > 5
    figure(f"{kills} kills while old checkpoints were deleted: a whole one there at all times, leftovers removed")


def kill_in_retention(run: Run, number: int, *, keep: int, newest_whole: bool) -> bool:
    """Kill a deletion at one call and look at what is left; whether it came that far."""
    for step in range(1, 6):
        if not run.checkpoint_path(step).exists():
            save(run, step)
    if not newest_whole:
        damage(run.checkpoint_path(5))
    whole = run.checkpoint_path(5 if newest_whole else 4)

    def retain() -> int:
        break_call(number, kill_self)
        run.retain(keep)
        return 0

    code = wait(fork(retain))
    assert run.newest_checkpoint() == whole
    for checkpoint in run.checkpoints():
        if checkpoint != run.checkpoint_path(5):
            verify(checkpoint)
    with run.lock():
        assert [path.name for path in (run.path / "checkpoints").iterdir() if path.name.startswith(".")] == []
    assert code in (0, -9)
    return code != 0


# ---- which model is meant ----


def model(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_resolve_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wenlu")
    root = tmp_path / "runs"
    with pytest.raises(CheckpointError) as caught:
        resolve_model(None, root=root)
    assert caught.value.id == "core.no_run"

    directory = model(tmp_path / "model")
    assert resolve_model(directory, root=root) == directory
    run = make_run(root / "first")
    with pytest.raises(CheckpointError, match="no usable model"):
        resolve_model("first", root=root)
    with pytest.raises(CheckpointError, match="none finished"):
        resolve_model(None, root=root)
    save(run, 1)
    save(run, 2)
    assert resolve_model("first", root=root) == run.checkpoint_path(2)
    run.write_best(run.checkpoint_path(1))
    assert resolve_model(run.path, root=root) == run.checkpoint_path(1)
    model(run.path / "final")
    run.write_status(state="finished")
    assert resolve_model(str(run.path), root=root) == run.path / "final"

    second = make_run(root / "second")
    model(second.path / "final")
    second.write_status(state="finished")
    os.utime(run.path / "status.json", (1, 1))
    assert newest_run(root) == second.path
    assert resolve_model(None, root=root) == second.path / "final"
    assert str(second.path) in caplog.text

    with pytest.raises(CheckpointError, match=r"did you mean second\?"):
        resolve_model("secnd", root=root)
    with pytest.raises(CheckpointError, match="holds no model"):
        resolve_model(tmp_path, root=root)


def test_a_fetched_model_has_a_name_and_a_gguf_file_stands_for_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENLU_HOME", str(tmp_path))
    root = tmp_path / "runs"
    fetched = model(tmp_path / "models" / "encoder")
    assert resolve_model("encoder", root=root) == fetched
    with pytest.raises(CheckpointError, match=r"did you mean encoder\?"):
        resolve_model("encodr", root=root)
    make_run(root / "encoder")
    model(root / "encoder" / "final")
    assert resolve_model("encoder", root=root) == root / "encoder" / "final", "a run of one's own comes first"
    chat = tmp_path / "models" / "chat"
    chat.mkdir()
    (chat / "small.gguf").touch()
    assert resolve_model("chat", root=root) == resolve_model(chat / "small.gguf", root=root) == chat / "small.gguf"
    (chat / "other.gguf").touch()
    with pytest.raises(CheckpointError, match="holds no model"):
        resolve_model("chat", root=root)


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WENLU_HOME", "~/x")
    assert wenlu_home() == Path.home() / "x"
    monkeypatch.delenv("WENLU_HOME")
    assert wenlu_home() == Path.home() / ".cache" / "wenlu"


def test_data_record_is_readable(run: Run) -> None:
    run.write_data({"dropped": {"重复": 3}})
    assert json.loads((run.path / "data.json").read_text("utf-8")) == {"dropped": {"重复": 3}}


@pytest.mark.parametrize("with_settings", [False, True])
def test_a_run_that_ends_before_its_settings_leaves_its_name_free(tmp_path: Path, with_settings: bool) -> None:
    run = Run.create(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), run.lock(), run.begun():
        run.write_status(state="stopped")
        if with_settings:
            run.write_settings("# mine\n")
        raise KeyboardInterrupt
    assert run.path.exists() == with_settings
