"""How sure a score is, and whether two systems differ: the bootstrap over documents, or over rows of a task.

B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, sections 13.3 (percentile interval) and 16.4 (the
test); P. Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004 (paired documents).
Documents are drawn with replacement, because the tokens of one document are not independent of each other. A score is a
ratio of sums, such as nats over bytes, or another function of sums, such as F1. All draws come from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wenlu.core.reproducibility import numpy_generator

RESAMPLES = 2000
LEVEL = 0.95
_ENTRIES_AT_ONCE = 1 << 21

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Bounds that hold the true value in ``LEVEL`` of all repetitions; None where one document says nothing of it."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """First minus second system over the same documents.

    ``p_value`` is two-sided: how often chance alone would give a difference at least as far from 0.
    """

    value: float
    interval: Interval | None
    p_value: float | None


def signature(*, unit: str = "document", resamples: int = RESAMPLES, seed: int = 0) -> str:
    """What was computed, in one line that stands beside the numbers; ``unit`` is what was drawn."""
    return f"bootstrap:percentile|unit:{unit}|level:{LEVEL}|resamples:{resamples}|seed:{seed}"


def score_intervals(
    columns: Floats, scores: Callable[[Floats], Floats], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval] | None:
    """The intervals of scores that are functions of sums over items, such as F1 of its three counts.

    ``columns`` is (counts, items). ``scores`` makes (scores, resamples) of sums (counts, resamples), all resamples at
    once. None for fewer than two items.
    """
    if columns.shape[1] < 2:
        return None
    sums = np.concatenate(list(_resampled_sums(columns, resamples=resamples, seed=seed)), axis=1)
    return [percentiles(values) for values in scores(sums)]


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """The interval of ``sum(numerators) / sum(denominators)`` over documents; None for fewer than two documents."""
    columns = np.array([numerators, denominators], dtype=np.float64)
    found = score_intervals(columns, lambda sums: sums[:1] / sums[1:], resamples=resamples, seed=seed)
    return found[0] if found else None


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    denominators: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """``sum(first) / sum(denominators)`` minus the same of ``second``, document by document the same texts.

    The test shifts the resampled differences to mean 0, as they would be if the systems were equal (Efron and
    Tibshirani, 16.4), and counts those at least as far from 0 as the observed one; (count + 1) / (resamples + 1).
    """
    assert len(first) == len(second) == len(denominators), "the documents must be the same"
    columns = np.array([first, second, denominators], dtype=np.float64)
    totals = columns.sum(axis=1)
    observed = float((totals[0] - totals[1]) / totals[2])
    if len(first) < 2:
        return Difference(observed, None, None)
    paired = np.stack([columns[0] - columns[1], columns[2]])
    sums = np.concatenate(list(_resampled_sums(paired, resamples=resamples, seed=seed)), axis=1)
    differences = sums[0] / sums[1]
    beyond = int(np.sum(np.abs(differences - observed) >= abs(observed)))
    return Difference(observed, percentiles(differences), (beyond + 1) / (resamples + 1))


def percentiles(values: Floats) -> Interval:
    """The interval that resampled values give."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def draws(items: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[npt.NDArray[np.int64]]:
    """Indices (resamples, items) of items drawn with replacement, a bounded number of them at a time."""
    generator = numpy_generator(seed, "bootstrap")
    at_once = max(1, _ENTRIES_AT_ONCE // items)
    for start in range(0, resamples, at_once):
        yield generator.integers(0, items, size=(min(at_once, resamples - start), items))


def _resampled_sums(columns: Floats, *, resamples: int, seed: int) -> Iterator[Floats]:
    """Column sums (columns, resamples) over items drawn with replacement: each item times how often it was drawn."""
    items = columns.shape[1]
    for drawn in draws(items, resamples=resamples, seed=seed):
        rows = len(drawn)
        drawn += items * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items)
        yield columns @ times.T.astype(np.float64)


def finite(value: float) -> float | None:
    """The value for JSON, which has no infinity and no NaN."""
    return value if math.isfinite(value) else None
