"""What the machine decides about a run, and how it is told to run it: device, precision, threads, memory that is kept.

What it decides is found out once, written down, and checked on resume.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from wenlu.core.errors import DeviceError, SettingsError
from wenlu.core.log import warn
from wenlu.core.machine import allowed_cores, processor
from wenlu.models.device import DeviceName, describe_device, pick_device
from wenlu.training.settings import Precision, TrainSettings

CPU = torch.device("cpu")
_BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "amx_tile", "bf16"})  # as Linux calls them
_REPEATABLE = (":4096:8", ":16:8")
GAIN = 1.2  # bf16 products must be so many times as fast as float32 before they are taken
_TRIAL_SIZE = 512
_TRIALS = 5
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt
_NEVER_TRIM, _DEFAULT_MMAP_MAX = -1, 65536
_MOST_MMAP_THRESHOLD = 32 << 20  # where the library's own ends up; it stops moving them when one is set
_TUNED = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_MADV_HUGEPAGE = 14
_HUGE_PAGE_BYTES = 2 << 20
_RESERVED_BYTES = 4 << 30  # of addresses; memory is taken when it is written to


def has_bfloat16(device: torch.device = CPU) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware (a processor: by AVX-512 BF16 or AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
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
    """Replace ``"auto"`` in device and precision, and ``threads = 0``, by what this machine gives.

    Raises:
        DeviceError: ``models.no_cuda``, or ``training.no_bfloat16`` when bf16 is demanded and would only be emulated.
    """
    device = pick_device(settings.device)
    precision: Precision = settings.precision
    if precision == "bf16" and not has_bfloat16(device):
        capability = torch.backends.cpu.get_cpu_capability() if device == CPU else describe_device(device)
        raise DeviceError("training.no_bfloat16", capability=capability)
    if precision == "auto":
        fast = has_bfloat16(device) and (device != CPU or bfloat16_gain() > GAIN)
        precision = "bf16" if fast else "fp32"
    name: DeviceName = "cpu" if device == CPU else "cuda"
    return replace(settings, device=name, precision=precision, threads=settings.threads or allowed_cores())


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory with the process until the end of the block, in large pages; then give it back.

    The GNU C library gives every large block back to the system when it is freed; the next step takes it again, and the
    system clears it page by page before it may be used. In a training step that is a tenth of the time. Here the
    library is told to keep what is freed, and Linux to use pages of 2 MiB for it where it may (``madvise``). Other
    systems, and a library that is tuned by its environment variables: nothing is changed.
    """
    if not (sys.platform == "linux" and platform.libc_ver()[0] == "glibc") or any(map(os.environ.get, _TUNED)):
        yield
        return
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
    block = library.malloc(_RESERVED_BYTES)
    if block:  # not where addresses are limited
        start = -(-block // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        library.madvise(start, _RESERVED_BYTES - _HUGE_PAGE_BYTES, _MADV_HUGEPAGE)
        library.free(block)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        library.mallopt(_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, 2 * _MOST_MMAP_THRESHOLD)
        library.malloc_trim(0)


@contextlib.contextmanager
def machine(settings: TrainSettings) -> Iterator[None]:
    """Run with the settings' threads, memory that is kept and, on CUDA, determinism; restored afterwards.

    A processor's kernels are deterministic for one number of threads as they are. On CUDA torch refuses an operation
    that it cannot repeat exactly, and cuBLAS needs the variable set before its first product; a value that torch would
    refuse then is refused now (DeviceError, ``training.cublas_workspace``).
    """
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch._C._get_deterministic_fill_uninitialized_memory()
    deterministic = settings.device == "cuda" and settings.deterministic
    if deterministic and (given := os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")) not in _REPEATABLE:
        raise DeviceError("training.cublas_workspace", value=given, known=" or ".join(_REPEATABLE))
    if "torch._dynamo" in sys.modules:  # it counts what a process compiles, and after eight graphs it stops, silently
        torch.compiler.reset()
    torch.set_num_threads(settings.threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch._C._set_deterministic_fill_uninitialized_memory(False)  # nothing here reads memory before it is written
    try:
        with kept_memory():
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        torch._C._set_deterministic_fill_uninitialized_memory(fill)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from generators with this seed, on the processor and on the device; the caller's are left alone."""
    accelerators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=accelerators):
        torch.default_generator.manual_seed(seed)
        for accelerator in accelerators:
            with torch.cuda.device(accelerator):
                torch.cuda.manual_seed(seed)
        yield


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of a forward pass: bfloat16 products with float32 weights, or nothing."""
    assert precision != "auto", "resolve_machine decides"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def on_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch where the model is; to CUDA from pinned memory, so that the copy overlaps what is computed there."""
    if device.type == "cuda":
        return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def environment(device: torch.device = CPU) -> dict[str, str]:
    """What the bits of a run depend on besides its settings."""
    if device == CPU:
        name, features = processor()
        computing = {"processor": name, "bf16": " ".join(sorted(features & _BF16_FEATURES))}
    else:
        computing = {"device": describe_device(device), "cuda": str(torch.version.cuda)}
    return {
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        **computing,
    }


def check_environment(
    then: Mapping[str, object], now: Mapping[str, object], *, allow_inexact: bool
) -> list[dict[str, object]]:
    """What of the environment and the settings of a run's checkpoint is not as it is now, each announced.

    Raises:
        SettingsError: ``training.inexact`` naming the first difference, unless ``allow_inexact``.
    """
    names = [name for name, value in then.items() if now.get(name) != value]
    found: list[dict[str, object]] = [{"setting": name, "then": then[name], "now": now.get(name)} for name in names]
    for difference in found:
        if not allow_inexact:
            raise SettingsError("training.inexact", **difference)
        warn("training.inexact", **difference)
    return found
