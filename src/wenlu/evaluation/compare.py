"""Which of several models predicts text better: differences over the same documents, or rows, tested in pairs.

Models of next tokens are compared in bits per byte, others by the loss of their objective. Of a text of the domain that
a model comes from, the difference of one that was trained further to it is what was forgotten.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wenlu.evaluation.corpus import Corpus
from wenlu.evaluation.evaluator import Summary
from wenlu.metrics.significance import Difference, Interval, paired_difference


class Scored(Protocol):
    """An evaluation of any kind."""

    @property
    def definition(self) -> str:
        """What the numbers mean."""

    @property
    def measures(self) -> Mapping[str, tuple[float, Interval | None]]:
        """Values and their intervals by name, first the one that models are ranked by."""

    @property
    def by_language(self) -> Mapping[str, Summary]:
        """The same by language, where the parts have one."""

    def costs(self, language: str | None = None) -> tuple[Sequence[float], Sequence[float]]:
        """Cost and size of each document (bits and bytes) or row (nats and targets), whose ratio is the measure."""

    def as_record(self) -> dict[str, object]:
        """The scores for JSON."""

    def documents_record(self) -> Mapping[str, Sequence[object]]:
        """One column a field of the documents or rows."""


@dataclass(frozen=True)
class Pair:
    """The difference of two models over the same documents or rows: positive means ``second`` is better."""

    first: str
    second: str
    difference: Difference

    def as_record(self) -> dict[str, object]:
        """For JSON, the interval as a pair."""
        interval = self.difference.interval
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference.value,
            "interval": [interval.low, interval.high] if interval else None,
            "p_value": self.difference.p_value,
        }


@dataclass(frozen=True)
class Comparison:
    """Models from the best to the worst, and every pair of them."""

    ranking: tuple[str, ...]
    pairs: tuple[Pair, ...]

    def between(self, first: str, second: str) -> Difference:
        """The measure of ``first`` minus that of ``second``."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair.difference
        raise KeyError((first, second))


@dataclass(frozen=True)
class TextComparison:
    """One text, the models in the order they were named, and how they do on it."""

    corpus: Corpus
    evaluations: Mapping[str, Scored]
    comparison: Comparison

    @property
    def languages(self) -> list[str]:
        """The languages of the text, if it has several and documents are compared."""
        languages = list(next(iter(self.evaluations.values())).by_language)
        return languages if len(languages) > 1 else []


def compare(evaluations: Mapping[str, Scored], *, language: str | None = None) -> Comparison:
    """Rank models that were scored on the same documents or rows in the same order, in all or in one language.

    Every ordered pair is tested; the p-values are not corrected for their number.
    """
    found = {name: evaluation.costs(language) for name, evaluation in evaluations.items()}
    sizes, *others = [sizes for _, sizes in found.values()]
    assert all(other == sizes for other in others), "the documents must be the same"
    assert sizes, "no document in this language"
    costs = {name: costs for name, (costs, _) in found.items()}
    ranking = tuple(sorted(costs, key=lambda name: math.fsum(costs[name])))
    pairs = tuple(
        Pair(first, second, paired_difference(costs[first], costs[second], sizes))
        for first, second in itertools.permutations(ranking, 2)
    )
    return Comparison(ranking, pairs)
