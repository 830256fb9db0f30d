"""A score with its definition and its interval, and the two ways that most scores are made: means, and F1 of counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wenlu.metrics.significance import Floats, Interval, score_intervals, signature


@dataclass(frozen=True)
class Score:
    """A metric's value with its definition, the number of items it is taken over, and what chance leaves open.

    ``definition`` is the signature: what was computed, by which library of which version, with every choice.
    """

    value: float
    definition: str
    count: int
    interval: Interval | None = None

    def as_record(self) -> dict[str, object]:
        """For JSON, the interval as a pair."""
        pair = None if self.interval is None else [self.interval.low, self.interval.high]
        return {"value": self.value, "definition": self.definition, "count": self.count, "interval": pair}


def counted_scores(
    columns: Floats,
    compute: Callable[[Floats], Floats],
    definitions: Mapping[str, str],
    *,
    unit: str,
    values: Sequence[float] | None = None,
) -> dict[str, Score]:
    """Scores that are functions of sums over items, with their intervals.

    ``columns`` is (counts, items); ``compute`` makes (scores, resamples) of sums (counts, resamples) and gives its
    scores in the order of ``definitions``. ``values`` are those of the library that the definitions name, else they
    are computed from the sums.
    """
    if values is None:
        values = compute(columns.sum(axis=1, keepdims=True))[:, 0].tolist()
    intervals: Sequence[Interval | None] = score_intervals(columns, compute) or [None] * len(values)
    return {
        name: Score(float(value), signed(definition, interval, unit=unit), columns.shape[1], interval)
        for (name, definition), value, interval in zip(definitions.items(), values, intervals, strict=True)
    }


def signed(definition: str, interval: Interval | None, *, unit: str) -> str:
    """The definition, with that of the interval where there is one."""
    return definition if interval is None else f"{definition}|{signature(unit=unit)}"


def ratio(numerators: Floats, denominators: Floats) -> Floats:
    """Elementwise quotients; 0 where the denominator is 0."""
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)


def precision_recall_f1(correct: Floats, predicted: Floats, gold: Floats) -> Floats:
    """(3, ...) of three counts (...): precision, recall and their harmonic mean; 0 where one is undefined."""
    return np.stack([ratio(correct, predicted), ratio(correct, gold), ratio(2 * correct, predicted + gold)])
