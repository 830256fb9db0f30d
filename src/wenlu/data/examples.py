"""Labelled examples: rows under the field names of a task's schema, read from any format and checked one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast

from wenlu.core import plugins
from wenlu.core.errors import DataError
from wenlu.core.log import notice
from wenlu.data.fields import FieldKind, Schema, check_row, unnamed
from wenlu.data.files import DataSettings, Report, SourceFile, find_files
from wenlu.data.readers import _text

__all__ = ["Asked", "Example", "FieldKind", "Rows", "Schema", "SourceFile", "read_examples"]

FORMATS = "wenlu.data.formats"
Row = tuple[int, Mapping[str, object] | DataError]
"""Line, and what stands there under the file's own field names; an error where only this row is wrong."""
Rows = Iterator[Row]
Refused = Callable[[DataError, Mapping[str, object] | None], Mapping[str, object] | None]
"""Told of a wrong row (None where nothing could be read); gives back a row to take for it, or None."""


@dataclass(frozen=True)
class Example:
    """One row: the schema's fields, and the place as errors and findings name it."""

    fields: Mapping[str, Any]
    where: str  # path:line


@dataclass(frozen=True)
class Asked:
    """What a format is told beside the file."""

    schema: Schema
    columns: tuple[str, ...]
    names: Mapping[str, str]  # the file's names of the schema's fields, where they differ
    settings: DataSettings
    report: Report

    def lines(self, source: SourceFile, *, newline: str = "") -> Iterator[tuple[int, str]]:
        """Number and text of each line of a file; ``newline`` as in ``_text.lines``."""
        return _text.whole_lines(source, self.settings, self.report, newline=newline)


class Format(Protocol):
    """What a module of ``formats/`` offers: the suffixes of its files, whether one looks like it, how it is read."""

    SUFFIXES: tuple[str, ...]

    def fits(self, head: str, schema: Schema) -> bool:
        """Whether a file that begins so is in this format; asked where several formats have its suffix."""

    def read(self, source: SourceFile, asked: Asked) -> Rows:
        """The file's rows in order, streamed where the format allows it."""


def read_examples(
    paths: Sequence[str],
    schema: Schema,
    *,
    format: str = "auto",
    encoding: str = "utf-8",
    columns: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    refused: Refused | None = None,
    whole: bool = False,
) -> Iterator[Example]:
    """The examples of all files, in the order of the files' names, streamed; a JSON document is held as a whole.

    ``columns`` names the columns of a file that does not: of a table without a header, of CoNLL columns (else the token
    is the first and the tag the last; in CoNLL-U the second and the fourth, UPOS); ``-`` is a column to leave out.
    ``names`` are the file's names of the schema's fields, where they differ. A row that is wrong is an error, or
    ``refused`` is told of it, and where a file cannot be read on. ``whole`` rows keep what the schema does not name.

    Raises:
        DataError: a file cannot be found or read, is in no known format, or has no row; ``examples.*`` of a row.
    """
    asked = Asked(schema, tuple(columns), names or {}, DataSettings(encoding=encoding), Report())
    said: set[str] = set()
    empty = True
    for where, row in _rows(_sources(paths, format, asked), asked, refused):
        empty = False
        while row is not None:
            try:
                if isinstance(row, DataError):
                    raise row
                checked = check_row(row, schema, where, asked.names, said)
            except DataError as error:
                if refused is None:
                    raise
                row = refused(error, None if isinstance(row, DataError) else row)
            else:
                yield Example({**unnamed(row, schema, asked.names), **checked} if whole else checked, where)
                break
    asked.report.announce()
    if empty:
        raise DataError("examples.none", paths=", ".join(paths), schema=schema.name)


def _rows(
    sources: Iterable[tuple[SourceFile, Format]], asked: Asked, refused: Refused | None
) -> Iterator[tuple[str, Mapping[str, object] | DataError | None]]:
    """The place of each row, and what stands there; None behind what ends a file too early."""
    for source, module in sources:
        try:
            for line, row in module.read(source, asked):
                yield f"{source}:{line}", row
        except DataError as error:
            if refused is None:
                raise
            refused(error, None)
            yield "", None


def _sources(paths: Sequence[str], format: str, asked: Asked) -> Iterator[tuple[SourceFile, Format]]:
    """Each file with the module that reads it."""
    chosen = plugins.names(FORMATS) if format == "auto" else [format]
    formats = {name: cast(Format, plugins.load(FORMATS, name)) for name in chosen}
    known = {suffix for module in formats.values() for suffix in module.SUFFIXES}
    for source in find_files(paths, asked.report, suffixes=known):
        able = {name: module for name, module in formats.items() if source.format in module.SUFFIXES or format == name}
        if not source.path.is_file() and format == "auto":  # a pipe can be read only once
            able = {"jsonl": formats["jsonl"]}
        if len(able) > 1:
            start = islice(_text.lines(source, asked.settings, asked.report, limit=1 << 12), 5)
            head = "".join(line for _, line in start)
            able = {name: module for name, module in able.items() if module.fits(head, asked.schema)}
        if len(able) != 1:
            raise DataError("examples.which_format", path=source, known=", ".join(formats))
        [(name, module)] = able.items()
        if source.format != module.SUFFIXES[0] and format == "auto":
            notice("examples.recognised", path=source, format=name)
        yield source, module
