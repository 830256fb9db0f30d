"""The libraries of the optional extras: imported where they are used, and named when they are missing."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType

from wenlu.core.errors import RunError


def load_extra(module: str, *, extra: str) -> ModuleType:
    """Import a module that an extra of Wenlu brings.

    Raises:
        RunError: ``core.missing_extra``, which names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RunError("core.missing_extra", module=module, extra=extra) from error


def release(package: str) -> str:
    """``package:version`` of what was loaded, for the signature of a number that it computed."""
    return f"{package}:{metadata.version(package)}"
