"""Every reason for which a test may be skipped. A skip for any other reason is turned into a failure by conftest.py.

A test calls the function it needs as its first line: ``folder = needs_test_data("lm")``, ``needs_tool("strace")``.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

USER_HOME = os.environ.get("WENLU_HOME") or "~/.cache/wenlu"  # before conftest.py gives the tests one of their own
TEST_DATA = "large data sets are named by WENLU_TEST_DATA, which is not set or has no such file"
TOOLS = {
    "strace": "counts and breaks system calls",
    "cc": "compiles models with torch.compile",
    "cmake": "builds llama.cpp",
}
MODEL = "this model is not in the cache, and no registry offers the package that carries it"
POSIX = "needs processes and signals of POSIX"
MOUNT = "the system does not let this user mount a small disk of his own"
CUDA = "needs a CUDA device"
LLAMA_CPP = "no registry offers the package that carries the sources of llama.cpp"
FULL = "the system has no device that is always full"

REASONS = {
    TEST_DATA,
    MODEL,
    POSIX,
    MOUNT,
    CUDA,
    FULL,
    LLAMA_CPP,
    *(f"{tool} is not installed: {use}" for tool, use in TOOLS.items()),
}


def needs_test_data(*parts: str) -> Path:
    """A file or folder of the large data sets; without them the test is skipped, in CI too."""
    root = os.environ.get("WENLU_TEST_DATA")
    path = Path(root or "/nonexistent", *parts)
    if not root or not path.exists():
        pytest.skip(TEST_DATA)
    return path


def needs_model(name: str) -> Path:
    """What a verb takes as its model: from the user's cache, else fetched once a session; else the test is skipped."""
    path = _model(name)
    if path is None:
        pytest.skip(MODEL)
    return path


@functools.cache
def _model(name: str) -> Path | None:
    from wenlu.core.errors import RunError
    from wenlu.data.corpora._catalogue import models
    from wenlu.data.fetch import UNOBTAINABLE, cached, fetch_entries

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WENLU_HOME", USER_HOME)
        fetched = cached(models()[name])
    try:
        return (fetched or fetch_entries([models()[name]])[0]).model
    except RunError as error:
        if error.id not in UNOBTAINABLE:
            raise
        return None


def needs_tool(name: str) -> Path:
    """The path of a program; where it is missing the test is skipped, and fails where CI=true."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: {TOOLS[name]}"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)


def needs_posix() -> None:
    """Skip on Windows."""
    if sys.platform == "win32":
        pytest.skip(POSIX)


def cannot_mount() -> NoReturn:
    """Skip: there are neither user namespaces nor the rights of root."""
    pytest.skip(MOUNT)


def needs_full_device() -> Path:
    """A file that no byte can be written to."""
    path = Path("/dev/full")
    if not path.exists():
        pytest.skip(FULL)
    return path


def cannot_get_llama_cpp() -> NoReturn:
    """Skip: its sources cannot be fetched."""
    pytest.skip(LLAMA_CPP)


def needs_cuda() -> None:
    """Skip without a CUDA device, in CI too."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip(CUDA)
