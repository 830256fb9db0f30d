"""Bytes of a file as they were before compression.

Damage is an error that names the file, never a short text; a small file that would become a huge text is refused.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from wenlu.core.errors import DataError
from wenlu.data.files import SourceFile
from wenlu.data.report import Report

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RATIO = 200
"""Largest ratio of text to compressed bytes, beyond ``RATIO_FREE_BYTES`` of text; text compresses 3 to 20 times."""
RATIO_FREE_BYTES = 1 << 24
_DICTIONARY_BYTES = 1 << 27  # the most that a file may make the decompressor keep; xz -9 and zstd -22 take no more
_INPUT_BYTES = {"gz": 1 << 14, "xz": 1 << 11, "zst": 1 << 10}  # a byte becomes up to 1, 7 and 32 kB at once


def open_bytes(source: SourceFile, report: Report) -> io.BufferedReader:
    """The file's decompressed bytes; the report is told how far it was read."""
    try:
        file = _CountedFile(source.path)
    except OSError as error:
        raise DataError("data.unreadable", path=source, reason=error.strerror or error) from error
    report.place = lambda: file.count
    inner = _Decompressed(source, file) if source.compression else file
    return io.BufferedReader(_Guarded(source, file, inner), buffer_size=1 << 16)


class _CountedFile(io.FileIO):
    """A file, or a pipe, that knows how much was read of it."""

    count = 0

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        size = super().readinto(buffer) or 0
        self.count += size
        return size


class _Guarded(io.RawIOBase):
    """Counts the bytes that were read and turns a decompressor's errors into ours."""

    def __init__(self, source: SourceFile, file: _CountedFile, inner: _CountedFile | _Decompressed) -> None:
        self._source = source
        self._file = file
        self._inner = inner
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        try:
            size = self._inner.readinto(buffer)
        except (EOFError, MemoryError) as error:
            raise DataError("data.bad_compression", path=self._source, reason=error, bytes=self._position) from error
        except OSError as error:
            raise DataError("data.unreadable", path=self._source, reason=error.strerror or error) from error
        self._position += size
        if self._position > max(RATIO_FREE_BYTES, RATIO * self._file.count):
            raise DataError(
                "data.bomb", path=self._source, bytes=self._position, compressed=self._file.count, limit=RATIO
            )
        return size

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            self._file.close()
        super().close()


class _Decoder(Protocol):
    """What zlib, lzma and zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Decompressed(io.RawIOBase):
    """Frames (members, streams) one after another.

    Unlike the libraries' own readers it notices a file that was cut off, and a frame behind the first that is damaged.
    """

    def __init__(self, source: SourceFile, file: _CountedFile) -> None:
        self._file = io.BufferedReader(file)
        self._input_bytes = _INPUT_BYTES[source.compression]
        self._new_frame, self._library_error = _library(source)
        self._frame: _Decoder | None = self._new_frame()
        self._unfinished = True  # also before anything was read: a file without a frame is damaged
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        while not self._output:
            if not self._input and not (block := self._file.read(self._input_bytes)):
                if self._unfinished:
                    raise EOFError("the file ends inside a frame")
                return 0
            self._decompress(self._input or block)
        view = memoryview(buffer)
        count = min(len(view), len(self._output))
        view[:count], self._output = self._output[:count], self._output[count:]
        return count

    def _decompress(self, block: bytes) -> None:
        if self._frame is None:
            block = block.lstrip(b"\0")  # frames may be padded
            if not block:
                self._input = b""
                return
            self._frame = self._new_frame()
        try:
            self._output = memoryview(self._frame.decompress(block))
        except self._library_error as error:
            raise EOFError(str(error)) from error
        self._unfinished = not self._frame.eof
        self._input = self._frame.unused_data
        if self._frame.eof:
            self._frame = None


def _library(source: SourceFile) -> tuple[Callable[[], _Decoder], type[Exception]]:
    """What starts a frame of the file's kind, and what that raises on damage."""
    if source.compression == "gz":
        return lambda: zlib.decompressobj(zlib.MAX_WBITS + 16), zlib.error
    if source.compression == "xz":
        return lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY_BYTES), lzma.LZMAError
    try:
        import zstandard
    except ImportError as error:
        raise DataError("data.missing_extra", path=source, module="zstandard", extra="data") from error
    return lambda: zstandard.ZstdDecompressor(max_window_size=_DICTIONARY_BYTES).decompressobj(), zstandard.ZstdError
