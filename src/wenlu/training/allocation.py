"""Freed memory stays with the process while it trains, in large pages.

The GNU C library gives every large block back to the system when it is freed; the next step takes it again, and the
system clears it page by page before it may be used. In a training step that is a tenth of the time. Here the library
is told to keep what is freed, and Linux to use pages of 2 MiB for it where it may (``madvise``). Other systems, and
a library that is tuned by its environment variables: nothing is changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt
_NEVER_TRIM, _DEFAULT_MMAP_MAX = -1, 65536
_MOST_MMAP_THRESHOLD = 32 << 20  # where the library's own ends up; it stops moving them when one is set
_TUNED = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_MADV_HUGEPAGE = 14
_HUGE_PAGE_BYTES = 2 << 20
_RESERVED_BYTES = 4 << 30  # of addresses; memory is taken when it is written to


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory until the end of the block; then give it back."""
    if not (sys.platform == "linux" and platform.libc_ver()[0] == "glibc") or any(map(os.environ.get, _TUNED)):
        yield
        return
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
    block = library.malloc(_RESERVED_BYTES)
    if block:  # not where addresses are limited
        start = -(-block // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        library.madvise(start, _RESERVED_BYTES - _HUGE_PAGE_BYTES, _MADV_HUGEPAGE)
        library.free(block)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        library.mallopt(_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, 2 * _MOST_MMAP_THRESHOLD)
        library.malloc_trim(0)
