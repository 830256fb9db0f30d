"""Random draws that depend on (seed, purpose, index) and never on history.

A run that is stopped and resumed makes the same draws as one that was not, because the index is the number of the step,
epoch or sample in the run, not the state of a generator.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A 63-bit seed for one draw: SHA-256 over the seed, the purpose's name and the index."""
    digest = hashlib.sha256(f"{seed}\x00{purpose}\x00{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def numpy_generator(seed: int, purpose: str, index: int = 0) -> numpy.random.Generator:
    """A NumPy generator (PCG64) for one draw."""
    import numpy

    return numpy.random.Generator(numpy.random.PCG64(derive_seed(seed, purpose, index)))
