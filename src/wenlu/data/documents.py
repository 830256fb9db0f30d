"""From files to documents: read, checked, cut to size, cleaned. What was done is counted in the report.

Also what looks at texts before they are packed, and what takes the texts of one file as they stand there.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field

import numpy as np

from wenlu.core.errors import DataError
from wenlu.core.log import Progress, progress
from wenlu.core.messages import error_parts
from wenlu.core.publication import file_sha256
from wenlu.data.cleaning import clean, replace_surrogates
from wenlu.data.deduplication import DigestSet, text_digest
from wenlu.data.files import DataSettings, Record, Report, SourceFile, find_files, reader_for
from wenlu.data.readers import txt
from wenlu.data.readers._text import lines, whole_lines
from wenlu.data.report import FileAccount, Tally
from wenlu.tokenization.script import language_of

__all__ = ["DataSettings", "Document", "Report", "read_documents"]

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
_EXAMPLE_CHARACTERS = 80
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
        report.settle_replaced()
        if (document := _document(record, source, settings, report)) is not None:
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
    text = record.text
    if text is None:
        report.documents += 1
        report.dropped["null"].add(0)
        return None
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:  # only lone surrogates cannot be encoded
        if settings.bad_bytes == "refuse":
            place = {"path": source, "line": record.line, "position": error.start}
            raise DataError("data.lone_surrogate", **place, code=f"{ord(text[error.start]):04X}") from error
        text, replaced = replace_surrogates(text)
        size = len(text.encode())
        report.changed["surrogates"].add(replaced)
    report.documents += record.part == 0
    report.characters += len(text)
    report.bytes += size
    cleaned = "" if not text or text.isspace() else clean(text, settings=settings, report=report)
    if len(cleaned) < settings.minimum_characters:
        report.dropped["too_short" if cleaned else "empty"].add(len(text))
        return None
    report.kept.add(len(cleaned))
    return Document(cleaned, f"{source}:{record.line}", language_of(cleaned), size)


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


# ---- looking at texts before they are packed ----


@dataclass
class Inspection:
    """What was found; ``problems`` are the errors of files that could not be read to their end."""

    report: Report = field(default_factory=Report)
    languages: dict[str, Tally] = field(default_factory=dict)
    duplicates: int = 0
    length_quantiles: list[int] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)
    problems: list[DataError] = field(default_factory=list)

    def as_record(self) -> Mapping[str, object]:
        """The findings for ``--json``."""
        return {
            **self.report.as_record(),
            "duplicates": self.duplicates,
            "languages": {name: asdict(tally) for name, tally in sorted(self.languages.items())},
            "length_quantiles": dict(zip(map(str, QUANTILES), self.length_quantiles, strict=False)),
            "examples": [{"source": source, "text": text} for source, text in self.examples],
            "problems": [{"id": error.id, **error_parts(error.id, error.values)} for error in self.problems],
        }


def inspect_texts(settings: DataSettings, *, examples: int = 3) -> Inspection:
    """Read all files, going on with the next one after an error; in bounded memory.

    Raises:
        DataError: there is no file to read at all.
    """
    found = Inspection()
    seen = DigestSet()
    lengths = array("q")
    sources = find_files(settings.paths, found.report)
    with reading(sources) as bar:
        for source in sources:
            try:
                for document in read_file(source, settings, found.report, bar):
                    lengths.append(len(document.text))
                    found.languages.setdefault(document.language, Tally()).add(len(document.text))
                    found.duplicates += not seen.add(text_digest(document.text))
                    if len(found.examples) < examples:
                        beginning = " ".join(document.text[: 2 * _EXAMPLE_CHARACTERS].split())
                        found.examples.append((document.source, beginning[:_EXAMPLE_CHARACTERS]))
            except DataError as error:
                found.problems.append(error)
    if lengths:
        found.length_quantiles = [int(value) for value in np.quantile(np.array(lengths), QUANTILES, method="nearest")]
    return found


# ---- the texts of one file, not cleaned, dropped or reordered ----


def read_rows(path: str, *, text_field: str = "text", encoding: str = "utf-8") -> Iterator[str]:
    """Each line of a plain text, empty ones too, or the text of each row of jsonl, csv, tsv and parquet.

    Raises:
        DataError: ``data.one_file`` for a folder or wildcard; ``data.row_without_text``; what the readers raise.
    """
    report = Report()
    settings = DataSettings(document="line", text_field=text_field, encoding=encoding)
    source = _one_file(path, report)
    if source.format in txt.SUFFIXES:
        for _, line in whole_lines(source, settings, report, newline=""):
            yield line.rstrip("\r\n")
        return
    for record in reader_for(source.format).read(source, settings, report):
        if record.text is None:
            raise DataError("data.row_without_text", path=source, line=record.line)
        yield record.text


def read_text(path: str) -> str:
    """All that stands in one file, line ends too, so that a place in it counts the file's own characters.

    Raises:
        DataError: as ``read_rows``.
    """
    report = Report()
    return "".join(line for _, line in lines(_one_file(path, report), DataSettings(), report))


def _one_file(path: str, report: Report) -> SourceFile:
    sources = find_files([path], report)
    if len(sources) != 1:
        raise DataError("data.one_file", path=path, count=len(sources))
    return sources[0]
