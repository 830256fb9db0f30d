"""Wenlu 文炉: a language-model workbench, from raw text to a trained, measured and generating model.

The public names are loaded on first use, so that ``import wenlu`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from wenlu.core.version import __version__

if TYPE_CHECKING:
    from wenlu.api import Model as Model
    from wenlu.api import evaluate as evaluate
    from wenlu.api import load as load
    from wenlu.api import open_store as open_store
    from wenlu.api import pack as pack
    from wenlu.api import resume as resume
    from wenlu.api import train as train
    from wenlu.api import train_tokenizer as train_tokenizer
    from wenlu.core.errors import WenluError as WenluError

# A name here never equals a sub-package.
__all__ = [
    "Model",
    "WenluError",
    "__version__",
    "evaluate",
    "load",
    "open_store",
    "pack",
    "resume",
    "train",
    "train_tokenizer",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'wenlu' has no attribute {name!r}")
    module = "wenlu.core.errors" if name == "WenluError" else "wenlu.api"
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
