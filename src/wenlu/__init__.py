"""Wenlu 文炉: a language-model workbench, from raw text to a trained, measured and generating model.

The public names are loaded on first use, so that ``import wenlu`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wenlu.core.errors import WenluError as WenluError

__version__ = "0.1.0"

# Public name -> module that has it. A name here never equals a sub-package.
_PUBLIC = {
    "WenluError": "wenlu.core.errors",
}

__all__ = ["WenluError", "__version__"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wenlu' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
