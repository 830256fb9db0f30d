"""What the operating system says of this machine and this process; None where it does not say (other than Linux)."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_SYNCS = 7
_NO_LIMIT = 1 << 60  # the first cgroups write a number near 2**63 where there is none


class Memory(NamedTuple):
    """Main memory in bytes: of the machine, and what is free now, of it or of a limit if that is less.

    Limits are those of a container (cgroup) and of the process itself (``ulimit -v``).
    """

    total: int | None
    limit: int | None
    free: int | None


class Disk(NamedTuple):
    """The file system under a folder; ``sync_seconds`` is the median time until 4 KiB are safe on it."""

    free_bytes: int | None
    writable: bool
    sync_seconds: float | None


def resident_bytes() -> tuple[int | None, int | None]:
    """What this process holds of main memory: now, and the most that it ever held."""
    values = _fields(_PROC / "self" / "status")
    return values.get("VmRSS"), values.get("VmHWM")


def memory() -> Memory:
    """Total, limit and free memory; pages of files that the system would give up count as free."""
    values = _fields(_PROC / "meminfo")
    total, free = values.get("MemTotal"), values.get("MemAvailable")
    limits = []
    for folder in _groups("memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit <= (total or _NO_LIMIT):
            counts = dict(re.findall(r"^(\w+) (\d+)$", read_quietly(folder / "memory.stat"), re.MULTILINE))
            cached = int(counts.get("total_inactive_file") or counts.get("inactive_file") or 0)
            limits.append((limit, max(0, limit - used + cached)))
    addresses = _fields(_PROC / "self" / "status").get("VmSize")
    if addresses is not None:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            limits.append((limit, max(0, limit - addresses)))
    available = [value for value in (free, *(left for _, left in limits)) if value is not None]
    return Memory(total, min((limit for limit, _ in limits), default=None), min(available, default=None))


def allowed_cores() -> int:
    """Processor cores that this process may use; all of them where the system does not say (macOS, Windows)."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def core_quota() -> float | None:
    """How many cores' worth of time the groups (containers) of this process leave it; None without such a limit."""
    quotas = []
    for folder in _groups("cpu"):
        words = read_quietly(folder / "cpu.max").split() or [read_quietly(folder / "cpu.cfs_quota_us").strip()]
        period = float(words[1]) if len(words) > 1 else _number(folder / "cpu.cfs_period_us") or 100_000
        if words[0].isdigit():
            quotas.append(int(words[0]) / period)
    return min(quotas, default=None)


def processor() -> tuple[str, frozenset[str]]:
    """The processor's name and its features as the system calls them (``avx2``, ``avx512_bf16``, ``asimd``)."""
    content = read_quietly(_PROC / "cpuinfo")
    name = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", content, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", content, re.MULTILINE)
    known = name[1].strip() if name else platform.processor() or platform.machine()
    return known, frozenset(flags[1].split() if flags else ())


def disk(folder: Path) -> Disk:
    """The disk of a folder, or of the nearest one above it that exists."""
    place = nearest_folder(folder)
    free: int | None = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(place).free
    times = []
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            for _ in range(_SYNCS):
                started = time.perf_counter()
                file.write(bytes(4096))
                os.fsync(file.fileno())
                times.append(time.perf_counter() - started)
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)  # a full disk is another trouble
        return Disk(free, writable=not refused, sync_seconds=None)
    return Disk(free, writable=True, sync_seconds=statistics.median(times))


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    absolute = Path.cwd() / path.expanduser()
    folders = (absolute, *absolute.parents)  # Path.is_dir raises below a folder that may not be searched
    return next((folder for folder in folders if os.path.isdir(folder)), Path.cwd())  # noqa: PTH112


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the control groups around this process, of both versions, from the inmost outwards."""
    for line in read_quietly(_PROC / "self" / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if not names or controller in names.split(","):
            root = _CGROUPS / controller if names else _CGROUPS
            yield from filter(Path.is_dir, (root / str(part).lstrip("/") for part in (Path(path), *Path(path).parents)))


def _fields(path: Path) -> dict[str, int]:
    """``Name:  123 kB`` lines of a file of /proc, in bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", read_quietly(path), re.MULTILINE)
    return {name: int(value) * 1024 for name, value in found}


def _number(path: Path) -> int | None:
    content = read_quietly(path).strip()
    return int(content) if content.isdigit() else None


def read_quietly(path: Path) -> str:
    """The text of a file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
