"""The scores of tasks against scripts that call the reference library directly, on 1,000 random cases each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import pytest
import seqeval.metrics
import seqeval.scheme
import sklearn.metrics

from wenlu.metrics import significance
from wenlu.metrics.classification import classification, multi_label
from wenlu.metrics.score import Score
from wenlu.metrics.tagging import entities, roles, segmentation, token_accuracy

CASES = 1_000
ROWS = 20  # of one data set: scores of corpora are compared on 50 of them
LABELS = ["a", "b", "c", "无", "e"]
HAN = "北京大学生前来报到今天气很好的了《》，。·"
ValueT = TypeVar("ValueT")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not what is compared here."""
    monkeypatch.setitem(significance.score_intervals.__kwdefaults__, "resamples", 50)  # type: ignore[attr-defined]


def corpora() -> Iterator[random.Random]:
    """A generator for each data set; the number of labels and how often they agree differ between them."""
    for seed in range(CASES // ROWS):
        yield random.Random(seed)


def choices(draw: random.Random, among: Sequence[ValueT]) -> tuple[list[ValueT], list[ValueT]]:
    """References and predictions that agree more or less often."""
    few = among[: draw.randint(1, len(among))]
    gold = [draw.choice(few) for _ in range(ROWS)]
    share = draw.random()
    return gold, [label if draw.random() < share else draw.choice(among) for label in gold]


def check(scores: dict[str, Score], expected: dict[str, float]) -> None:
    assert {name: scores[name].value for name in expected} == pytest.approx(expected, abs=1e-12)
    assert all(score.count == ROWS for score in scores.values())


def averages(gold: object, said: object, kind: str = "", **choice: object) -> dict[str, float]:
    """What scikit-learn says of all averages."""
    found = {}
    for average in ("macro", "micro"):
        parts = sklearn.metrics.precision_recall_fscore_support(gold, said, average=average, zero_division=0, **choice)
        found |= {f"{average}_{name}{kind}": float(v) for name, v in zip(("precision", "recall", "f1"), parts[:3])}  # noqa: B905
    return found


def test_classes_as_in_scikit_learn() -> None:
    for draw in corpora():
        gold, said = choices(draw, LABELS)
        relations = sorted({*gold, *said} - {"无"})
        expected = averages(gold, said) | {"accuracy": sklearn.metrics.accuracy_score(gold, said)}
        if relations:
            expected |= averages(gold, said, "_of_relations", labels=relations)
        check(classification(gold, said, no_relation="无"), expected)


def test_several_labels_as_in_scikit_learn() -> None:
    subsets = [[label for i, label in enumerate(LABELS) if number >> i & 1] for number in range(32)]
    for draw in corpora():
        draw.shuffle(subsets)
        gold, said = choices(draw, subsets)
        occur = sorted({label for row in [*gold, *said] for label in row})
        a, b = (np.array([[label in row for label in [*occur, "never"]] for row in side]) for side in (gold, said))
        expected = averages(a, b, labels=range(len(occur))) if occur else {}
        check(multi_label(gold, said), expected | {"subset_accuracy": sklearn.metrics.accuracy_score(a, b)})


def by_seqeval(kind: str, gold: list[list[str]], said: list[list[str]], scheme: type) -> dict[str, float]:
    library = {name: getattr(seqeval.metrics, f"{name}_score") for name in ("precision", "recall", "f1")}
    choice = {"mode": "strict", "scheme": scheme, "zero_division": 0}
    return {f"{kind}_{name}": float(score(gold, said, **choice)) for name, score in library.items()}


@pytest.mark.parametrize("letters", ["BI", "BIES"])
def test_entities_as_in_seqeval(letters: str) -> None:
    """Tags in any order, so most entities of the prediction are not allowed; equal to the reference half the time."""
    scheme = {"BI": seqeval.scheme.IOB2, "BIES": seqeval.scheme.IOBES}[letters]
    tags = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "LOC"))]
    for draw in corpora():
        gold = [[draw.choice(tags) for _ in range(draw.randint(1, 12))] for _ in range(ROWS)]
        said = [[tag if draw.random() < 0.5 else draw.choice(tags) for tag in row] for row in gold]
        gold[0], said[0] = [tags[1]], [tags[-1]]  # seqeval wants one entity at least
        check(entities(gold, said), by_seqeval("entity", gold, said, scheme))
        flat = [tag for row in gold for tag in row], [tag for row in said for tag in row]
        check(token_accuracy(gold, said), {"token_accuracy": sklearn.metrics.accuracy_score(*flat)})


def test_roles_as_in_seqeval_frame_by_frame() -> None:
    tags = ["O", "B-V", "B-A0", "I-A0", "B-A1", "I-A1"]
    for draw in corpora():
        gold = [[[draw.choice(tags) for _ in range(6)] for _ in range(draw.randint(0, 3))] for _ in range(ROWS - 1)] + [
            [["B-A0"]]
        ]
        said = [[[t if draw.random() < 0.6 else draw.choice(tags) for t in frame] for frame in row] for row in gold]
        flat = ([[t.replace("B-V", "O") for t in frame] for row in side for frame in row] for side in (gold, said))
        check(roles(gold, said), by_seqeval("role", *flat, seqeval.scheme.IOB2))


def test_segmentation_as_in_seqeval_on_characters() -> None:
    def cut(draw: random.Random, text: str) -> list[str]:
        ends = sorted({*draw.sample(range(1, len(text)), draw.randint(0, 4)), len(text)})
        return [text[start:end] for start, end in zip([0, *ends], ends)]  # noqa: B905

    def tagged(row: list[str]) -> list[str]:
        return [tag for word in row for tag in ["B-W", *["I-W"] * (len(word) - 1)]]

    for draw in corpora():
        texts = ["".join(draw.choices(HAN, k=draw.randint(5, 12))) for _ in range(ROWS)]
        gold, said = ([cut(draw, text) for text in texts] for _ in range(2))
        tags = ([tagged(row) for row in side] for side in (gold, said))
        check(segmentation(gold, said), by_seqeval("word", *tags, seqeval.scheme.IOB2))
