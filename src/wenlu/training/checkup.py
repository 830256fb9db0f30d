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
from collections.abc import Callable, Iterator, Mapping
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
_FEATURES = ("avx2", "avx512", "vnni", "avx512_bf16", "amx_tile")  # as torch calls them
_OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
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
    supported = [feature for feature in _FEATURES if getattr(torch.cpu, f"_is_{feature}_supported")()]
    return {
        "processor": {
            "name": name,
            "machine": platform.machine(),
            "torch_uses": torch.backends.cpu.get_cpu_capability(),
            "features": [feature.removesuffix("_tile") for feature in supported] or sorted(flags)[:8],
            "cores_present": os.cpu_count(),
            "cores_allowed": cores,
            "cores_quota": machine.core_quota(),
            "has_bf16": has_bfloat16(),
        },
        "threads": {"torch": torch.get_num_threads()} | {name: os.environ.get(name) for name in _OPENMP},
        "speed": _speed(cores, int(min(_COPIED_BYTES, _number(memory.free) / 8))),
        "memory": memory._asdict(),
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


def findings(facts: Facts) -> list[Finding]:
    """What is broken, what will be slow and why, from the facts alone."""
    processor, threads, speed, versions = (facts[name] for name in ("processor", "threads", "speed", "versions"))
    cuda, surroundings, places = facts["cuda"], facts["surroundings"], (facts["runs"], facts["home"])
    encoding = str(surroundings["encoding"])
    old = _release(versions["torch"]) < _release(versions["torch_needed"])
    can_avx2 = processor["machine"] not in ("x86_64", "AMD64") or "avx2" in cast(list[str], processor["features"])
    allowed = int(_number(processor["cores_allowed"], 1))
    quota = min(_number(processor["cores_quota"]), allowed)
    limited = {"quota": quota, "allowed": allowed, "threads": max(1, round(quota))}
    said, spins = str(threads["OMP_NUM_THREADS"] or ""), str(threads["OMP_WAIT_POLICY"] or "").upper() == "ACTIVE"
    asked = int(said) if said.isdigit() else allowed
    one, together = _number(speed["fp32_one_thread"], 1), _number(speed["fp32_all_threads"], 1)
    poor = allowed > 1 and together < _POOR_SCALING * quota * one
    gain, has_bf16 = _number(speed["bf16_all_threads"], 0.0) / together, processor["has_bf16"]
    memory, unused = _number(facts["memory"]["free"]), cuda["driver"] and not cuda["devices"] and not cuda["failure"]
    checks: list[tuple[object, Finding]] = [
        *((not place["writable"], Finding("unwritable", "broken", {"path": place["path"]})) for place in places),
        (old, Finding("old_torch", "broken", {"found": versions["torch"], "needed": versions["torch_needed"]})),
        (cuda["failure"], Finding("cuda_broken", "broken", {"detail": cuda["failure"]})),
        (surroundings["clock_behind"], Finding("clock_behind", "broken", {"clock": surroundings["clock"]})),
        (not can_avx2, Finding("no_avx2", "slow")),
        (allowed == 1, Finding("one_core", "slow", {"present": processor["cores_present"]})),
        (quota < allowed, Finding("quota", "slow", limited)),
        (asked != allowed, Finding("omp_threads", "note", {"asked": asked, "allowed": allowed})),
        (spins, Finding("omp_spins", "slow")),
        (versions["torch_debug"], Finding("debug_build", "slow")),
        (poor, Finding("poor_scaling", "slow", {"gain": together / one, "allowed": allowed})),
        (not has_bf16, Finding("no_bf16", "note")),
        (has_bf16 and gain < GAIN, Finding("bf16_slow", "note", {"gain": gain})),
        (memory < _LOW_MEMORY, Finding("low_memory", "slow", {"free": memory / 1e6})),
        *(check for place in places for check in _slow_disk(place)),
        (facts["compiler"]["path"] is None, Finding("no_compiler", "note")),
        (unused, Finding("cuda_unused", "slow", {"driver": cuda["driver"], "built": cuda["built"] or "-"})),
        ("utf" not in encoding.lower(), Finding("not_utf8", "note", {"encoding": encoding})),
    ]
    return [finding for holds, finding in checks if holds]


def _slow_disk(place: Mapping[str, object]) -> Iterator[tuple[bool, Finding]]:
    free, seconds = _number(place["free"]), _number(place["sync_seconds"], 0.0)
    yield free < _LOW_DISK, Finding("low_disk", "slow", {"path": place["path"], "free": free / 1e6})
    slow = Finding("slow_sync", "slow", {"path": place["path"], "milliseconds": seconds * 1e3})
    yield seconds > _SLOW_SYNC_SECONDS, slow


def _speed(cores: int, copied_bytes: int) -> dict[str, object]:
    """GFLOP/s of products of matrices, and GB/s of a copy (a byte read and written counts as two)."""
    found: dict[str, object] = {}
    before = torch.get_num_threads()
    try:
        for threads, name in ((1, "one_thread"), (cores, "all_threads")):
            torch.set_num_threads(threads)
            for dtype, short in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
                known, factor = dtype == torch.float32 or has_bfloat16(), torch.ones(_SIZE, _SIZE, dtype=dtype)
                best = _best_seconds(torch.mm, factor, factor) if known else None
                found[f"{short}_{name}"] = best and 2e-9 * _SIZE**3 / best
        source = torch.ones(copied_bytes // 4)
        found["copy_gigabytes_a_second"] = 2e-9 * copied_bytes / _best_seconds(torch.empty_like(source).copy_, source)
    finally:
        torch.set_num_threads(before)
    return found


def _best_seconds(work: Callable[..., object], *arguments: torch.Tensor) -> float:
    best, begin = math.inf, time.perf_counter()
    work(*arguments)
    while time.perf_counter() - begin < _MEASURED_SECONDS or best == math.inf:
        started = time.perf_counter()
        work(*arguments)
        best = min(best, time.perf_counter() - started)
    return best


def _disk(folder: Path) -> dict[str, object]:
    disk = machine.disk(folder)
    path, seconds = str(folder.absolute()), disk.sync_seconds
    return {"path": path, "free": disk.free_bytes, "writable": disk.writable, "sync_seconds": seconds}


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
