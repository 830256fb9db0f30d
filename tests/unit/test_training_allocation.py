"""Freed memory stays while a run trains and goes back to the system afterwards."""

from __future__ import annotations

import subprocess
import sys

import torch

from skips import needs_posix
from wenlu.training.allocation import kept_memory

FAULTS = """
import resource, torch
from wenlu.training.allocation import kept_memory

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 << 20)  # 64 MiB: the system would give and take it each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
plain = faults()
with kept_memory():
    faults()
    kept = faults()
print(plain, kept, faults())
"""


def test_memory_is_faulted_in_once_inside_and_each_time_outside() -> None:
    needs_posix()
    output = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    plain, kept, after = map(int, output.split())
    if sys.platform == "linux":
        assert kept < plain / 10 and kept < after / 10, output


def test_numbers_are_untouched() -> None:
    generator = torch.Generator().manual_seed(5)
    factor = torch.randn(300, 300, generator=generator)
    outside = factor @ factor
    with kept_memory():
        inside = factor @ factor
    assert torch.equal(inside, outside)
