"""Tables with a header row, separated by commas (csv) or tabs (tsv)."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from wenlu.core.errors import DataError
from wenlu.data.files import DataSettings, Record, Report, SourceFile
from wenlu.data.readers import _text

SUFFIXES = ("csv", "tsv")


def read(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
    """The text column of each row; quoted fields may hold line ends.

    Raises:
        DataError: ``data.bad_csv``, ``data.missing_field``, ``data.short_row``.
    """
    column = -1
    for start, row in rows(source, settings, report):
        if column < 0:
            if settings.text_field not in row:
                known = ", ".join(row)
                raise DataError("data.missing_field", path=source, line=1, field=settings.text_field, fields=known)
            column = row.index(settings.text_field)
        elif column >= len(row):
            raise DataError("data.short_row", path=source, line=start, columns=len(row), needed=column + 1)
        else:
            yield Record(row[column], start)


def rows(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of each row that is not blank, the header too."""
    csv.field_size_limit(_text.LINE_LIMIT)
    numbered = _text.whole_lines(source, settings, report, newline="")
    delimiter = "\t" if source.format == "tsv" else ","
    table = csv.reader((line for _, line in numbered), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in table:
            if row:
                yield start, row
            start = table.line_num + 1
    except csv.Error as error:
        raise DataError("data.bad_csv", path=source, line=start, reason=error) from error
