"""Bytes of a file as they were before compression; damage is an error that names the file, never a short text."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from typing import IO, TYPE_CHECKING, cast

from wenlu.core.errors import DataError
from wenlu.data.files import SourceFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_ZST_INPUT_BYTES = 1 << 11  # zstandard can blow up one input byte to 32 kB: small inputs bound the memory


def open_bytes(source: SourceFile) -> io.BufferedReader:
    """The file's decompressed bytes."""
    try:
        inner = _open(source)
    except OSError as error:
        raise DataError("data.unreadable", path=source, reason=error.strerror or error) from error
    return io.BufferedReader(_Guarded(source, inner), buffer_size=1 << 16)


def _open(source: SourceFile) -> IO[bytes]:
    if source.compression == "gz":
        return cast(IO[bytes], gzip.open(source.path, "rb"))
    if source.compression == "xz":
        return cast(IO[bytes], lzma.open(source.path, "rb"))
    if source.compression == "zst":
        return cast(IO[bytes], io.BufferedReader(_Zstandard(source)))
    return source.path.open("rb")


class _Guarded(io.RawIOBase):
    """Counts the bytes that were read and turns a decompressor's errors into ours."""

    def __init__(self, source: SourceFile, inner: IO[bytes]) -> None:
        self._source = source
        self._inner = inner
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        try:
            block = self._inner.read(len(view))
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DataError("data.bad_compression", path=self._source, reason=error, bytes=self._position) from error
        except OSError as error:
            raise DataError("data.unreadable", path=self._source, reason=error.strerror or error) from error
        view[: len(block)] = block
        self._position += len(block)
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _Zstandard(io.RawIOBase):
    """Zstandard frames one after another; unlike the library's own reader it notices a file that was cut off."""

    def __init__(self, source: SourceFile) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise DataError("data.missing_extra", path=source, module="zstandard", extra="data") from error
        self._library = zstandard
        self._file = source.path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._inside_frame = False
        self._input = b""
        self._output = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        while not self._output:
            if not self._input:
                self._input = self._file.read(_ZST_INPUT_BYTES)
            if not self._input:
                if self._inside_frame:
                    raise EOFError("the file ends inside a frame")
                return 0
            try:
                self._output = self._frame.decompress(self._input)
            except self._library.ZstdError as error:
                raise EOFError(str(error)) from error
            self._inside_frame = not self._frame.eof
            self._input = self._frame.unused_data
            if self._frame.eof:
                self._frame = self._library.ZstdDecompressor().decompressobj()
        count = min(len(view), len(self._output))
        view[:count], self._output = self._output[:count], self._output[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
