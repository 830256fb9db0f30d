"""Bytes of a file as they were before compression.

Damage is an error that names the file, never a short text; a small file that would become a huge text is refused.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from wenlu.core.errors import DataError
from wenlu.data.files import Report, SourceFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RATIO = 200
"""Largest ratio of text to compressed bytes, beyond ``RATIO_FREE_BYTES`` of text; text compresses 3 to 20 times."""
RATIO_FREE_BYTES = 1 << 24
_BLOCK_BYTES = 1 << 16
_DICTIONARY_BYTES = 1 << 27  # the most that a file may make the decompressor keep; xz -9 and zstd -22 take no more
_INPUT_BYTES = {"gz": 1 << 14, "xz": 1 << 11, "zst": 1 << 10}  # a byte becomes up to 1, 7 and 32 kB at once


def open_bytes(source: SourceFile, report: Report) -> io.BufferedReader:
    """The file's decompressed bytes; the report is told how far it was read."""
    try:
        file = _CountedFile(source.path)
    except OSError as error:
        raise DataError("data.unreadable", path=source, reason=error.strerror or error) from error
    report.place = lambda: file.count
    return io.BufferedReader(_Guarded(source, file), buffer_size=_BLOCK_BYTES)


class _CountedFile(io.FileIO):
    """A file, or a pipe, that knows how much was read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        self.count += len(data)
        return data


class _Guarded(io.RawIOBase):
    """The text of a file; counts the bytes that were read and turns a decompressor's errors into ours."""

    def __init__(self, source: SourceFile, file: _CountedFile) -> None:
        self._source, self._file = source, file
        self._blocks = _decompressed(source, file) if source.compression else iter(lambda: file.read(_BLOCK_BYTES), b"")
        self._left = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        source = self._source
        try:
            self._left = self._left or memoryview(next(self._blocks, b""))
        except (EOFError, MemoryError) as error:
            raise DataError("data.bad_compression", path=source, reason=error, bytes=self._position) from error
        except OSError as error:
            raise DataError("data.unreadable", path=source, reason=error.strerror or error) from error
        view = memoryview(buffer)
        size = min(len(view), len(self._left))
        view[:size], self._left = self._left[:size], self._left[size:]
        self._position += size
        if self._position > max(RATIO_FREE_BYTES, RATIO * self._file.count):
            sizes = {"bytes": self._position, "compressed": self._file.count}
            raise DataError("data.bomb", path=source, **sizes, limit=RATIO)
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _decompressed(source: SourceFile, file: _CountedFile) -> Iterator[bytes]:
    """Frames (members, streams) one after another.

    Unlike the libraries' own readers it notices a file that was cut off, and a frame behind the first that is damaged.
    """
    new_frame, library_error = _library(source)
    frame = new_frame()  # also before anything was read: a file without a frame is damaged
    left = b""
    while block := left or file.read(_INPUT_BYTES[source.compression]):
        left = b""
        if frame is None:
            if not (block := block.lstrip(b"\0")):  # frames may be padded
                continue
            frame = new_frame()
        try:
            if output := frame.decompress(block):
                yield output
        except library_error as error:
            raise EOFError(str(error)) from error
        if frame.eof:
            left, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the file ends inside a frame")


def _library(source: SourceFile) -> tuple[Callable[[], Any], type[Exception]]:
    """What starts a frame of the file's kind (with eof, unused_data and decompress), and what it raises on damage."""
    if source.compression == "gz":
        return lambda: zlib.decompressobj(zlib.MAX_WBITS + 16), zlib.error
    if source.compression == "xz":
        return lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY_BYTES), lzma.LZMAError
    try:
        import zstandard
    except ImportError as error:
        raise DataError("data.missing_extra", path=source, module="zstandard", extra="data") from error
    return lambda: zstandard.ZstdDecompressor(max_window_size=_DICTIONARY_BYTES).decompressobj(), zstandard.ZstdError
