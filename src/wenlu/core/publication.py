"""Files and directories that appear whole or not at all, and the manifest that proves it.

The protocol: write everything under a temporary name in the same parent, hash it, write ``MANIFEST.json`` last, flush
each file and directory to the disk, rename, flush the parent. Whoever reads a directory trusts it after ``verify``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from wenlu.core.errors import CheckpointError, DataError, RunError
from wenlu.core.log import notice, warn
from wenlu.core.machine import nearest_folder

MANIFEST = "MANIFEST.json"
MANIFEST_FORMAT = 1
TEXT_SUFFIXES = frozenset({".json", ".toml", ".txt", ".md", ".jsonl"})
_LEFTOVER = re.compile(r"^\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<pid>\d+)$")
_FOREIGN_ERRNO = re.compile(r"\(os error (\d+)\)|\bcode: (\d+)\b")


class FileRecord(NamedTuple):
    """What a manifest knows of one file."""

    sha256: str
    bytes: int


def publish(target: Path, write: Callable[[Path], None], *, replace: bool = False) -> None:
    """Let ``write`` fill a temporary directory, then give it the name ``target`` in one step.

    Everything is flushed to the disk before the rename. An existing target is refused unless ``replace``.

    Raises:
        DataError: ``core.target_exists``.
        RunError: the disk is full, read-only, failing or not ours; nothing of the attempt is left.
    """
    target = Path(target)
    with _attempt(target) as temporary:
        sweep(target.parent, target.name.__eq__)
        if target.exists() and not replace:
            raise DataError("core.target_exists", path=target)
        temporary.mkdir()
        write(temporary)
        _seal(temporary)
        _move(temporary, target, replace=replace)
        flush(target.parent)


def check_target(target: Path, *, replace: bool) -> None:
    """Refuse, before long work, a target that is there already; with ``replace``, one that is not of our making.

    So a slip of the hand never replaces a folder of somebody's own files. What a killed process left is swept first.

    Raises:
        DataError: ``core.target_exists``, ``core.target_foreign`` for a file or a full folder without a manifest, or
            ``core.target_below_file`` for one that would lie in a file.
    """
    file = next((folder for folder in target.parents if folder.exists() and not folder.is_dir()), None)
    if file is not None:
        raise DataError("core.target_below_file", path=target, file=file)
    if not (target.parent / f".{target.name}.lock").exists():  # else whoever holds it next sweeps
        sweep(target.parent, target.name.__eq__)
    if target.exists() and not replace:
        raise DataError("core.target_exists", path=target)
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise DataError("core.target_foreign", path=target)


def write_file_atomically(path: Path, data: bytes | str) -> None:
    """Replace a file by new contents; a reader, or a crash, sees the old ones or the new ones, never a mixture.

    Raises:
        RunError: the disk is full, read-only, failing or not ours; the old file is as it was.
    """
    content = data.encode() if isinstance(data, str) else data
    publish_file(path, lambda temporary: temporary.write_bytes(content))


def publish_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` write a file under a temporary name, then replace ``path`` by it in one step.

    Raises:
        RunError: the disk is full, read-only, failing or not ours; the old file is as it was.
    """
    with _attempt(Path(path)) as temporary:
        write(temporary)
        flush(temporary)
        temporary.replace(path)
        flush(temporary.parent)


@contextmanager
def _attempt(target: Path) -> Iterator[Path]:
    """A temporary name beside a target for what shall replace it; of an attempt that fails nothing is left there."""
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    try:
        make_directory(target.parent)
        yield temporary
    except BaseException as error:
        _remove(temporary)
        failure = _system_error(error)
        if failure is None:
            raise
        if failure.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise DataError("core.target_exists", path=target) from error
        raise storage_error(failure, target) from error


def read_manifest(directory: Path) -> dict[str, FileRecord]:
    """The files of a published directory by their names, with ``/`` between folders.

    Raises:
        CheckpointError: ``core.manifest_missing``, ``core.manifest_damaged`` or ``core.manifest_newer``.
    """
    path = Path(directory) / MANIFEST
    try:
        raw = json.loads(path.read_bytes())
        if raw["format"] > MANIFEST_FORMAT:
            raise CheckpointError("core.manifest_newer", path=path, found=raw["format"], known=MANIFEST_FORMAT)
        if raw["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format {raw['format']!r}")
        for name in raw["files"]:
            if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):  # leads out of it
                raise ValueError(f"file name {name!r}")
        return {name: FileRecord(str(row["sha256"]), int(row["bytes"])) for name, row in raw["files"].items()}
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointError("core.manifest_missing", path=directory) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("core.manifest_damaged", path=path, detail=error) from error
    except OSError as error:
        raise storage_error(error, path) from error


def verify(directory: Path, *, strict: bool = True) -> None:
    """Compare every file of a directory with its manifest.

    Strict (checkpoints, stores): any difference is an error. Otherwise (model directories that people exchange):
    weights are checked strictly, an edited text file is allowed with a warning, an additional file without, and a
    directory that has no manifest is announced as unverified. So is a single file; its folder may have a manifest.

    Raises:
        CheckpointError: the manifest is missing or damaged, or a file is missing, additional or differs.
    """
    directory = Path(directory)
    beside = read_manifest(directory.parent) if directory.is_file() and (directory.parent / MANIFEST).is_file() else {}
    if directory.name in beside:
        _verify_file(directory, beside[directory.name], strict=True)
        return
    if not strict and not (directory / MANIFEST).exists():
        warn("core.unverified", path=directory)
        return
    files = read_manifest(directory)
    for name, expected in files.items():
        _verify_file(directory / name, expected, strict=strict)
    if strict and (extra := sorted({*_relative_files(directory)} - {*files, MANIFEST})):
        raise CheckpointError("core.file_unexpected", path=directory / extra[0], count=len(extra))


def sweep(parent: Path, ours: Callable[[str], object], *, all_processes: bool = False) -> None:
    """Remove what killed processes left in a folder of the targets whose names are ``ours``, and say so.

    Leftovers of other living processes stay, unless ``all_processes`` (for the holder of the lock of those targets). A
    directory that was moved aside for a replacement that never came gets its name back.
    """
    for entry in sorted(Path(parent).iterdir()) if Path(parent).is_dir() else []:
        match = _LEFTOVER.match(entry.name)
        if match is None or not ours(match["name"]) or (not all_processes and _is_alive(int(match["pid"]))):
            continue
        target = entry.parent / match["name"]
        if match["kind"] == "old" and not target.exists():
            entry.rename(target)
            notice("core.target_restored", path=target)
            continue
        _remove(entry)
        notice("core.leftover_removed", path=entry)


def make_directory(path: Path) -> None:
    """Make a folder and those above it that are missing, and flush the entry of each."""
    for folder in reversed((path, *path.parents)):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            flush(folder.parent)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all in it, as far as the system lets us."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_directory(directory: Path) -> None:
    """Delete a published directory so that a kill in the middle leaves no half of it under its name."""
    doomed = directory.parent / f".{directory.name}.tmp-{os.getpid()}"
    directory.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def storage_error(error: OSError, path: Path | str) -> RunError:
    """An operating-system error about a file as one of ours, with the path and the free space."""
    full, closed = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM)
    ids = dict.fromkeys(full, "core.disk_full") | dict.fromkeys(closed, "core.no_permission")
    ids |= {errno.EROFS: "core.disk_read_only", errno.EIO: "core.disk_failed"}
    id = ids.get(error.errno or 0, "core.file_failed")
    return RunError(id, path=Path(path), free=_free_space(Path(path)), detail=error.strerror or error)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Let the operating system's error about a file be one of ours."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def flush(path: Path) -> None:
    """Flush a file, or a folder's entries; systems that cannot open folders (Windows) do it themselves."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(directory: Path) -> None:
    """Write the manifest over what is there, and flush files, then folders from the inside out."""
    paths = {name: directory / name for name in _relative_files(directory)}
    files = {name: FileRecord(file_sha256(path), path.stat().st_size)._asdict() for name, path in paths.items()}
    content = json.dumps({"format": MANIFEST_FORMAT, "files": files}, indent=1, ensure_ascii=False) + "\n"
    (directory / MANIFEST).write_text(content, encoding="utf-8")
    folders = sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True)
    for path in (*paths.values(), directory / MANIFEST, *folders, directory):
        flush(path)


def _move(temporary: Path, target: Path, *, replace: bool) -> None:
    """Rename; for a replacement the old directory is moved aside first, and ``sweep`` moves it back after a kill."""
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    if replace and target.exists():
        target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    _remove(old)


def _verify_file(path: Path, expected: FileRecord, *, strict: bool) -> None:
    with storage_errors(path):
        if not path.is_file():
            raise CheckpointError("core.file_missing", path=path, expected=expected.sha256, bytes=expected.bytes)
        found = FileRecord(file_sha256(path), path.stat().st_size)
    if found == expected:
        return
    if not strict and path.suffix in TEXT_SUFFIXES:
        warn("core.file_edited", path=path, expected=expected.sha256, found=found.sha256)
        return
    sizes = {"expected_bytes": expected.bytes, "found_bytes": found.bytes}
    raise CheckpointError("core.digest_mismatch", path=path, expected=expected.sha256, found=found.sha256, **sizes)


def _relative_files(directory: Path) -> list[str]:
    """Names of all files below a directory, sorted."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _system_error(error: BaseException) -> OSError | None:
    """The operating system's error inside an exception; libraries written in Rust carry it as text only."""
    if isinstance(error, OSError):
        return error
    match = _FOREIGN_ERRNO.search(str(error)) if isinstance(error, Exception) else None
    number = int(match[1] or match[2]) if match else 0
    return OSError(number, os.strerror(number)) if match else None


def _free_space(path: Path) -> str:
    """Free space of the disk that holds a path, for people."""
    try:
        free = shutil.disk_usage(nearest_folder(path)).free
    except OSError:
        return "?"
    return f"{free / 1e9:.2f} GB" if free >= 1e7 else f"{free / 1e6:.2f} MB"


def _is_alive(pid: int) -> bool:
    """Whether another process of this number runs; where that cannot be asked (Windows), yes."""
    try:
        if os.name != "nt":
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return pid != os.getpid()  # numbers come again, in containers at every start: whoever had it before is dead
