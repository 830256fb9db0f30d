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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from wenlu.core.errors import CheckpointError, DataError, RunError
from wenlu.core.log import notice, warn

MANIFEST = "MANIFEST.json"
MANIFEST_FORMAT = 1
TEXT_SUFFIXES = frozenset({".json", ".toml", ".txt", ".md", ".jsonl"})
_LEFTOVER = re.compile(r"^\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<pid>\d+)$")
_FOREIGN_ERRNO = re.compile(r"\(os error (\d+)\)|\bcode: (\d+)\b")


@dataclass(frozen=True)
class FileRecord:
    """What a manifest knows of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The files of a published directory by their names, with ``/`` between folders."""

    files: Mapping[str, FileRecord]

    def to_json(self) -> str:
        """The text of MANIFEST.json."""
        files = {name: asdict(record) for name, record in self.files.items()}
        return json.dumps({"format": MANIFEST_FORMAT, "files": files}, indent=1, ensure_ascii=False) + "\n"


def publish(target: Path, write: Callable[[Path], None], *, durable: bool = True, replace: bool = False) -> None:
    """Let ``write`` fill a temporary directory, then give it the name ``target`` in one step.

    ``durable`` flushes everything to the disk before the rename. An existing target is refused unless ``replace``.

    Raises:
        DataError: ``core.target_exists``.
        RunError: the disk is full, read-only, failing or not ours; nothing of the attempt is left.
    """
    target = Path(target)
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    try:
        sweep(target.parent, target.name.__eq__)
        if target.exists() and not replace:
            raise DataError("core.target_exists", path=target)
        make_directory(target.parent)
        temporary.mkdir()
        write(temporary)
        _seal(temporary, durable=durable)
        _move(temporary, target, replace=replace)
        if durable:
            flush_directory(target.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        failure = _system_error(error)
        if failure is None:
            raise
        if failure.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise DataError("core.target_exists", path=target) from error
        raise storage_error(failure, target) from error


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
    if not target.exists():
        return
    if not replace:
        raise DataError("core.target_exists", path=target)
    if not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
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
    path = Path(path)
    temporary = path.parent / f".{path.name}.tmp-{os.getpid()}"
    with storage_errors(path):
        try:
            make_directory(path.parent)
            write(temporary)
            _flush_file(temporary)
            temporary.replace(path)
            flush_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a published directory.

    Raises:
        CheckpointError: ``core.manifest_missing``, ``core.manifest_damaged`` or ``core.manifest_newer``.
    """
    path = Path(directory) / MANIFEST
    try:
        raw = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise CheckpointError("core.manifest_missing", path=directory) from error
    except ValueError as error:
        raise CheckpointError("core.manifest_damaged", path=path, detail=error) from error
    except OSError as error:
        raise storage_error(error, path) from error
    if isinstance(raw, dict) and isinstance(raw.get("format"), int) and raw["format"] > MANIFEST_FORMAT:
        raise CheckpointError("core.manifest_newer", path=path, found=raw["format"], known=MANIFEST_FORMAT)
    try:
        rows = raw["files"].items()
        files = {_safe_name(name): FileRecord(str(row["sha256"]), int(row["bytes"])) for name, row in rows}
        if raw["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format {raw['format']!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("core.manifest_damaged", path=path, detail=error) from error
    return Manifest(files)


def verify(directory: Path, *, strict: bool = True) -> None:
    """Compare every file of a directory with its manifest.

    Strict (checkpoints, stores): any difference is an error. Otherwise (model directories that people exchange):
    weights are checked strictly, an edited text file is allowed with a warning, an additional file without, and a
    directory that has no manifest is announced as unverified. So is a single file; its folder may have a manifest.

    Raises:
        CheckpointError: the manifest is missing or damaged, or a file is missing, additional or differs.
    """
    directory = Path(directory)
    if directory.is_file() and (directory.parent / MANIFEST).is_file():
        listed = read_manifest(directory.parent).files.get(directory.name)
        if listed is not None:
            _verify_file(directory, listed, strict=True)
            return
    if not strict and not (directory / MANIFEST).exists():
        warn("core.unverified", path=directory)
        return
    manifest = read_manifest(directory)
    for name, expected in manifest.files.items():
        _verify_file(directory / name, expected, strict=strict)
    if strict:
        extra = sorted(set(_relative_files(directory)) - set(manifest.files) - {MANIFEST})
        if extra:
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
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink(missing_ok=True)
        notice("core.leftover_removed", path=entry)


def make_directory(path: Path) -> None:
    """Make a folder and those above it that are missing, and flush the entry of each."""
    for folder in reversed((path, *path.parents)):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            flush_directory(folder.parent)


def remove_directory(directory: Path) -> None:
    """Delete a published directory so that a kill in the middle leaves no half of it under its name."""
    doomed = directory.parent / f".{directory.name}.tmp-{os.getpid()}"
    directory.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def storage_error(error: OSError, path: Path | str) -> RunError:
    """An operating-system error about a file as one of ours, with the path and the free space."""
    ids = {
        **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "core.disk_full"),
        errno.EROFS: "core.disk_read_only",
        errno.EIO: "core.disk_failed",
        **dict.fromkeys((errno.EACCES, errno.EPERM), "core.no_permission"),
    }
    id = ids.get(error.errno or 0, "core.file_failed")
    return RunError(id, path=Path(path), free=_free_space(Path(path)), detail=error.strerror or error)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Let the operating system's error about a file be one of ours."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def flush_directory(path: Path) -> None:
    """Flush a folder's entries; systems that cannot open folders (Windows) do it themselves."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(directory: Path, *, durable: bool) -> None:
    """Write the manifest over what is there, and flush files, then folders from the inside out."""
    files = {}
    for name in _relative_files(directory):
        path = directory / name
        files[name] = FileRecord(file_sha256(path), path.stat().st_size)
        if durable:
            _flush_file(path)
    manifest = directory / MANIFEST
    manifest.write_text(Manifest(files).to_json(), encoding="utf-8")
    if durable:
        _flush_file(manifest)
        for folder in sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True):
            flush_directory(folder)
        flush_directory(directory)


def _move(temporary: Path, target: Path, *, replace: bool) -> None:
    """Rename; for a replacement the old directory is moved aside first, and ``sweep`` moves it back after a kill."""
    if not (replace and target.exists()):
        temporary.rename(target)
        return
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


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


def _safe_name(name: str) -> str:
    """The name of a manifest's file, refused where it leads out of the directory."""
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise ValueError(f"file name {name!r}")
    return name


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _system_error(error: BaseException) -> OSError | None:
    """The operating system's error inside an exception; libraries written in Rust carry it as text only."""
    if isinstance(error, OSError):
        return error
    match = _FOREIGN_ERRNO.search(str(error)) if isinstance(error, Exception) else None
    if match is None:
        return None
    number = int(match[1] or match[2])
    return OSError(number, os.strerror(number))


def _free_space(path: Path) -> str:
    """Free space of the disk that holds a path, for people."""
    for folder in (path, *path.parents):
        if os.path.isdir(folder):  # noqa: PTH112  # Path.is_dir raises below a folder that may not be searched
            try:
                free = shutil.disk_usage(folder).free
            except OSError:
                break
            return f"{free / 1e9:.2f} GB" if free >= 1e7 else f"{free / 1e6:.2f} MB"
    return "?"


def _is_alive(pid: int) -> bool:
    """Whether another process of this number runs; where that cannot be asked (Windows), yes."""
    if pid == os.getpid():  # numbers come again, in containers at every start: whoever had it before is dead
        return False
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
