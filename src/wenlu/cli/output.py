"""What a command prints and how it ends: results on standard output, everything else on standard error.

A command file reads::

    from wenlu.cli import output
    from wenlu.cli.output import argument, command, option

    @command("score")
    @argument("score", "text")
    @option("score", "--model")
    @output.run
    def command(text: str, model: str | None) -> None:
        from wenlu.evaluation.scoring import score   # heavy imports inside
        ...
        output.result(record, table=output.table(columns, rows))
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from wenlu.cli.parsing import JSON_KEY, argument, command, given_settings, json_option, option, usage_error
from wenlu.core import errors, messages
from wenlu.core.errors import DataError, DeviceError, Terminated, WenluError, is_out_of_memory

if TYPE_CHECKING:
    from rich.table import Table as RichTable

__all__ = ["Table", "argument", "as_json", "command", "leave", "option", "render", "result", "run", "stream", "table"]


@dataclass(frozen=True)
class Table:
    """A table for people; columns of numbers stand to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str | None = None


def run(function: Callable[..., object]) -> Callable[..., None]:
    """Decorator, the innermost of a command: ``--json``, the log handler, and errors as messages with exit codes.

    The function receives ``json_output``, and ``values`` of settings, only if it has a parameter of that name.
    """
    wanted = inspect.signature(function).parameters

    @json_option
    @functools.wraps(function)
    def wrapper(*, json_output: bool, **arguments: object) -> None:
        import logging

        from wenlu.cli.reporter import Reporter
        from wenlu.core.log import LOGGER

        # Read when torch is loaded. Threads that wait asleep: on two busy cores spinning ones took three times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        click.get_current_context().meta[JSON_KEY] = json_output
        reporter = Reporter(json_output=json_output)
        level = LOGGER.level
        LOGGER.addHandler(reporter)
        LOGGER.setLevel(logging.INFO)
        told = {"json_output": json_output, "values": given_settings(arguments)}
        arguments |= {name: value for name, value in told.items() if name in wanted}
        try:
            code = _outcome(lambda: function(**arguments), json_output=json_output, before=reporter.stop_bars)
        finally:
            LOGGER.removeHandler(reporter)
            LOGGER.setLevel(level)
            reporter.close()
        if code:
            raise click.exceptions.Exit(code)

    return wrapper


def result(record: Mapping[str, object], *, table: Table | None = None, text: str | None = None) -> None:
    """Print what the command found: the record with ``--json``, else the text, then the table."""
    if wants_json():
        print(as_json(record, indent=2))
        return
    if text is not None:
        print(text)
    if table is not None:
        _print_table(table)


def as_json(value: object, *, indent: int | None = None) -> str:
    """Strict JSON, which has no NaN and no infinity: null stands for them; other objects are written by ``str``."""
    dumps = functools.partial(json.dumps, ensure_ascii=False, indent=indent, default=str, allow_nan=False)
    try:
        return dumps(value)
    except ValueError:
        return dumps(_finite(value))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def stream(piece: str) -> None:
    """Write a piece of a result at once, as generated text comes."""
    sys.stdout.write(piece)
    sys.stdout.flush()


def wants_json() -> bool:
    """Whether the running command was given ``--json``."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(JSON_KEY))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> Table:
    """A table to hand to ``result``; values are shown by ``str``."""
    return Table(tuple(columns), tuple(tuple(str(cell) for cell in row) for row in rows), title)


def render(table: Table) -> str:
    """The table as plain text; Chinese characters count as two columns."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=10_000, color_system=None, force_terminal=False)
    console.print(_rich_table(table))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def leave(arguments: Sequence[str] | None, call: Callable[[], object]) -> NoReturn:
    """Run a whole command line and exit with its code."""
    for standard in (sys.stdout, sys.stderr):
        if isinstance(standard, io.TextIOWrapper):
            standard.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else arguments
    sys.exit(_outcome(call, json_output="--json" in words))


def _outcome(call: Callable[[], object], *, json_output: bool, before: Callable[[], None] = lambda: None) -> int:
    """The exit code of a call; an expected error is shown after ``before()`` has cleared the terminal."""
    try:
        with _terminable():
            code = call()
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort) as stop:
        before()
        print(messages.text("cli.interrupted"), file=sys.stderr)
        return errors.EXIT_SIGTERM if isinstance(stop, Terminated) else errors.EXIT_SIGINT
    except BrokenPipeError:
        _broken_output()
        return errors.EXIT_FAILED
    except (WenluError, click.ClickException, OSError, MemoryError, RuntimeError) as failure:
        known = _as_ours(failure)
        if known is None:
            raise
        before()
        _show(known, json_output=json_output)
        return known.exit_code
    return code if isinstance(code, int) else errors.EXIT_DONE


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, in the main thread, where Python can."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _as_ours(failure: Exception) -> WenluError | None:
    """The error of ours for an expected failure; None for any other."""
    if isinstance(failure, WenluError):
        return failure
    if isinstance(failure, click.ClickException):
        return usage_error(failure)
    if isinstance(failure, OSError):
        return _file_error(failure)
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return DeviceError("core.no_memory", detail=lines[0]) if is_out_of_memory(failure) else None


def _broken_output() -> str:
    """What standard output is, if it took no more; what it holds is dropped, or Python would fail on it at exit."""
    path = os.path.realpath("/dev/stdout")
    try:
        sys.stdout.flush()
        if isinstance(getattr(sys.stdout, "buffer", None), io.BufferedWriter):
            os.write(sys.stdout.fileno(), b"")  # what was too long for the buffer is in it no more
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return path
    return path if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.write_through else "?"  # which holds nothing


def _file_error(failure: OSError) -> WenluError | None:
    """An operating-system error as one of ours; None if it has no number. Standard output's names no file."""
    from wenlu.core.publication import storage_error

    if failure.errno is None:
        return None
    path = failure.filename or _broken_output()
    if failure.errno in (errno.ENOENT, errno.ENOTDIR):
        return DataError("core.file_not_found", path=path)
    return storage_error(failure, path)


def _show(error: WenluError, *, json_output: bool) -> None:
    if json_output:
        parts = messages.error_parts(error.id, error.values)
        print(as_json({"error": {"id": error.id, **parts}}), file=sys.stderr)
        return
    label = messages.text("cli.error")
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        label = click.style(label, fg="red", bold=True)
    print(f"{label}: {error}", file=sys.stderr)


def _print_table(table: Table) -> None:
    if not sys.stdout.isatty():
        sys.stdout.write(render(table))
        return
    from rich.console import Console

    Console(highlight=False).print(_rich_table(table))


def _rich_table(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(title=Text(table.title) if table.title else None, box=box.SIMPLE_HEAD, title_justify="left")
    for index, column in enumerate(table.columns):
        numeric = bool(table.rows) and all(_is_number(row[index]) for row in table.rows)
        made.add_column(Text(column), justify="right" if numeric else "left")
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def _is_number(cell: str) -> bool:
    """Whether a cell should stand to the right: a number, perhaps with a unit sign, or nothing."""
    bare = cell.strip().removesuffix("%").replace(",", "")
    if bare in ("", "-", "—"):
        return True
    try:
        float(bare.split(" ")[0])
    except ValueError:
        return False
    return True
