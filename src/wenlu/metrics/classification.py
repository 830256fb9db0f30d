"""Scores of classes: one label a row, several, relations with a class for none; by scikit-learn.

Macro averages are over the labels that occur in the references or the predictions; what is undefined counts as 0.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from wenlu.core.extras import load_extra, release
from wenlu.metrics.score import Score, counted_scores, precision_recall_f1
from wenlu.metrics.significance import Floats

Flags = npt.NDArray[np.bool_]


def classification(
    gold: Sequence[str], predicted: Sequence[str], *, no_relation: str | None = None
) -> dict[str, Score]:
    """Accuracy, macro and micro P/R/F1 of one label a row; with ``no_relation`` once more without that class.

    The latter's names end in ``_of_relations``: the class counts as no answer, as in TACRED's scorer.
    """
    sets = [{label} for label in gold], [{label} for label in predicted]
    scores = _label_scores(*sets, "accuracy", "share of rows whose label is right")
    if no_relation is not None:
        sets = [{*labels} - {no_relation} for labels in sets[0]], [{*labels} - {no_relation} for labels in sets[1]]
        relations = _label_scores(*sets, "accuracy", "", without=f"|without:{no_relation}")
        scores |= {f"{name}_of_relations": score for name, score in relations.items() if name != "accuracy"}
    return scores


def multi_label(gold: Sequence[Collection[str]], predicted: Sequence[Collection[str]]) -> dict[str, Score]:
    """Subset accuracy, macro and micro P/R/F1 of any number of labels a row."""
    return _label_scores(gold, predicted, "subset_accuracy", "share of rows whose labels are all right and no other")


def _label_scores(
    gold: Sequence[Collection[str]],
    predicted: Sequence[Collection[str]],
    exact: str,
    meaning: str,
    *,
    without: str = "",
) -> dict[str, Score]:
    labels, is_gold, is_predicted = _indicators(gold, predicted)
    columns = [(is_gold & is_predicted).T, is_predicted.T, is_gold.T, (is_gold == is_predicted).all(axis=1)[None]]

    def compute(sums: Floats) -> Floats:
        """(accuracy, macro P, R, F1, micro P, R, F1) of counts."""
        counts = sums[:-1].reshape(3, len(labels), sums.shape[1])
        occurring = ((counts[1] + counts[2]) > 0).sum(axis=0)
        macro = precision_recall_f1(*counts).sum(axis=1) / np.maximum(occurring, 1)
        return np.concatenate([sums[-1:] / len(gold), macro, precision_recall_f1(*counts.sum(axis=1))])

    definitions, values = {exact: meaning}, [float(columns[-1].mean()) if gold else 0.0]
    for average in ("macro", "micro"):
        values += map(float, _library(is_gold, is_predicted, average))
        note = f"labels:those that occur{without}|undefined:0|{release('scikit-learn')}"
        definitions |= {f"{average}_{name}": f"{average} {name}|{note}" for name in ("precision", "recall", "f1")}
    return counted_scores(np.concatenate(columns).astype(np.float64), compute, definitions, unit="row", values=values)


def _library(is_gold: Flags, is_predicted: Flags, average: str) -> Sequence[float]:
    """Precision, recall and F1 by scikit-learn of indicators (rows, labels)."""
    scores = load_extra("sklearn.metrics", extra="eval").precision_recall_fscore_support
    if not is_gold.size:
        return [0.0] * 3
    empty = np.zeros((len(is_gold), 1), dtype=bool)  # a single column would be read as two classes
    given = (np.concatenate([part, empty], axis=1) for part in (is_gold, is_predicted))
    return list(scores(*given, labels=range(is_gold.shape[1]), average=average, zero_division=0.0)[:3])


def _indicators(
    gold: Sequence[Collection[str]], predicted: Sequence[Collection[str]]
) -> tuple[list[str], Flags, Flags]:
    """The labels that occur in plain order, and which of them each row has: twice (rows, labels)."""
    assert len(gold) == len(predicted), "a prediction for each row"
    labels = sorted({label for row in (*gold, *predicted) for label in row})
    shape = len(gold), len(labels)
    sides = ([[label in row for label in labels] for row in rows] for rows in (gold, predicted))
    is_gold, is_predicted = (np.array(side, dtype=bool).reshape(shape) for side in sides)
    return labels, is_gold, is_predicted
