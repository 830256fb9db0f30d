"""SIGINT and SIGTERM: the first asks the run to save and leave, the second leaves at once.

A step is finished first; an evaluation, which changes nothing and may take long, is left in the middle.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from wenlu.core.errors import EXIT_SIGINT, EXIT_SIGTERM
from wenlu.core.log import warn

EXIT_CODES = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM}


class Interrupted(BaseException):
    """Somebody asked the run to stop. No ``Exception``, so that nothing on its way takes it for a failure."""


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._interrupts = False

    @property
    def exit_code(self) -> int:
        """What the process should end with; 0 when nobody asked."""
        return 0 if self.signal is None else EXIT_CODES[self.signal]

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal is not None:
            os._exit(EXIT_CODES[signal.Signals(number)])
        self.signal = signal.Signals(number)
        with contextlib.suppress(RuntimeError):  # the signal came while a line was being written to the same stream
            warn("training.stopping", signal=self.signal.name)
        if self._interrupts:
            raise Interrupted

    def check(self) -> None:
        """Raise ``Interrupted`` if somebody has asked."""
        if self.signal is not None:
            raise Interrupted

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block a request raises ``Interrupted`` at once."""
        self._interrupts = True
        try:
            self.check()
            yield
        finally:
            self._interrupts = False


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch the two signals while the block runs; outside the main thread nothing is caught, as Python demands."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
