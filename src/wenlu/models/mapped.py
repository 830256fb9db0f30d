"""Tensors in mapped files: pages that were read stay resident until somebody says that they are no longer needed."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

from torch import Tensor

_DONTNEED = 4  # MADV_DONTNEED of Linux: pages of a file are read again from it when they are touched


class Pages:
    """The parts of this process's memory that are mapped from a file; nothing on systems other than Linux."""

    def __init__(self, path: Path) -> None:
        name = str(path.resolve())
        self._ranges: list[tuple[int, int]] = []
        if sys.platform == "linux":
            lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            rows = [line.split(maxsplit=5) for line in lines if line.endswith(name)]
            ranges = [row[0].split("-") for row in rows if row[5] == name]
            self._ranges = [(int(start, 16), int(end, 16)) for start, end in ranges]

    def forget(self, tensor: Tensor) -> None:
        """Give back the whole pages of a tensor that lies in the file; it can be read again, and nobody has written."""
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        if not any(low <= start and start + size <= high for low, high in self._ranges):
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)
