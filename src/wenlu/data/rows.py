"""The texts of one file as they stand there, one a line or a row: nothing is cleaned, dropped or reordered."""

from __future__ import annotations

from collections.abc import Iterator

from wenlu.core.errors import DataError
from wenlu.data.files import find_files, reader_for
from wenlu.data.readers import _text, txt
from wenlu.data.report import Report
from wenlu.data.settings import DataSettings


def read_rows(path: str, *, text_field: str = "text", encoding: str = "utf-8") -> Iterator[str]:
    """Each line of a plain text, empty ones too, or the text of each row of jsonl, csv, tsv and parquet.

    Raises:
        DataError: ``data.one_file`` for a folder or wildcard; ``data.row_without_text``; what the readers raise.
    """
    report = Report()
    settings = DataSettings(document="line", text_field=text_field, encoding=encoding)
    sources = find_files([path], report)
    if len(sources) != 1:
        raise DataError("data.one_file", path=path, count=len(sources))
    [source] = sources
    if source.format in txt.SUFFIXES:
        for _, line in _text.whole_lines(source, settings, report, newline=""):
            yield line.rstrip("\r\n")
        return
    for record in reader_for(source.format).read(source, settings, report):
        if record.text is None:
            raise DataError("data.row_without_text", path=source, line=record.line)
        yield record.text
