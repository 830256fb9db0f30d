"""What a download leaves that was none: a Git-LFS pointer in the place of a file, and files that are not whole."""

from __future__ import annotations

import re
from pathlib import Path

from wenlu.core.errors import CheckpointError

PARTIAL_SUFFIXES = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp")
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n.*?size (\d+)\s", re.DOTALL)


def refuse_pointer(path: Path) -> None:
    """Refuse a file that only says where Git LFS has the real one.

    Raises:
        CheckpointError: ``core.lfs_pointer``, with the size of the real file.
    """
    small = path.is_file() and path.stat().st_size <= 1024
    if small and (match := _POINTER.match(path.read_bytes())):
        raise CheckpointError("core.lfs_pointer", path=path, size=int(match[1]) / 1e6, folder=path.parent)


def partial_downloads(directory: Path) -> list[str]:
    """Names of files that a download has begun and not finished."""
    return sorted(path.name for path in directory.iterdir() if path.suffix in PARTIAL_SUFFIXES)
