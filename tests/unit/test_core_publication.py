"""A directory is published whole or not at all, and its manifest finds every damage."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forking import break_call, fork, kill_after, kill_self, wait
from promises import Figure
from skips import needs_posix, needs_tool
from wenlu.core import publication
from wenlu.core.errors import CheckpointError, DataError, RunError, WenluError
from wenlu.core.publication import (
    MANIFEST,
    check_target,
    make_directory,
    publish,
    read_manifest,
    remove_directory,
    storage_error,
    sweep,
    verify,
    write_file_atomically,
)

CONTENT = {"model.safetensors": b"\x00\x01weights" * 1000, "config.json": b"{}", "component_0/config.json": b"[1]"}


def writer(content: dict[str, bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, data in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    return write


@pytest.fixture
def published(tmp_path: Path) -> Path:
    target = tmp_path / "step-00000001"
    publish(target, writer(CONTENT))
    return target


def test_publish_writes_files_and_manifest_and_nothing_else(published: Path) -> None:
    record = json.loads((published / MANIFEST).read_text("utf-8"))
    assert record["format"] == 1
    assert record["files"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in CONTENT.items()
    }
    assert [entry.name for entry in published.parent.iterdir()] == [published.name]
    verify(published)


def test_publish_refuses_an_existing_target(published: Path) -> None:
    with pytest.raises(DataError) as caught:
        publish(published, writer({"a": b"new"}))
    assert caught.value.id == "core.target_exists"
    verify(published)
    publish(published, writer({"a": b"new"}), replace=True)
    assert set(read_manifest(published)) == {"a"}
    assert [entry.name for entry in published.parent.iterdir()] == [published.name]


def test_only_what_was_published_is_replaced(published: Path, tmp_path: Path) -> None:
    """A slip of the hand (``--output . --replace``) must not cost a user's own folder."""
    own = tmp_path / "own"
    own.mkdir()
    check_target(tmp_path / "new", replace=False)
    check_target(published, replace=True)
    check_target(own, replace=True)  # nothing is lost with an empty folder
    (own / "novel.txt").write_text("chapter 1", encoding="utf-8")
    for target, replace, id in (
        (published, False, "core.target_exists"),
        (own, True, "core.target_foreign"),
        (own / "novel.txt", True, "core.target_foreign"),
    ):
        with pytest.raises(DataError) as caught:
            check_target(target, replace=replace)
        assert caught.value.id == id
        assert str(target) in str(caught.value)


def test_publish_that_loses_a_race_is_an_error_and_leaves_the_winner(tmp_path: Path) -> None:
    target = tmp_path / "store"

    def slow(folder: Path) -> None:
        writer({"a": b"loser"})(folder)
        target.mkdir()
        (target / "winner").touch()

    with pytest.raises(DataError, match="exists already"):
        publish(target, slow)
    assert [path.name for path in tmp_path.rglob("*")] == ["store", "winner"]


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()], ids=["bug", "interrupt"])
def test_publish_leaves_nothing_when_the_writer_fails(tmp_path: Path, error: BaseException) -> None:
    def write(folder: Path) -> None:
        (folder / "half").touch()
        raise error

    with pytest.raises(type(error)):
        publish(tmp_path / "target", write)
    assert list(tmp_path.iterdir()) == []


# ---- the disk refuses ----

CODES = {
    errno.ENOSPC: "core.disk_full",
    errno.EDQUOT: "core.disk_full",
    errno.EROFS: "core.disk_read_only",
    errno.EIO: "core.disk_failed",
    errno.EACCES: "core.no_permission",
    errno.ENAMETOOLONG: "core.file_failed",
}


@pytest.mark.parametrize("code", CODES)
def test_system_errors_name_path_and_free_space(tmp_path: Path, code: int, chinese: None) -> None:
    def write(folder: Path) -> None:
        raise OSError(code, os.strerror(code))

    target = tmp_path / "below" / "target"
    with pytest.raises(RunError) as caught:
        publish(target, write)
    assert caught.value.id == CODES[code]
    assert str(target) in str(caught.value)
    assert "GB" in str(caught.value) or "MB" in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    "message",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        'IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
    ],
)
def test_system_errors_inside_rust_libraries_are_recognised(tmp_path: Path, message: str) -> None:
    def write(folder: Path) -> None:
        raise RuntimeError(message)

    with pytest.raises(RunError) as caught:
        publish(tmp_path / "target", write)
    assert caught.value.id == "core.disk_full"


def _enumerate(call: Callable[[], None], action: Callable[[], None], after: Callable[[int, int], None]) -> int:
    """Break every call in turn, each in a child; ``after`` gets the call's number and the exit code.

    Exit codes: 10 a disk-full error of ours, 11 another one, 12 the failure was tolerated, -9 killed.
    """

    def child(number: int) -> int:
        reached = break_call(number, action)
        try:
            call()
        except WenluError as error:
            return 10 if error.id == "core.disk_full" and "free" in str(error) else 11
        return 12 if reached() else 0

    for number in range(1000):
        code = wait(fork(lambda number=number: child(number)))
        if code == 0:
            return number
        after(number, code)
    raise AssertionError("the call never came to its end")


def _no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.promise("T3")
def test_a_full_disk_at_any_call_is_one_error_and_leaves_the_old(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    target = tmp_path / "target"
    publish(target, writer({"version": b"old"}))
    early: list[int] = []
    late: list[int] = []

    def after(number: int, code: int) -> None:
        assert code in (10, 12), f"call {number} ended with {code}"
        sweep(tmp_path, bool, all_processes=True)
        verify(target)
        if code == 10:
            (late if (target / "version").read_bytes() == b"new" else early).append(number)
        else:
            assert (target / "version").read_bytes() == b"new"
        publish(target, writer({"version": b"old"}), replace=True)

    _enumerate(lambda: publish(target, writer({"version": b"new", **CONTENT}), replace=True), _no_space, after)
    assert len(early) > 15
    assert late[-1] > max(early), "after the rename only the last flush may fail, and the new one is whole"
    assert (target / "version").read_bytes() == b"new"
    figure(f"a full disk at {len(early) + len(late)} calls of a replacement: one error each, the old or the new whole")


@pytest.mark.promise("T2")
def test_kill_at_any_call_leaves_the_old_or_the_new(tmp_path: Path, figure: Figure) -> None:
    needs_posix()
    target = tmp_path / "target"
    publish(target, writer({"version": b"old"}))
    seen = set()

    def after(number: int, code: int) -> None:
        assert code == -9
        sweep(tmp_path, bool)
        assert [entry.name for entry in tmp_path.iterdir()] == ["target"]
        verify(target)
        seen.add((target / "version").read_bytes())
        publish(target, writer({"version": b"old"}), replace=True)

    kills = _enumerate(lambda: publish(target, writer({"version": b"new", **CONTENT}), replace=True), kill_self, after)
    assert seen == {b"old", b"new"}
    figure(f"{kills} calls of a replacement, killed at each: the old or the new is whole")


def test_kill_at_random_moments_leaves_whole_directories(tmp_path: Path) -> None:
    needs_posix()
    moments = random.Random(7)
    whole = 0

    def publish_many() -> None:
        for step in range(100_000):
            publish(tmp_path / f"{os.getpid()}-{step:06d}", writer(CONTENT))

    for _ in range(20):
        assert kill_after(fork(publish_many), moments.uniform(0.005, 0.08)) == -9
        sweep(tmp_path, bool)
        for directory in tmp_path.iterdir():
            assert not directory.name.startswith(".")
            verify(directory)
            whole += 1
            remove_directory(directory)
    assert whole > 0


def test_write_file_atomically_survives_a_kill_at_any_call(tmp_path: Path) -> None:
    needs_posix()
    path = tmp_path / "status.json"
    write_file_atomically(path, "old")

    def after(number: int, code: int) -> None:
        assert code == -9
        sweep(tmp_path, bool)
        assert path.read_text("utf-8") in ("old", "新的")
        assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]
        write_file_atomically(path, "old")

    assert _enumerate(lambda: write_file_atomically(path, "新的"), kill_self, after) >= 4
    assert path.read_text("utf-8") == "新的"


def test_write_file_atomically_reports_a_full_disk(tmp_path: Path) -> None:
    needs_posix()
    path = tmp_path / "status.json"
    write_file_atomically(path, "old")

    def after(number: int, code: int) -> None:
        assert code in (10, 12)
        assert path.read_text("utf-8") in ("old", "new")
        assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]

    _enumerate(lambda: write_file_atomically(path, "new"), _no_space, after)


@pytest.mark.promise("T4")
def test_order_of_system_calls(tmp_path: Path, figure: Figure) -> None:
    """Data fsync < directory fsync < rename < parent fsync, and the manifest is the last file."""
    strace = needs_tool("strace")
    log = tmp_path / "calls"
    target = tmp_path / "target"
    program = (
        "import sys; from pathlib import Path; from wenlu.core.publication import publish\n"
        "publish(Path(sys.argv[1]), lambda folder: (folder / 'weights').write_bytes(b'x') and None)"
    )
    command = [str(strace), "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(log)]
    subprocess.run([*command, sys.executable, "-c", program, str(target)], check=True, timeout=60)
    calls = [line.split(" ", 1)[1].strip() for line in log.read_text("utf-8").splitlines() if str(tmp_path) in line]
    kinds = [
        "rename"
        if call.startswith("rename")
        else "parent"
        if f"<{tmp_path}>" in call
        else "folder"
        if call.split("<")[1].split(">")[0].endswith(f".target.tmp-{log.read_text('utf-8').split(' ')[0]}")
        else "manifest"
        if MANIFEST in call
        else "data"
        for call in calls
    ]
    assert kinds == ["data", "manifest", "folder", "rename", "parent"]
    figure(" < ".join(kinds))


# ---- damage ----


@pytest.mark.promise("T9")
def test_every_flipped_bit_is_found_and_named(published: Path, figure: Figure) -> None:
    chance = random.Random(3)
    names = [*CONTENT, MANIFEST]
    for _ in range(200):
        path = published / chance.choice(names)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            verify(published)
        if path.name != MANIFEST:
            assert caught.value.id == "core.digest_mismatch"
            message = str(caught.value)
            assert str(path) in message
            assert hashlib.sha256(whole).hexdigest() in message
            assert hashlib.sha256(damaged).hexdigest() in message
        path.write_bytes(whole)
    verify(published)
    figure("200 flips in a published directory and its manifest: 200 refused, the file and both digests named")


@pytest.mark.parametrize("size", [0, 1, 4096, 8999, 9001])
def test_cut_or_lengthened_files_are_found(published: Path, size: int) -> None:
    path = published / "model.safetensors"
    path.write_bytes((path.read_bytes() + b"x" * 10)[:size])
    with pytest.raises(CheckpointError, match=f"{size} bytes"):
        verify(published)


def test_missing_swapped_added_and_misshapen_files(published: Path) -> None:
    weights, config = published / "model.safetensors", published / "config.json"
    extra = published / "component_0" / "extra"
    extra.touch()
    with pytest.raises(CheckpointError, match="does not list") as caught:
        verify(published)
    assert str(extra) in str(caught.value)
    extra.unlink()
    data = weights.read_bytes()
    weights.write_bytes(config.read_bytes())
    config.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        verify(published)
    config.write_bytes(CONTENT["config.json"])
    weights.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        verify(published)
    weights.mkdir()
    with pytest.raises(CheckpointError, match="is missing"):
        verify(published)


@pytest.mark.parametrize(
    ("manifest", "id"),
    [
        (None, "core.manifest_missing"),
        (b"", "core.manifest_damaged"),
        (b"\xff\xfe", "core.manifest_damaged"),
        (b"[]", "core.manifest_damaged"),
        (b"{}", "core.manifest_damaged"),
        (b'{"format": 1}', "core.manifest_damaged"),
        (b'{"format": 0, "files": {}}', "core.manifest_damaged"),
        (b'{"format": 1, "files": {"a": {"sha256": "x"}}}', "core.manifest_damaged"),
        (b'{"format": 1, "files": {"../a": {"sha256": "x", "bytes": 1}}}', "core.manifest_damaged"),
        (b'{"format": 1, "files": {"/etc/passwd": {"sha256": "x", "bytes": 1}}}', "core.manifest_damaged"),
        (b'{"format": 2, "files": "of another shape"}', "core.manifest_newer"),
    ],
)
def test_every_kind_of_bad_manifest(published: Path, manifest: bytes | None, id: str) -> None:
    (published / MANIFEST).unlink()
    if manifest is not None:
        (published / MANIFEST).write_bytes(manifest)
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        verify(published)
    assert caught.value.id == id
    assert str(published) in str(caught.value)
    assert time.monotonic() - started < 1


def test_model_directories_may_be_edited_but_not_their_weights(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (published / "config.json").write_text('{"edited": true}', "utf-8")
    (published / "README.md").touch()
    verify(published, strict=False)
    assert "was edited after it was published" in caplog.text
    weights = published / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="damaged"):
        verify(published, strict=False)
    (published / MANIFEST).unlink()
    caplog.clear()
    verify(published, strict=False)
    assert "unverified" in caplog.text


# ---- leftovers ----


def test_sweep_spares_the_living_and_other_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    needs_posix()
    caplog.set_level("INFO", "wenlu")
    dead = fork(lambda: 0)
    wait(dead)
    living = os.getppid()
    for name in (f".a.tmp-{dead}", f".b.tmp-{living}", "c.tmp-1", f".d.old-{dead}", f".e.old-{dead}", "e"):
        (tmp_path / name).mkdir()
    (tmp_path / f".a.tmp-{os.getpid()}").mkdir()  # of an earlier process of our number
    (tmp_path / f".status.json.tmp-{dead}").touch()
    editors = f".novel.tmp-{dead}"
    (tmp_path / editors).touch()
    ours = {"a", "b", "c", "d", "e", "status.json"}.__contains__
    sweep(tmp_path, ours)
    assert {path.name for path in tmp_path.iterdir()} == {f".b.tmp-{living}", "c.tmp-1", "d", "e", editors}
    for name in (f".a.tmp-{dead}", f".e.old-{dead}", f".status.json.tmp-{dead}"):
        assert f"left: {tmp_path / name}" in caplog.text
    assert f"{tmp_path / 'd'} had been moved aside" in caplog.text
    sweep(tmp_path, ours, all_processes=True)
    assert {path.name for path in tmp_path.iterdir()} == {"c.tmp-1", "d", "e", editors}


def test_remove_directory_at_any_kill_leaves_it_whole_or_gone(tmp_path: Path) -> None:
    needs_posix()
    target = tmp_path / "step-00000001"
    publish(target, writer(CONTENT))

    def after(number: int, code: int) -> None:
        assert code == -9
        if target.exists():
            verify(target)
        else:
            publish(target, writer(CONTENT))

    _enumerate(lambda: remove_directory(target), kill_self, after)
    assert not target.exists()


@pytest.mark.parametrize("replace", [False, True])
def test_publishing_begins_with_what_a_killed_one_left(tmp_path: Path, replace: bool) -> None:
    """Of exactly this target; in a container the number of a killed process may be our own."""
    target, other = tmp_path / "target", tmp_path / f".target2.old-{os.getpid()}"
    publish(target, writer({"version": b"old"}))
    target.rename(tmp_path / f".target.old-{os.getpid()}")
    (tmp_path / f".target.tmp-{os.getpid()}").mkdir()
    other.mkdir()
    if replace:
        publish(target, writer({"version": b"new"}), replace=True)
    else:
        with pytest.raises(DataError, match="exists already"):
            publish(target, writer({"version": b"new"}))
    verify(target)
    assert (target / "version").read_bytes() == (b"new" if replace else b"old")
    assert {path.name for path in tmp_path.iterdir()} == {"target", other.name}


def test_every_folder_that_is_made_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(publication, "flush", flushed.append)
    for _ in range(2):
        make_directory(tmp_path / "a" / "b" / "c")
    assert flushed == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_directory(tmp_path / "file" / "below")


def test_free_space_is_unknown_where_nothing_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(publication.shutil, "disk_usage", fail)
    assert "? free" in str(storage_error(OSError(errno.EIO, "broken"), "/x"))


def test_a_target_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError) as refused:
        check_target(tmp_path / "text.txt" / "deep" / "store", replace=False)
    assert refused.value.id == "core.target_below_file"
    assert "text.txt" in str(refused.value)


def test_one_file_of_a_directory_is_verified_by_its_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path / "model", lambda folder: (folder / "small.gguf").write_bytes(b"weights") and None)
    verify(tmp_path / "model" / "small.gguf", strict=False)
    assert not caplog.text
    (tmp_path / "model" / "small.gguf").write_bytes(b"weighty")
    with pytest.raises(CheckpointError) as caught:
        verify(tmp_path / "model" / "small.gguf", strict=False)
    assert caught.value.id == "core.digest_mismatch"
    (tmp_path / "model" / "other.gguf").write_bytes(b"")
    verify(tmp_path / "model" / "other.gguf", strict=False)
    assert "unverified" in caplog.text
