"""From files to documents: read, checked, cut to size, cleaned. What was done is counted in the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from wenlu.core.errors import DataError
from wenlu.core.log import Progress, progress
from wenlu.core.publication import file_sha256
from wenlu.data.cleaning import clean, find_surrogate, replace_surrogates
from wenlu.data.files import Record, SourceFile, find_files, reader_for
from wenlu.data.report import FileAccount, Report
from wenlu.data.settings import DataSettings
from wenlu.tokenization.script import language_of

__all__ = ["DataSettings", "Document", "Report", "read_documents"]

_PROGRESS_EVERY_BYTES = 1 << 20


@dataclass(frozen=True)
class Document:
    """A cleaned text, never empty."""

    text: str
    source: str  # file:line
    language: str  # as wenlu.tokenization.script counts languages
    original_bytes: int  # UTF-8 bytes of the text as it was read, before cleaning


def read_documents(settings: DataSettings, report: Report, *, paths: Sequence[str] | None = None) -> Iterator[Document]:
    """The documents of ``paths`` (``settings.paths`` when not given), in the order of the files' names, streamed.

    Raises:
        DataError: a file is missing, unreadable, binary, in another encoding, or not in its format; with file and line.
    """
    sources = find_files(settings.paths if paths is None else paths, report)
    with reading(sources) as bar:
        for source in sources:
            yield from read_file(source, settings, report, bar)


def reading(sources: Sequence[SourceFile]) -> AbstractContextManager[Progress]:
    """The progress of reading these files, in kB as they lie on disk."""
    return progress("data.reading", total=sum(source.path.stat().st_size for source in sources) / 1e3, unit="kB")


def read_file(source: SourceFile, settings: DataSettings, report: Report, bar: Progress) -> Iterator[Document]:
    """The documents of one file; see ``read_documents``."""
    account = _account(source)
    report.files.append(account)
    pending = 0
    for record in _cut(reader_for(source.format).read(source, settings, report), settings, report):
        document = _document(record, source, settings, report)
        if document is not None:
            account.documents += 1
            pending += document.original_bytes
            yield document
        if pending > _PROGRESS_EVERY_BYTES:
            bar.advance(0, detail=f"{source.path.name}: {account.documents:,}")
            pending = 0
    report.settle_replaced()
    bar.advance(account.bytes / 1e3, detail=source.path.name)


def _document(record: Record, source: SourceFile, settings: DataSettings, report: Report) -> Document | None:
    """The record as a document, or None when it is dropped (and counted)."""
    report.settle_replaced()
    if record.text is None:
        report.documents += 1
        report.drop("null", 0)
        return None
    text = record.text
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        text, size = _without_surrogates(text, record, source, settings, report)
    report.documents += record.part == 0
    report.characters += len(text)
    report.bytes += size
    cleaned = "" if not text or text.isspace() else clean(text, settings=settings, report=report)
    if not cleaned:
        report.drop("empty", len(text))
        return None
    if len(cleaned) < settings.minimum_characters:
        report.drop("too_short", len(text))
        return None
    report.kept.add(len(cleaned))
    return Document(cleaned, f"{source}:{record.line}", language_of(cleaned), size)


def _without_surrogates(
    text: str, record: Record, source: SourceFile, settings: DataSettings, report: Report
) -> tuple[str, int]:
    if settings.bad_bytes == "refuse":
        position = find_surrogate(text) or 0
        code = f"{ord(text[position]):04X}"
        raise DataError("data.lone_surrogate", path=source, line=record.line, position=position, code=code)
    text, replaced = replace_surrogates(text)
    report.change("surrogates", replaced)
    return text, len(text.encode())


def _cut(records: Iterator[Record], settings: DataSettings, report: Report) -> Iterator[Record]:
    """Records of at most ``maximum_characters``; longer ones in parts that end at line ends where there are any."""
    limit = settings.maximum_characters
    for record in records:
        if record.part:  # a reader of running text has cut it already
            report.cut_documents += record.part == 1
            report.cut_parts += 1 + (record.part == 1)
        if record.text is None or len(record.text) <= limit:
            yield record
            continue
        report.cut_documents += 1
        start, part = 0, 0
        while start < len(record.text):
            end = start + limit
            if end < len(record.text):
                end = record.text.rfind("\n", start, end) + 1 or end
            yield Record(record.text[start:end], record.line, part)
            start, part = end, part + 1
        report.cut_parts += part


def _account(source: SourceFile) -> FileAccount:
    """Size and digest of a file; a pipe can be read only once and has neither."""
    if not source.path.is_file():
        return FileAccount(str(source), 0, "")
    try:
        digest = file_sha256(source.path)
    except OSError as error:
        raise DataError("data.unreadable", path=source, reason=error.strerror or error) from error
    return FileAccount(str(source), source.path.stat().st_size, digest)
