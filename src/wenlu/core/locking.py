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
from datetime import datetime
from pathlib import Path
from typing import TextIO

from wenlu.core.errors import RunError
from wenlu.core.log import notice, warn
from wenlu.core.publication import make_directory, storage_error, storage_errors

_POLL_SECONDS = 0.2


@contextmanager
def hold(path: Path, what: Path, *, wait: bool = False, remove: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` for writing to ``what``; with ``remove``, leave no file behind.

    Raises:
        RunError: ``core.run_locked`` at once when another process holds it, unless ``wait``;
            ``core.run_locked_exclusively`` when one holds, or held, the file that stands in for it.
    """
    file, taken = _open(path, what, wait=wait)
    exclusive = path.with_name(f"{path.name}.exclusive")
    try:
        before = _read(path)
        if taken is False:
            raise RunError("core.run_locked", path=what, lock=path, **before)
        try:
            if taken is None:  # where the system cannot lock: a file that only one process can create
                exclusive.touch(exist_ok=False)
                warn("core.lock_without_flock", path=what, lock=exclusive)
            elif exclusive.exists():  # its maker could not lock the file that we could
                raise FileExistsError
        except FileExistsError as error:
            raise RunError("core.run_locked_exclusively", path=what, lock=exclusive, **before) from error
        try:
            if before["pid"]:
                notice("core.lock_taken_over", path=what, **before)
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            _write(file, json.dumps({"pid": os.getpid(), "started": started}) + "\n")
            yield
        finally:
            _write(file, "")
            if remove:
                with suppress(OSError):
                    path.unlink()
            if taken is None:
                exclusive.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # where a full disk did not take its text, closing would fail once more
            file.close()


def _open(path: Path, what: Path, *, wait: bool) -> tuple[TextIO, bool | None]:
    """The open lock file, and whether it is ours (see ``_take``); never one that its last holder has removed."""
    told = False
    while True:
        with storage_errors(path):
            make_directory(path.parent)
            file = path.open("a+", encoding="utf-8")
        taken = _take(file)
        if taken is None or (_is_at(file, path) if taken else not wait):
            return file, taken
        file.close()
        if not taken:
            if not told:
                notice("core.lock_waiting", path=what, pid=_read(path)["pid"])
                told = True
            time.sleep(_POLL_SECONDS)


def _is_at(file: TextIO, path: Path) -> bool:
    """Whether the open file is still the one of this name; other processes remove it and make it anew at any time."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _take(file: TextIO) -> bool | None:
    """Whether the lock was free and is ours now; None where there is no ``flock``."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        held = getattr(error, "errno", None) in (errno.EWOULDBLOCK, errno.EACCES)
        return False if held else None
    return True


def _read(path: Path) -> dict[str, object]:
    """What the lock file says; process 0 when it names nobody."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"pid": int(record["pid"]), "started": str(record["started"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"pid": 0, "started": "?"}


def _write(file: TextIO, holder: str) -> None:
    """Name the holder in the lock file, or nobody; a full disk must not keep anybody from letting go."""
    try:
        file.seek(0)
        file.truncate()
        file.write(holder)
        file.flush()
    except OSError as error:
        if holder:
            raise storage_error(error, Path(file.name)) from error
