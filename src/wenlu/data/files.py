"""From paths, folders and wildcards to the files to read, in an order that does not depend on how they were given."""

from __future__ import annotations

import difflib
import glob
import importlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from wenlu.core import plugins
from wenlu.core.errors import DataError, SettingsError
from wenlu.data.report import Report
from wenlu.data.settings import DataSettings

__all__ = ["DataSettings", "Reader", "Record", "Report", "SourceFile", "find_files", "reader_for", "readers"]

READERS = "wenlu.data.readers"
COMPRESSIONS = ("gz", "xz", "zst")
_ABOUT = ("readme", "license", "licence", "copying", "notice", "changelog")  # in folders: no part of a corpus


@dataclass(frozen=True)
class Record:
    """A text as a reader found it. ``part`` counts from 0 where a reader had to cut one document into several."""

    text: str | None  # None: the row has no text (null)
    line: int
    part: int = 0


@dataclass(frozen=True)
class SourceFile:
    """One file to read."""

    path: Path
    format: str  # the reader's suffix
    compression: str  # "" or one of COMPRESSIONS

    def __str__(self) -> str:
        return str(self.path)


class Reader(Protocol):
    """What a module of ``readers/`` offers: the suffixes it reads, and how."""

    SUFFIXES: tuple[str, ...]

    def read(self, source: SourceFile, settings: DataSettings, report: Report) -> Iterator[Record]:
        """The file's texts in order, streamed; errors name file and line."""


def readers() -> dict[str, Reader]:
    """Our readers by suffix."""
    modules = [cast(Reader, importlib.import_module(f"{READERS}.{name}")) for name in plugins.names(READERS)]
    return {suffix: module for module in modules for suffix in module.SUFFIXES}


def reader_for(suffix: str) -> Reader:
    """The reader of a suffix, ours or a third party's entry point.

    Raises:
        SettingsError: ``core.unknown_plugin``.
    """
    ours = readers()
    return ours[suffix] if suffix in ours else cast(Reader, plugins.load(READERS, suffix))


def find_files(paths: Sequence[str], report: Report, *, suffixes: Collection[str] | None = None) -> list[SourceFile]:
    """All files to read, sorted by path; what is skipped in folders is counted.

    Other ``suffixes`` than the readers' are for folders: a file that is named may then have any.

    Raises:
        DataError: ``data.no_paths``, ``data.missing_file``, ``data.no_match``, ``data.nothing_readable``,
            ``data.unknown_format``.
    """
    if not paths:
        raise DataError("data.no_paths")
    known = readers() if suffixes is None else suffixes
    expanded = (path for given in paths for path in _expand(given))
    found = [source for path in expanded for source in _sources(path, known, report, any_suffix=suffixes is not None)]
    unique: dict[str, SourceFile] = {}
    for source in sorted(found, key=lambda source: source.path.absolute()):
        if unique.setdefault(os.path.realpath(source.path), source) is not source:
            report.skip("given_twice", str(source))
    return list(unique.values())


def _expand(given: str) -> list[Path]:
    path = Path(given).expanduser()
    if path.exists():
        return [path]
    if not glob.has_magic(given):
        parent = path.parent if path.parent.is_dir() else Path()
        known = sorted(entry.name for entry in parent.iterdir())[:200]
        near = next(iter(difflib.get_close_matches(path.name, known, n=1, cutoff=0.6)), "-")
        raise DataError("data.missing_file", path=given, folder=parent.absolute(), near=near)
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matches:
        raise DataError("data.no_match", pattern=given, folder=Path.cwd())
    return matches


def _below(folder: Path, known: Collection[str], report: Report) -> list[SourceFile]:
    """The readable files under a folder; hidden ones and links to folders are not entered."""
    found, skipped = [], 0
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(base) / name
            suffix, compression = _suffixes(path)
            if suffix in known and not name.lower().startswith(_ABOUT):
                found.append(SourceFile(path, suffix, compression))
            else:
                skipped += 1
                report.skip("about_the_corpus" if suffix in known else "unknown_format", str(path))
    if not found:
        raise DataError("data.nothing_readable", path=folder, skipped=skipped, known=", ".join(sorted(known)))
    return found


def _sources(path: Path, known: Collection[str], report: Report, *, any_suffix: bool) -> list[SourceFile]:
    """A file that is named, or those of a folder."""
    if path.is_dir():
        return _below(path, known, report)
    suffix, compression = _suffixes(path)
    if not path.is_file() and suffix not in known:
        suffix = "txt"  # a pipe
    elif suffix not in known and not any_suffix:
        try:
            reader_for(suffix)
        except SettingsError as error:
            formats = ", ".join(sorted(known))
            raise DataError("data.unknown_format", path=path, found=path.suffix or "-", known=formats) from error
    return [SourceFile(path, suffix, compression)]


def _suffixes(path: Path) -> tuple[str, str]:
    """``a.txt.gz`` -> ("txt", "gz"), ``a.md`` -> ("md", "")."""
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    return (suffixes[-1] if suffixes else ""), compression
