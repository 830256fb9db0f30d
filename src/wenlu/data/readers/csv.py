"""Tables with a header row, separated by commas (csv) or tabs (tsv)."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from wenlu.core.errors import DataError
from wenlu.data.files import Record, SourceFile
from wenlu.data.readers import _text
from wenlu.data.report import Report
from wenlu.data.settings import DataSettings

SUFFIXES = ("csv", "tsv")


def read(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
    """The text column of each row; quoted fields may hold line ends.

    Raises:
        DataError: ``data.bad_csv``, ``data.missing_field``, ``data.short_row``.
    """
    csv.field_size_limit(_text.LINE_LIMIT)
    numbered = _text.whole_lines(source, settings, report, newline="")
    delimiter = "\t" if source.format == "tsv" else ","
    rows = csv.reader((line for _, line in numbered), delimiter=delimiter, strict=True)
    column = -1
    start = 1
    try:
        for row in rows:
            if not row:
                pass
            elif column < 0:
                column = _column(row, source, settings.text_field)
            elif column >= len(row):
                raise DataError("data.short_row", path=source, line=start, columns=len(row), needed=column + 1)
            else:
                yield Record(row[column], start)
            start = rows.line_num + 1
    except csv.Error as error:
        raise DataError("data.bad_csv", path=source, line=start, reason=error) from error


def _column(header: list[str], source: SourceFile, name: str) -> int:
    if name not in header:
        raise DataError("data.missing_field", path=source, line=1, field=name, fields=", ".join(header))
    return header.index(name)
