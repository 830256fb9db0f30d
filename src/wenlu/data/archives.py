"""Take named files out of a ZIP archive (a wheel) that nobody has vouched for.

Nothing is installed and nothing is run. The archive's directory is judged as a whole before the first byte is written:
one name that would leave the target folder, one link, one size that cannot be true, and the archive is refused. What is
then read is counted while it is read, because a directory can lie about sizes.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from wenlu.core.errors import DataError
from wenlu.core.log import Notice

_MIB = 1024 * 1024
_CHUNK = 256 * 1024
_END_OF_DIRECTORY = b"PK\x05\x06"
_END_OF_DIRECTORY_BYTES = 22
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP64_LOCATOR_BYTES = 20
_LOCAL_HEADER_BYTES = 30
_LONGEST_COMMENT = 65_535
_LONGEST_NAME = 255  # of a file or folder inside the archive, in bytes
_FLAG_ENCRYPTED = 0x1
_COMPRESSIONS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in (*"0123456789", "¹", "²", "³")}
)


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold and become."""

    archive_bytes: int = 200 * _MIB
    extracted_bytes: int = 200 * _MIB
    ratio: int = 200
    """Extracted bytes over compressed bytes, for files beyond ``ratio_free_bytes``; text compresses 3 to 20 times."""
    ratio_free_bytes: int = _MIB
    entries: int = 20_000
    directory_bytes: int = 8 * _MIB


def extract(archive: Path, target: Path, patterns: Sequence[str], *, limits: Limits | None = None) -> dict[str, Path]:
    """Write the archive's files that match a pattern (``*`` crosses folders) below ``target``; names to paths, sorted.

    Raises:
        DataError: ``fetch.archive_*``, with the archive, the name inside it and the reason, before or while it is read.
            ``fetch.file_missing`` when a pattern matches nothing.
    """
    limits = limits or Limits()
    if archive.stat().st_size > limits.archive_bytes:
        raise _too_large(archive, "", archive.stat().st_size, limits.archive_bytes)
    written: dict[str, Path] = {}
    remaining = limits.extracted_bytes
    with archive.open("rb") as stream:
        _check_directory(archive, stream, limits)
        try:
            with zipfile.ZipFile(stream) as opened:
                entries = opened.infolist()
                _check_entries(archive, entries, limits)
                for entry in _chosen(archive, entries, patterns):
                    path = target.joinpath(*entry.filename.split("/"))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    remaining -= _write(archive, opened, entry, path, remaining=remaining, limits=limits)
                    written[entry.filename] = path
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError) as error:
            raise DataError("fetch.archive_damaged", path=archive, detail=str(error) or type(error).__name__) from error
    return written


def why_unsafe(name: str) -> str | None:
    """Why a name inside an archive must not become a path, as an id of ``[text.fetch]``; None when it may."""
    parts = name.removesuffix("/").split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in name:
        return "fetch.unsafe_escape"
    if any(code < 32 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 for code in map(ord, name)):
        return "fetch.unsafe_control"
    if (
        any(len(part.encode("utf-8")) > _LONGEST_NAME for part in parts)
        or len(name.encode("utf-8")) > 4 * _LONGEST_NAME
    ):
        return "fetch.unsafe_long"
    if any(part.split(".")[0].rstrip(" ").lower() in _DEVICES or part[-1] in " ." for part in parts):
        return "fetch.unsafe_device"
    return None


def _check_directory(archive: Path, stream: BinaryIO, limits: Limits) -> None:
    """Bound the directory before zipfile builds an object for each entry of it."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - _END_OF_DIRECTORY_BYTES - _LONGEST_COMMENT - _ZIP64_LOCATOR_BYTES))
    tail = stream.read()
    stream.seek(0)
    at = tail.rfind(_END_OF_DIRECTORY)
    if at < 0 or len(tail) - at < _END_OF_DIRECTORY_BYTES:
        raise DataError("fetch.archive_damaged", path=archive, detail="no ZIP directory")
    if _ZIP64_LOCATOR in tail:
        raise DataError("fetch.archive_damaged", path=archive, detail="ZIP64")
    directory_bytes = int.from_bytes(tail[at + 12 : at + 16], "little")
    if directory_bytes > limits.directory_bytes:
        raise _too_large(archive, "", directory_bytes, limits.directory_bytes)


def _check_entries(archive: Path, entries: Sequence[zipfile.ZipInfo], limits: Limits) -> None:
    if len(entries) > limits.entries:
        raise DataError("fetch.archive_entries", path=archive, entries=len(entries), limit=limits.entries)
    seen: set[str] = set()
    for entry in entries:
        reason, folded = why_unsafe(entry.orig_filename), entry.filename.removesuffix("/").casefold()
        if reason is None and stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            reason = "fetch.unsafe_link"
        if reason is None and (entry.flag_bits & _FLAG_ENCRYPTED or entry.compress_type not in _COMPRESSIONS):
            reason = "fetch.unsafe_packing"
        if reason is None and folded in seen:
            reason = "fetch.unsafe_twice"
        if reason is not None:
            raise DataError("fetch.archive_unsafe", path=archive, name=entry.orig_filename[:80], reason=Notice(reason))
        seen.add(folded)
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise DataError("fetch.archive_damaged", path=archive, detail=f"overlapping files at {entry.header_offset}")
        end = entry.header_offset + _LOCAL_HEADER_BYTES + entry.compress_size


def _chosen(archive: Path, entries: Sequence[zipfile.ZipInfo], patterns: Sequence[str]) -> list[zipfile.ZipInfo]:
    files = [entry for entry in entries if not entry.is_dir()]
    for pattern in patterns:
        if not any(fnmatchcase(entry.filename, pattern) for entry in files):
            raise DataError("fetch.file_missing", path=archive, name=pattern)
    wanted = [entry for entry in files if any(fnmatchcase(entry.filename, pattern) for pattern in patterns)]
    return sorted(wanted, key=lambda entry: entry.filename)


def _write(
    archive: Path, opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, *, remaining: int, limits: Limits
) -> int:
    """Write one file and return its size; the sizes in the directory are only a first bound."""
    ratio = entry.file_size / max(entry.compress_size, 1)
    if entry.file_size > limits.ratio_free_bytes and ratio > limits.ratio:
        most = {"ratio": round(ratio), "limit": limits.ratio}
        raise DataError("fetch.archive_ratio", path=archive, name=entry.filename, **most)
    if entry.file_size > remaining:
        raise _too_large(archive, entry.filename, entry.file_size, remaining)
    with opened.open(entry) as source, path.open("xb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK)  # never more than the directory says: zipfile stops there
        total = sink.tell()
    if total != entry.file_size:
        detail = f"{entry.filename}: {total} bytes, {entry.file_size} in the directory"
        raise DataError("fetch.archive_damaged", path=archive, detail=detail)
    return total


def _too_large(archive: Path, name: str, found: int, limit: int) -> DataError:
    return DataError("fetch.archive_too_large", path=archive, name=name or archive.name, found=found, limit=limit)
