"""Run a function in a forked child, to kill it or to break its system calls; the parent reads how it ended."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable

EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "test.fsync"})


def fork(function: Callable[[], int | None]) -> int:
    """Start a child that runs the function and exits with its result; returns the child's number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about forks beside threads
        pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = function() or 0
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """The child's exit code; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_after(pid: int, seconds: float) -> int:
    """Kill a child after a time; its exit code, if it was quicker."""
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


def break_call(number: int, action: Callable[[], None]) -> Callable[[], bool]:
    """From now on, run ``action`` at the ``number``-th call (from 0) that changes the disk below a temporary folder.

    ``action`` kills the process, or raises what the system would have raised. Only for children: it cannot be undone.
    Returns a function that tells whether that call was reached.
    """
    count = -1
    fsync = os.fsync

    def audited_fsync(descriptor: int) -> None:
        sys.audit("test.fsync", descriptor)
        fsync(descriptor)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in EVENTS or (event == "open" and not _writes(arguments)):
            return
        count += 1
        if count == number:
            action()

    os.fsync = audited_fsync
    sys.addaudithook(hook)
    return lambda: count >= number


def kill_self() -> None:
    """What ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def _writes(arguments: tuple[object, ...]) -> bool:
    """Whether an ``open`` event opens a file to write."""
    flags = arguments[2] if len(arguments) > 2 else 0
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
