"""How the library's log records look: a live line on a terminal, plain lines when piped, JSON lines with ``--json``."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from wenlu.cli.output import as_json
from wenlu.core.log import Notice, Progress
from wenlu.core.messages import text

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

PLAIN_INTERVAL_SECONDS = 5.0


class Reporter(logging.Handler):
    """Writes notices and progress to standard error; the form is chosen once, when a command starts."""

    def __init__(self, *, json_output: bool) -> None:
        super().__init__(logging.INFO)
        self.json_output = json_output
        self.live = not json_output and sys.stderr.isatty()
        self.bars: Bars | None = None
        self.tasks: dict[int, TaskID] = {}
        self.shown: dict[int, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Show work as it goes on, else one line; a reader of standard error that went away is not an error."""
        said = record.msg
        try:
            if isinstance(said, Progress):
                self.emit_progress(said)
            elif self.json_output:
                id, values = (said.id, said.values) if isinstance(said, Notice) else (None, {})
                line = {"level": record.levelname.lower(), "id": id, "text": record.getMessage(), "values": values}
                self.say(as_json(line))
            else:
                warning = f"{text('cli.warning')}: " if record.levelno >= logging.WARNING else ""
                self.say(f"{warning}{record.getMessage()}")
        except BrokenPipeError:
            self.live = False

    def say(self, line: str) -> None:
        """Print a line, above the live display."""
        if self.bars is not None:
            self.bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def emit_progress(self, progress: Progress) -> None:
        """Long work: a moving bar, or a line now and then and one at its end."""
        if self.live:
            self.draw(progress)
            return
        key, now = id(progress), time.monotonic()
        if progress.finished:
            self.shown.pop(key, None)
        elif now - self.shown.setdefault(key, progress.started) < PLAIN_INTERVAL_SECONDS:
            return
        else:
            self.shown[key] = now
        if self.json_output:
            told = {name: getattr(progress, name) for name in ("id", "done", "total", "unit", "detail", "finished")}
            self.say(as_json({"level": "progress", **told, "seconds": round(now - progress.started, 3)}))
        else:
            self.say(f"{progress} [{now - progress.started:.1f} s]")

    def draw(self, progress: Progress) -> None:
        """Move the bar of this work on the terminal; a finished one leaves its plain line behind."""
        bars = self.bars or self.start_bars()
        key = id(progress)
        if key not in self.tasks:
            self.tasks[key] = bars.add_task(text(progress.id, **progress.values), total=progress.total, detail="")
        count = f"{progress.done:,.0f}" + ("" if progress.total is None else f"/{progress.total:,.0f}")
        bars.update(self.tasks[key], completed=progress.done, detail=f"{count} {progress.unit} {progress.detail}")
        if progress.finished:
            bars.remove_task(self.tasks.pop(key))
            self.say(f"{progress} [{time.monotonic() - progress.started:.1f} s]")
            if not self.tasks:
                self.stop_bars()

    def start_bars(self) -> Bars:
        """Begin the live display; rich is imported here, when there is something to draw."""
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        name = TextColumn("{task.description}", markup=False)
        detail = TextColumn("{task.fields[detail]}", markup=False)
        columns = (name, BarColumn(), detail, TimeRemainingColumn())
        self.bars = Bars(*columns, console=Console(stderr=True), transient=True)
        self.bars.start()
        return self.bars

    def stop_bars(self) -> None:
        """End the live display."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None
            self.tasks.clear()

    def close(self) -> None:
        """Take the live display off the terminal."""
        self.stop_bars()
        super().close()
