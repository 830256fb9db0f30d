"""A real small disk for a forked child: a tmpfs in a mount namespace of its own, gone with the child."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CANNOT_MOUNT = 77  # an exit code

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _REMOUNT, _READ_ONLY = (1 << 18) | (1 << 14), 32, 1


def mount_small_disk(folder: Path, size: str) -> bool:
    """Mount a tmpfs at a folder for this process alone; False where the system does not permit it."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_MOUNTS | _NEW_USER) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    elif libc.unshare(_NEW_MOUNTS) != 0:
        return False
    return libc.mount(b"none", b"/", None, _PRIVATE, None) == 0 and _mount(libc, folder, size, 0)


def enlarge(folder: Path, size: str) -> bool:
    """Give a disk that ``mount_small_disk`` made another size."""
    return _mount(ctypes.CDLL(None, use_errno=True), folder, size, _REMOUNT)


def make_read_only(folder: Path) -> bool:
    """Take the right to write from a disk that ``mount_small_disk`` made."""
    return _mount(ctypes.CDLL(None, use_errno=True), folder, "8m", _REMOUNT | _READ_ONLY)


def _mount(libc: ctypes.CDLL, folder: Path, size: str, flags: int) -> bool:
    return bool(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode()) == 0)
