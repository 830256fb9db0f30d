"""Freed memory stays while a run trains and goes back to the system afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from skips import needs_posix
from wenlu.training.precision import kept_memory

FAULTS = """
import resource, torch
from wenlu.training.precision import kept_memory

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


SMALL_FAULTS = """
import resource, torch
from wenlu.training.precision import kept_memory

with kept_memory():
    torch.ones(8 << 20)

def faults(count: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones(4 << 20)  # 16 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(20), faults(20))
"""


def test_blocks_of_middling_size_are_not_mapped_anew_afterwards() -> None:
    """The library, once told anything, no longer finds out by itself from which size on mapping is worth its price."""
    needs_posix()
    output = subprocess.run([sys.executable, "-c", SMALL_FAULTS], capture_output=True, text=True, check=True).stdout
    _, again = map(int, output.split())
    if sys.platform == "linux":
        assert again < 4096, output  # the pages of one block


@pytest.mark.parametrize("name", ["MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_who_tunes_the_library_himself_keeps_what_he_set(name: str) -> None:
    needs_posix()
    lines = FAULTS.replace("print(plain, kept, faults())", "print(plain, kept)")
    environment = os.environ | {name: "100000"}
    words = [sys.executable, "-c", lines]
    output = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    plain, kept = map(int, output.split())
    if sys.platform == "linux":
        assert kept > plain / 2, output


def test_numbers_are_untouched() -> None:
    generator = torch.Generator().manual_seed(5)
    factor = torch.randn(300, 300, generator=generator)
    outside = factor @ factor
    with kept_memory():
        inside = factor @ factor
    assert torch.equal(inside, outside)
