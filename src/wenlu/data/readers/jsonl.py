"""JSON Lines: an object a line, the text in one of its fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from wenlu.core.errors import DataError
from wenlu.data.files import DataSettings, Record, Report, SourceFile
from wenlu.data.readers import _text

SUFFIXES = ("jsonl", "ndjson")


def read(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
    """The text of each line; blank lines are no rows.

    Raises:
        DataError: ``data.bad_json``, ``data.missing_field``, ``data.field_not_text``.
    """
    name = settings.text_field
    for number, row in objects(_text.whole_lines(source, settings, report, newline="\n"), source):
        if isinstance(row, DataError):
            raise row
        if name not in row:
            raise DataError("data.missing_field", path=source, line=number, field=name, fields=", ".join(row) or "-")
        text = row[name]
        if text is not None and not isinstance(text, str):
            raise DataError("data.field_not_text", path=source, line=number, field=name, kind=type(text).__name__)
        yield Record(text, number)


def objects(lines: Iterable[tuple[int, str]], source: SourceFile) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """Number and object of each line that is not blank; an error in the place of a line that holds none."""
    for number, line in lines:
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            column, reason = getattr(error, "colno", 1), getattr(error, "msg", error)
            yield number, DataError("data.bad_json", path=source, line=number, column=column, reason=reason)
        else:
            yield number, as_object(row, source, number)


def as_object(value: object, source: SourceFile, line: int) -> dict[str, Any] | DataError:
    """A JSON object, or the error that it is none."""
    if isinstance(value, dict):
        return value
    return DataError("data.row_not_object", path=source, line=line, kind=type(value).__name__)
