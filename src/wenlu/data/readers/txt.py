"""Plain text, and Markdown, which is taken as the plain text it is."""

from __future__ import annotations

from collections.abc import Iterator

from wenlu.data.files import DataSettings, Record, Report, SourceFile
from wenlu.data.readers import _text

SUFFIXES = ("txt", "text", "md", "markdown")


def read(source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
    """The file's documents as ``data.document`` divides them."""
    return _text.documents(source, settings, report)
