"""What a command prints and how it ends: results on standard output, everything else on standard error.

A command file reads::

    from wenlu.cli import output
    from wenlu.cli.parsing import ModelName

    @output.command("score")
    def command(text: str, *, model: ModelName = None) -> None:
        from wenlu.evaluation.scoring import score   # heavy imports inside
        ...
        output.result(record, table=output.table("evaluation", ("position", "token"), rows))
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

from wenlu.cli.parsing import JSON_KEY, Command, Option, parameters, take_values, usage_error
from wenlu.core import errors, messages
from wenlu.core.errors import DataError, DeviceError, Terminated, WenluError, is_out_of_memory

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """A table for people, its values shown by ``str``; columns of numbers stand to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str | None = None


def table(package: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> Table:
    """A table whose headings are the texts ``<package>.column_<name>``."""
    ids = [f"{package}.column_{name}" for name in columns]
    return Table([messages.text(id) for id in ids], rows, title)


def command(verb: str, *, like: Sequence[str] = ()) -> Callable[[Callable[..., object]], Command]:
    """Decorator: a function as a verb, which prints its result or ends with the number that it returns.

    ``verb`` is the module's name (``data_inspect``); its options are the function's, and ``--json``. Help that it does
    not have of its own is that of the verbs which it is ``like``.
    """

    def wrap(function: Callable[..., object]) -> Command:
        as_json = Option(["--json", "json_output"], is_flag=True, help_ids=["cli.option_json"])
        params = [*parameters(function, [verb, *like]), as_json]
        return Command(verb, verb=verb, params=params, callback=functools.partial(_run, function))

    return wrap


def _run(function: Callable[..., object], *, json_output: bool, **arguments: object) -> None:
    """Run a verb: the log handler, and errors as messages with exit codes."""
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
    wanted = inspect.signature(function).parameters
    if "values" in wanted:
        arguments["values"] = take_values(arguments, wanted)
    try:
        code = _outcome(lambda: function(**arguments), json_output=json_output, before=reporter.stop_bars)
    finally:
        LOGGER.removeHandler(reporter)
        LOGGER.setLevel(level)
        reporter.close()
    if code:
        raise click.exceptions.Exit(code)


def result(record: Mapping[str, object], *, table: Table | None = None, text: str | None = None) -> None:
    """Print what the command found: the record with ``--json``, else the text, then the table."""
    if wants_json():
        print(as_json(record, indent=2))
        return
    if text is not None:
        print(text)
    if table is not None and sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(_rich_table(table))
    elif table is not None:
        sys.stdout.write(render(table))


def as_json(value: object, *, indent: int | None = None) -> str:
    """Strict JSON: null stands for NaN and infinity, sorted lists for sets; other objects are written by ``str``."""
    default: Callable[[object], object] = lambda other: sorted(other) if isinstance(other, frozenset) else str(other)
    dumps = functools.partial(json.dumps, ensure_ascii=False, indent=indent, default=default, allow_nan=False)
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
    print(piece, end="", flush=True)


def wants_json() -> bool:
    """Whether the running command was given ``--json``."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(JSON_KEY))


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
    """The error of ours for an expected failure, None for any other; what standard output did not take has no file."""
    from wenlu.core.publication import storage_error

    match failure:
        case WenluError():
            return failure
        case click.ClickException():
            return usage_error(failure)
        case OSError(errno=None):
            return None
        case OSError(errno=errno.ENOENT | errno.ENOTDIR, filename=path):
            return DataError("core.file_not_found", path=path or _broken_output())
        case OSError():
            return storage_error(failure, failure.filename or _broken_output())
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


def _show(error: WenluError, *, json_output: bool) -> None:
    if json_output:
        parts = messages.error_parts(error.id, error.values)
        print(as_json({"error": {"id": error.id, **parts}}), file=sys.stderr)
        return
    label = messages.text("cli.error")
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        label = click.style(label, fg="red", bold=True)
    print(f"{label}: {error}", file=sys.stderr)


def _rich_table(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(title=Text(table.title) if table.title else None, box=box.SIMPLE_HEAD, title_justify="left")
    rows = [[str(cell) for cell in row] for row in table.rows]
    for index, column in enumerate(table.columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        made.add_column(Text(column), justify="right" if numeric else "left")
    for row in rows:
        made.add_row(*map(Text, row))
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
