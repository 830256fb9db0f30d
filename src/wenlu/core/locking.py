"""One writer a run or a target: a lock that the system releases when its holder dies.

The lock is ``flock`` on a file that names the holder (process number and start time). Where the platform or the file
system has no ``flock``, an exclusively created file stands in for it and that is said: nobody can tell then whether its
maker still lives, so a stale one must be deleted by hand.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from wenlu.core.errors import RunError
from wenlu.core.log import notice, warn
from wenlu.core.publication import make_directory, storage_error, storage_errors

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock: its number and when it took it."""

    pid: int
    started: str


@contextmanager
def hold(path: Path, what: Path, *, wait: bool = False, remove: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` for writing to ``what``; with ``remove``, leave no file behind.

    Raises:
        RunError: ``core.run_locked`` at once when another process holds it, unless ``wait``;
            ``core.run_locked_exclusively`` when one holds, or held, the file that stands in for it.
    """
    file, taken = _open(path, what, wait=wait)
    with _closed_at_last(file):
        before = _read(path)
        if taken is False:
            raise RunError("core.run_locked", path=what, pid=before.pid, started=before.started, lock=path)
        if taken and _exclusive(path).exists():  # its maker could not lock the file that we could
            raise _locked_exclusively(_exclusive(path), what, before)
        exclusive = _create_exclusive(path, what, before) if taken is None else None
        try:
            if before.pid:
                notice("core.lock_taken_over", path=what, pid=before.pid, started=before.started)
            _write(file, Holder(os.getpid(), datetime.now().astimezone().isoformat(timespec="seconds")))
            yield
        finally:
            _write(file, None)
            if remove:
                with suppress(OSError):
                    path.unlink()
            if exclusive is not None:
                exclusive.unlink(missing_ok=True)


def _open(path: Path, what: Path, *, wait: bool) -> tuple[TextIO, bool | None]:
    """The open lock file, and whether it is ours (see ``_take``); never one that its last holder has removed."""
    told = False
    while True:
        with storage_errors(path):
            make_directory(path.parent)
            file = path.open("a+", encoding="utf-8")
        taken = _take(file)
        if taken is None or (taken is False and not wait):
            return file, taken
        if taken and _is_at(file, path):
            return file, taken
        file.close()
        if not taken:
            if not told:
                notice("core.lock_waiting", path=what, pid=_read(path).pid)
                told = True
            time.sleep(_POLL_SECONDS)


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether the open file is still the one of this name; other processes remove it and make it anew at any time."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _closed_at_last(file: TextIO) -> Iterator[None]:
    """Close the file in any case: where a full disk did not take its text, closing would fail once more."""
    try:
        yield
    finally:
        with suppress(OSError):
            file.close()


def _take(file: TextIO) -> bool | None:
    """Whether the lock was free and is ours now; None where there is no ``flock``."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _exclusive(path: Path) -> Path:
    return path.with_name(f"{path.name}.exclusive")


def _create_exclusive(path: Path, what: Path, before: Holder) -> Path:
    """The stand-in where the system cannot lock: a file that only one process can create."""
    exclusive = _exclusive(path)
    try:
        exclusive.touch(exist_ok=False)
    except FileExistsError as error:
        raise _locked_exclusively(exclusive, what, before) from error
    warn("core.lock_without_flock", path=what, lock=exclusive)
    return exclusive


def _locked_exclusively(lock: Path, what: Path, before: Holder) -> RunError:
    return RunError("core.run_locked_exclusively", path=what, pid=before.pid, started=before.started, lock=lock)


def _read(path: Path) -> Holder:
    """What the lock file says; process 0 when it names nobody."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Holder(int(record["pid"]), str(record["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder(0, "?")


def _write(file: TextIO, new: Holder | None) -> None:
    """Name the holder in the lock file, or nobody; a full disk must not keep anybody from letting go."""
    try:
        file.seek(0)
        file.truncate()
        if new is not None:
            file.write(json.dumps(asdict(new)) + "\n")
        file.flush()
    except OSError as error:
        if new is not None:
            raise storage_error(error, Path(file.name)) from error
