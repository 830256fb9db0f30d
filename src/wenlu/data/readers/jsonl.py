"""JSON Lines: an object a line, the text in one of its fields."""

from __future__ import annotations

import json
from collections.abc import Iterator

from wenlu.core.errors import DataError
from wenlu.data.files import Record, SourceFile
from wenlu.data.readers import _text
from wenlu.data.report import Report
from wenlu.data.settings import DataSettings

SUFFIXES = ("jsonl", "ndjson")


def read(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
    """The text of each line; blank lines are no rows.

    Raises:
        DataError: ``data.bad_json``, ``data.missing_field``, ``data.field_not_text``.
    """
    name = settings.text_field
    for number, line in _text.whole_lines(source, settings, report, newline="\n"):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError("data.bad_json", path=source, line=number, column=error.colno, reason=error.msg) from error
        except (ValueError, RecursionError) as error:
            raise DataError("data.bad_json", path=source, line=number, column=1, reason=error) from error
        if not isinstance(row, dict):
            raise DataError("data.row_not_object", path=source, line=number, kind=type(row).__name__)
        if name not in row:
            raise DataError("data.missing_field", path=source, line=number, field=name, fields=", ".join(row) or "-")
        text = row[name]
        if text is not None and not isinstance(text, str):
            raise DataError("data.field_not_text", path=source, line=number, field=name, kind=type(text).__name__)
        yield Record(text, number)
