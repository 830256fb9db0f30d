"""Whether a run compiles its Transformer: where the seconds it saves are more than those it takes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from wenlu.core.errors import DeviceError, WenluError, is_out_of_memory
from wenlu.core.log import notice, warn
from wenlu.models.transformer import Transformer

REPAYING_SECONDS = 600.0
"""Shorter runs are not compiled: trying costs up to a minute, and a step gains some 5 to 20 %."""


def find_compiler() -> str | None:
    """The C++ compiler that ``torch.compile`` will call, if there is one; torch takes ``CXX`` for one word."""
    return shutil.which(os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")))


def compile_layers(model: nn.Module) -> None:
    """Let the layers of a Transformer run compiled from now on, in place; the loss and the optimizer stay as they are.

    Raises:
        DeviceError: ``training.no_compiler``.
    """
    if find_compiler() is None:
        raise DeviceError("training.no_compiler")
    assert isinstance(model, Transformer), "other models refuse train.compile"
    for stack in (model.encoder, model.decoder):
        if stack is not None:
            stack.compile(dynamic=False)


def may_compile(model: nn.Module) -> bool:
    """Whether there is a compiler, and something that it can compile."""
    return isinstance(model, Transformer) and find_compiler() is not None


def repays(expected_seconds: float, measure: Callable[[bool], float], *, seconds_per_step: float) -> bool:
    """Try a compiled step when the run is long enough, and tell whether to compile.

    Args:
        expected_seconds: of all steps of the run, not compiled.
        measure: seconds of a step, compiled or not, of a copy of the model.
        seconds_per_step: not compiled.
    """
    if expected_seconds < REPAYING_SECONDS:
        return False
    notice("training.trying_compilation", minutes=expected_seconds / 60)
    started = time.perf_counter()
    try:
        compiled = measure(True)
    except Exception as error:  # whatever a compiler may say: the run goes on without it
        if isinstance(error, WenluError) or is_out_of_memory(error):
            raise
        warn("training.compilation_failed", reason=_first_line(error))
        return False
    cost = time.perf_counter() - started
    saved = expected_seconds * (1 - compiled / seconds_per_step)
    notice(
        "training.compilation", before=seconds_per_step * 1000, after=compiled * 1000, saved=saved, cost=cost,
        decision="true" if saved > cost else "false",
    )  # fmt: skip
    return saved > cost


@contextlib.contextmanager
def compiler_errors() -> Iterator[None]:
    """Let a model that cannot be compiled be an error of ours, ``training.compilation``."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error) or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise DeviceError("training.compilation", reason=_first_line(error)) from error


def _first_line(error: Exception) -> str:
    inner = getattr(error, "inner_exception", error)  # torch wraps what its compiler raises
    return f"{type(inner).__name__}: {inner}".splitlines()[0]


@contextlib.contextmanager
def uncompiled(compiled: bool | None) -> Iterator[None]:
    """Run a compiled model as it is written: other shapes than those of a step would be compiled anew."""
    if not compiled:  # the import alone takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
