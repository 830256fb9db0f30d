"""What the processor decides about a run: precision, threads. Found out once, written down, and checked on resume."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from wenlu.core.errors import DeviceError, SettingsError
from wenlu.core.log import warn
from wenlu.training.settings import Precision, TrainSettings

_GAIN = 1.2
_TRIAL_SIZE = 512
_TRIALS = 5


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def bfloat16_gain() -> float:
    """How many times as fast as float32 a product of bfloat16 matrices is here: the best of a few trials of each.

    Having the instructions is not enough: a Xeon whose AMX is hidden by the virtual machine has AVX-512 BF16 that is
    slower than its float32, a Zen 4 gains twofold.
    """
    best: dict[torch.dtype, float] = {}
    factors = {dtype: torch.ones(_TRIAL_SIZE, _TRIAL_SIZE, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    for trial in range(_TRIALS + 1):
        for dtype, factor in factors.items():
            started = time.perf_counter()
            torch.mm(factor, factor)
            if trial:  # the first one prepares
                best[dtype] = min(best.get(dtype, math.inf), time.perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]


def resolve_machine(settings: TrainSettings) -> TrainSettings:
    """Replace ``precision = "auto"`` and ``threads = 0`` by what this machine gives.

    Raises:
        DeviceError: ``training.no_bfloat16`` when bf16 is demanded and the processor would only emulate it.
    """
    precision: Precision = settings.precision
    if precision == "bf16" and not has_bfloat16():
        raise DeviceError("training.no_bfloat16", capability=torch.backends.cpu.get_cpu_capability())
    if precision == "auto":
        precision = "bf16" if has_bfloat16() and bfloat16_gain() > _GAIN else "fp32"
    return replace(settings, precision=precision, threads=settings.threads or _free_cores())


def _free_cores() -> int:
    """Processor cores that this process may use; all of them where the system does not say (macOS, Windows)."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def machine(settings: TrainSettings) -> Iterator[None]:
    """Run with the settings' number of threads; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(precision: Precision) -> torch.autocast:
    """The context of a forward pass: bfloat16 products with float32 weights, or nothing."""
    assert precision != "auto", "resolve_machine decides"
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


def newton_schulz_dtype(precision: Precision) -> torch.dtype:
    """What Muon's iteration runs in."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def environment() -> dict[str, str]:
    """What the bits of a run depend on besides its settings."""
    return {
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }


def check_environment(then: Mapping[str, str], now: Mapping[str, str], *, allow_inexact: bool) -> None:
    """Compare the environment of a run's checkpoint with this one.

    Raises:
        SettingsError: ``training.inexact`` naming the first difference, unless ``allow_inexact``; then it is announced.
    """
    for name, value in then.items():
        if now.get(name) != value:
            if not allow_inexact:
                raise SettingsError("training.inexact", setting=name, then=value, now=now.get(name))
            warn("training.inexact", setting=name, then=value, now=now.get(name))
