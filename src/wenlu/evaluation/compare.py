"""Which of several models predicts text better: bits per byte over the same documents, differences tested in pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from wenlu.evaluation.evaluator import Evaluation
from wenlu.metrics.significance import Difference, paired_difference


@dataclass(frozen=True)
class Pair:
    """The difference in bits per byte of two models over the same documents: positive means ``second`` is better."""

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
        """Bits per byte of ``first`` minus those of ``second``."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair.difference
        raise KeyError((first, second))

    def behind_best(self, name: str) -> Difference | None:
        """How many bits per byte more than the best model; None for the best itself."""
        return None if name == self.ranking[0] else self.between(name, self.ranking[0])


def compare(evaluations: Mapping[str, Evaluation], *, language: str | None = None) -> Comparison:
    """Rank models that were scored on the same documents in the same order, in all or in one language.

    Every ordered pair is tested; the p-values are not corrected for their number.
    """
    assert len({len(evaluation.scores) for evaluation in evaluations.values()}) == 1, "the documents must be the same"
    chosen = {
        name: [score for score in evaluation.scores if language in (None, score.language)]
        for name, evaluation in evaluations.items()
    }
    bits = {name: [score.charged / math.log(2) for score in scores] for name, scores in chosen.items()}
    sizes = [score.num_bytes for score in next(iter(chosen.values()))]
    assert sizes, "no document in this language"
    ranking = tuple(sorted(bits, key=lambda name: math.fsum(bits[name])))
    pairs = tuple(
        Pair(first, second, paired_difference(bits[first], bits[second], sizes))
        for first, second in itertools.permutations(ranking, 2)
    )
    return Comparison(ranking, pairs)
