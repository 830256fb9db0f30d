"""The device ``meta``, on which a model has shapes and no memory, without the first weights that nobody would read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def meta_device() -> Iterator[None]:
    """Make modules on ``meta``.

    ``torch.nn.init`` does nothing there: on that device it would load torch's compiler, 75 MiB and a second or more.
    """
    with torch.device("meta"), _WithoutInitialization():
        yield


class _WithoutInitialization(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        given = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return given.get("tensor", args[0] if args else None)
        return function(*args, **given)
