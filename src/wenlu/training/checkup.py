"""What this machine offers to training, measured in a few seconds, and what will be slow or fail on it, and why."""

from __future__ import annotations

import importlib.metadata
import locale
import math
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import torch

from wenlu.core import machine, runs
from wenlu.core.version import __version__
from wenlu.training.compilation import find_compiler
from wenlu.training.precision import GAIN, has_bfloat16

Facts = Mapping[str, Mapping[str, object]]
Severity = Literal["broken", "slow", "note"]

_PACKAGES = ("torch", "numpy", "tokenizers", "safetensors")
_EXTRAS = {"data": ("pyarrow", "zstandard"), "hf": ("transformers",)}
_SIZE = 1024
_MEASURED_SECONDS = 0.15
_COPIED_BYTES = 1 << 28
_LOW_MEMORY = 2 << 30
_LOW_DISK = 2 << 30
_SLOW_SYNC_SECONDS = 0.02
_POOR_SCALING = 0.6
_TORCH = re.compile(r"torch\b.*?>=\s*([\d.]+)")


@dataclass(frozen=True)
class Finding:
    """One thing to know, ``doctor.<id>`` of the catalogue: ``broken`` must be mended, ``slow`` costs time."""

    id: str
    severity: Severity
    values: Mapping[str, object] = field(default_factory=dict)


def gather_facts() -> dict[str, dict[str, object]]:
    """Everything that is asked of the machine, by table; None where it cannot be known. Takes about two seconds."""
    name, flags = machine.processor()
    cores, memory = machine.allowed_cores(), machine.memory()
    features = {
        "avx2": torch.cpu._is_avx2_supported(),
        "avx512": torch.cpu._is_avx512_supported(),
        "vnni": torch.cpu._is_vnni_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
    }
    return {
        "processor": {
            "name": name,
            "machine": platform.machine(),
            "torch_uses": torch.backends.cpu.get_cpu_capability(),
            "features": [feature for feature, found in features.items() if found] or sorted(flags)[:8],
            "cores_present": os.cpu_count(),
            "cores_allowed": cores,
            "cores_quota": machine.core_quota(),
            "has_bf16": has_bfloat16(),
        },
        "threads": {
            "torch": torch.get_num_threads(),
            **{name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")},
        },
        "speed": _speed(cores, int(min(_COPIED_BYTES, _number(memory.free) / 8))),
        "memory": {"total": memory.total, "limit": memory.limit, "free": memory.free},
        "runs": _disk(runs.RUNS),
        "home": _disk(runs.wenlu_home()),
        "versions": _versions(),
        "compiler": {"path": find_compiler()},
        "cuda": _cuda(),
        "surroundings": {
            "WENLU_LANG": os.environ.get("WENLU_LANG"),
            "encoding": locale.getpreferredencoding(False),
            "terminal": sys.stderr.isatty(),
            "clock": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "clock_behind": time.time() < Path(__file__).stat().st_mtime,
        },
    }


def findings(facts: Facts) -> Iterator[Finding]:
    """What is broken, what will be slow and why, from the facts alone."""
    yield from _broken(facts)
    yield from _slow_processor(facts)
    memory, cuda = _number(facts["memory"]["free"]), facts["cuda"]
    if memory < _LOW_MEMORY:
        yield Finding("low_memory", "slow", {"free": memory / 1e6})
    for place in ("runs", "home"):
        disk = facts[place]
        free, seconds = _number(disk["free"]), _number(disk["sync_seconds"], 0.0)
        if free < _LOW_DISK:
            yield Finding("low_disk", "slow", {"path": disk["path"], "free": free / 1e6})
        if seconds > _SLOW_SYNC_SECONDS:
            yield Finding("slow_sync", "slow", {"path": disk["path"], "milliseconds": seconds * 1e3})
    if facts["compiler"]["path"] is None:
        yield Finding("no_compiler", "note")
    if cuda["driver"] and not cuda["devices"] and not cuda["failure"]:
        yield Finding("cuda_unused", "slow", {"driver": cuda["driver"], "built": cuda["built"] or "-"})
    if "utf" not in str(facts["surroundings"]["encoding"]).lower():
        yield Finding("not_utf8", "note", {"encoding": facts["surroundings"]["encoding"]})


def _broken(facts: Facts) -> Iterator[Finding]:
    versions = facts["versions"]
    for place in ("runs", "home"):
        if not facts[place]["writable"]:
            yield Finding("unwritable", "broken", {"path": facts[place]["path"]})
    if _release(versions["torch"]) < _release(versions["torch_needed"]):
        yield Finding("old_torch", "broken", {"found": versions["torch"], "needed": versions["torch_needed"]})
    if facts["cuda"]["failure"]:
        yield Finding("cuda_broken", "broken", {"detail": facts["cuda"]["failure"]})
    if facts["surroundings"]["clock_behind"]:
        yield Finding("clock_behind", "broken", {"clock": facts["surroundings"]["clock"]})


def _slow_processor(facts: Facts) -> Iterator[Finding]:
    processor, threads, speed = facts["processor"], facts["threads"], facts["speed"]
    allowed, quota = int(_number(processor["cores_allowed"], 1)), _number(processor["cores_quota"])
    if processor["machine"] in ("x86_64", "AMD64") and "avx2" not in cast(list[str], processor["features"]):
        yield Finding("no_avx2", "slow")
    if allowed == 1:
        yield Finding("one_core", "slow", {"present": processor["cores_present"]})
    if quota < allowed:
        yield Finding("quota", "slow", {"quota": quota, "allowed": allowed, "threads": max(1, round(quota))})
    asked = str(threads["OMP_NUM_THREADS"] or "")
    if asked.isdigit() and int(asked) != allowed:
        yield Finding("omp_threads", "note", {"asked": int(asked), "allowed": allowed})
    if str(threads["OMP_WAIT_POLICY"] or "").upper() == "ACTIVE":
        yield Finding("omp_spins", "slow")
    if facts["versions"]["torch_debug"]:
        yield Finding("debug_build", "slow")
    one, together = _number(speed["fp32_one_thread"], 1), _number(speed["fp32_all_threads"], 1)
    if allowed > 1 and together < _POOR_SCALING * min(allowed, quota) * one:
        yield Finding("poor_scaling", "slow", {"gain": together / one, "allowed": allowed})
    gain = _number(speed["bf16_all_threads"], 0.0) / together
    if not processor["has_bf16"]:
        yield Finding("no_bf16", "note")
    elif gain < GAIN:
        yield Finding("bf16_slow", "note", {"gain": gain})


def _speed(cores: int, copied_bytes: int) -> dict[str, object]:
    """GFLOP/s of products of matrices, and GB/s of a copy (a byte read and written counts as two)."""
    found: dict[str, object] = {}
    before = torch.get_num_threads()
    try:
        for threads, name in ((1, "one_thread"), (cores, "all_threads")):
            torch.set_num_threads(threads)
            for dtype, short in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
                known = dtype == torch.float32 or has_bfloat16()
                found[f"{short}_{name}"] = 2e-9 * _SIZE**3 / _best_seconds(dtype) if known else None
        source = torch.ones(copied_bytes // 4)
        target, best = torch.empty_like(source), math.inf
        for _ in range(3):
            started = time.perf_counter()
            target.copy_(source)
            best = min(best, time.perf_counter() - started)
        found["copy_gigabytes_a_second"] = 2e-9 * copied_bytes / best
    finally:
        torch.set_num_threads(before)
    return found


def _best_seconds(dtype: torch.dtype) -> float:
    factor, best, begin = torch.ones(_SIZE, _SIZE, dtype=dtype), math.inf, time.perf_counter()
    torch.mm(factor, factor)
    while time.perf_counter() - begin < _MEASURED_SECONDS or best == math.inf:
        started = time.perf_counter()
        torch.mm(factor, factor)
        best = min(best, time.perf_counter() - started)
    return best


def _disk(folder: Path) -> dict[str, object]:
    disk = machine.disk(folder)
    return {
        "path": str(folder.absolute()),
        "free": disk.free_bytes,
        "writable": disk.writable,
        "sync_seconds": disk.sync_seconds,
    }


def _versions() -> dict[str, object]:
    """Of Python and of the libraries; an extra is None when a part of it is missing."""
    needed = (_version("wenlu") and importlib.metadata.requires("wenlu")) or ()  # none from a folder of sources
    found: dict[str, object] = {"wenlu": __version__, "python": platform.python_version()}
    found |= {name: _version(name) for name in _PACKAGES}
    found["torch_needed"] = next((match[1] for line in needed if (match := _TORCH.match(line))), "0")
    found["torch_debug"] = bool(getattr(torch.version, "debug", False))
    for extra, packages in _EXTRAS.items():
        versions = [_version(package) for package in packages]
        found[f"wenlu[{extra}]"] = ", ".join(map(str, versions)) if all(versions) else None
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda() -> dict[str, object]:
    """What torch was built for, the driver of the system, and each device as torch sees it."""
    devices: list[str] = []
    failure: str | None = None
    try:
        for device in map(torch.cuda.get_device_properties, range(torch.cuda.device_count())):
            bf16 = ", bf16" if device.major >= 8 else ""
            devices.append(f"{device.name}, {device.total_memory / 1e9:.0f} GB, {device.major}.{device.minor}{bf16}")
    except RuntimeError as error:
        failure = str(error).strip().partition("\n")[0]
    driver = re.search(r"Kernel Module\D*([\d.]+)", machine.read_quietly(Path("/proc/driver/nvidia/version")))
    version = driver[1] if driver else None
    return {"built": torch.version.cuda, "driver": version, "failure": failure, "devices": devices}


def _number(value: object, unknown: float = math.inf) -> float:
    return float(value) if isinstance(value, int | float) else unknown


def _release(version: object) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", str(version).split("+")[0])[:3])
