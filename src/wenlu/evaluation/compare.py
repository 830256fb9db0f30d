"""Which of several models predicts text better: differences over the same documents, or rows, tested in pairs.

Models of next tokens are compared in bits per byte, others by the loss of their objective. Of a text of the domain that
a model comes from, the difference of one that was trained further to it is what was forgotten.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from wenlu.evaluation.documents import Corpus
from wenlu.evaluation.evaluator import Scored
from wenlu.metrics.significance import Difference, paired_difference


@dataclass(frozen=True)
class Comparison:
    """Models from the best to the worst, and the difference of every pair of them over the same documents or rows.

    Positive means the second of the pair is better.
    """

    ranking: tuple[str, ...]
    pairs: Mapping[tuple[str, str], Difference]

    def between(self, first: str, second: str) -> Difference:
        """The measure of ``first`` minus that of ``second``."""
        return self.pairs[first, second]

    def pairs_record(self) -> list[dict[str, object]]:
        """For JSON, the intervals as pairs."""
        records: list[dict[str, object]] = []
        for (first, second), found in self.pairs.items():
            interval = [found.interval.low, found.interval.high] if found.interval else None
            values = {"difference": found.value, "interval": interval, "p_value": found.p_value}
            records.append({"first": first, "second": second, **values})
        return records


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
    pairs = itertools.permutations(ranking, 2)
    return Comparison(ranking, {(one, two): paired_difference(costs[one], costs[two], sizes) for one, two in pairs})
