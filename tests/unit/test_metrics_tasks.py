"""The scores of tasks against values worked out by hand, and on inputs at the edge."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import metadata

import numpy as np
import pytest

from wenlu.core.errors import RunError
from wenlu.core.reproducibility import numpy_generator
from wenlu.metrics import classification, significance, tagging
from wenlu.metrics.score import Score
from wenlu.metrics.words import spacing


def values(scores: Mapping[str, Score], *names: str) -> list[float]:
    return [scores[name].value for name in names]


def test_classes_by_hand() -> None:
    """a: 2 right, 3 said, 3 there; b: 1 right, 2 said, 1 there; c: none right, none said, 1 there."""
    gold, said = ["a", "a", "a", "b", "c"], ["a", "a", "b", "b", "a"]
    scores = classification.classification(gold, said)
    assert values(scores, "accuracy", "micro_precision", "micro_recall", "micro_f1") == pytest.approx([0.6] * 4)
    assert values(scores, "macro_precision", "macro_recall") == pytest.approx([(2 / 3 + 1 / 2) / 3, (2 / 3 + 1) / 3])
    assert scores["macro_f1"].value == pytest.approx((2 / 3 + 2 / 3) / 3)
    assert scores["accuracy"].count == 5


def test_relations_with_and_without_the_class_for_none() -> None:
    """Of relations: 3 there, 2 said, 1 right; the row that is rightly none counts for nothing."""
    gold, said = ["none", "x", "y", "y", "none"], ["none", "x", "none", "none", "y"]
    scores = classification.classification(gold, said, no_relation="none")
    assert values(scores, "accuracy", "micro_f1") == pytest.approx([0.4, 0.4])
    names = ("micro_precision_of_relations", "micro_recall_of_relations", "micro_f1_of_relations")
    assert values(scores, *names) == pytest.approx([1 / 2, 1 / 3, 2 / 5])
    assert scores["macro_f1_of_relations"].value == pytest.approx((1 + 0) / 2)
    assert "without:none" in scores["macro_f1_of_relations"].definition
    assert "without" not in scores["macro_f1"].definition


def test_many_labels_by_hand() -> None:
    scores = classification.multi_label([{"a", "b"}, {"b"}, set()], [{"a"}, {"b"}, {"c"}])
    assert values(scores, "subset_accuracy", "micro_f1", "macro_f1") == pytest.approx(
        [1 / 3, 4 / 6, (1 + 2 / 3 + 0) / 3]
    )


def test_entities_by_hand() -> None:
    """1: the person right, the place one token too short. 2: an I without B is no entity. 3: the wrong type."""
    gold = [["B-PER", "I-PER", "O", "B-LOC", "I-LOC"], ["O", "O"], ["B-ORG"]]
    said = [["B-PER", "I-PER", "O", "B-LOC", "O"], ["I-PER", "O"], ["B-LOC"]]
    scores = tagging.entities(gold, said)
    assert values(scores, "entity_precision", "entity_recall", "entity_f1") == pytest.approx([1 / 3] * 3)
    assert tagging.token_accuracy(gold, said)["token_accuracy"].value == pytest.approx(5 / 8)
    assert "mode:strict|scheme:IOB2|seqeval:" in scores["entity_f1"].definition


def test_schemes() -> None:
    assert tagging.chunk_scheme([["O", "B-X", "I-X"]]) == "IOB2"
    assert tagging.chunk_scheme([["O", "B-X", "E-X"], ["S-Y"]]) == "IOBES"
    assert tagging.chunk_scheme([["B", "M", "E", "S"]]) == "IOBES"
    assert tagging.chunk_scheme([["B-X", "L-X", "U-X"]]) == "BILOU"
    assert tagging.chunk_scheme([["NOUN", "VERB"]]) is None and tagging.chunk_scheme([["O"]]) is None
    assert tagging.chunk_scheme([["B-X", "L-X", "S-X"]]) is None
    assert tagging.iob1_to_iob2(["I-A", "I-A", "B-A", "O", "I-B", "I-A", "I-A"]) == [
        "B-A", "I-A", "B-A", "O", "B-B", "B-A", "I-A",
    ]  # fmt: skip
    gold, said = [["S-A", "B-B", "M-B", "E-B", "O"]], [["S-A", "B-B", "I-B", "O", "O"]]
    names = ("entity_precision", "entity_recall")
    assert values(tagging.entities(gold, said), *names) == [1.0, 0.5], "without its end it is none"


def test_roles_by_hand() -> None:
    """The predicate's own tag does not count; equal spans of different frames are different roles."""
    gold = [[["B-A0", "B-V", "B-A1"], ["O", "B-A0", "B-V"]], []]
    said = [[["B-A0", "B-V", "O"], ["B-A0", "O", "B-V"]], []]
    scores = tagging.roles(gold, said)
    assert values(scores, "role_precision", "role_recall", "role_f1") == pytest.approx([1 / 2, 1 / 3, 2 / 5])
    assert scores["role_f1"].count == 2


def test_words_of_a_text_by_hand() -> None:
    """北京 大学生 前来 报到 against 北京大学 生 前来 报到: two of four words."""
    scores = tagging.segmentation([["北京", "大学生", "前来", "报到"]], [["北京大学", "生", "前来", "报到"]])
    assert values(scores, "word_precision", "word_recall", "word_f1") == [0.5] * 3
    assert tagging.segmentation([["北京", "大学"]], [["北京大学"]])["word_f1"].value == 0


def test_spacing_of_all_scripts() -> None:
    assert [spacing([text]) for text in ("abc 中", "用 GPT 写诗", "これは本です", "")] == [
        "spaced", "chinese", "unspaced", "spaced",
    ]  # fmt: skip


def test_nothing_to_score_is_zero_over_zero_items() -> None:
    empty: list[Mapping[str, Score]] = [
        classification.classification([], [], no_relation="x"),
        classification.multi_label([], []),
        tagging.token_accuracy([], []),
        tagging.entities([], []),
        tagging.roles([], []),
        tagging.segmentation([], []),
    ]
    for scores in empty:
        assert {(score.value, score.count, score.interval) for score in scores.values()} == {(0.0, 0, None)}


def test_one_class_and_no_entity() -> None:
    scores = classification.classification(["a"] * 4, ["a"] * 4)
    assert {score.value for score in scores.values()} == {1.0}
    assert values(classification.multi_label([set()] * 3, [set()] * 3), "subset_accuracy", "micro_f1") == [1.0, 0.0]
    assert tagging.entities([["O", "O"]] * 2, [["O", "O"]] * 2)["entity_f1"].value == 0.0
    assert tagging.entities([["O"]], [["B-X"]])["entity_precision"].value == 0.0


def test_intervals_are_those_of_scores_drawn_one_by_one() -> None:
    """The same draws, with the macro F1 of each computed from its rows alone."""
    random = np.random.default_rng(0)
    gold, said = (random.choice(["a", "b", "c"], size=12).tolist() for _ in range(2))
    drawn = numpy_generator(0, "bootstrap").integers(0, 12, size=(significance.RESAMPLES, 12)).tolist()

    def macro_f1(rows: list[int]) -> float:
        scores = []
        for label in "abc":
            right = sum(gold[i] == said[i] == label for i in rows)
            there, told = (sum(side[i] == label for i in rows) for side in (gold, said))
            if there + told:
                scores.append(2 * right / (there + told))
        return sum(scores) / len(scores)

    low, high = np.quantile([macro_f1(rows) for rows in drawn], [0.025, 0.975])
    score = classification.classification(gold, said)["macro_f1"]
    assert score.interval is not None
    assert (score.interval.low, score.interval.high) == pytest.approx((low, high), abs=1e-12)
    assert score.definition.endswith("|bootstrap:percentile|unit:row|level:0.95|resamples:2000|seed:0")


def test_intervals_hold_the_value() -> None:
    random = np.random.default_rng(1)
    gold, said = (random.choice(["a", "b"], size=60, p=[0.7, 0.3]).tolist() for _ in range(2))
    tags = [[f"B-{label}", "O"] for label in gold], [[f"B-{label}", "O"] for label in said]
    found = {
        **classification.classification(gold, said),
        **tagging.entities(*tags),
    }
    for name, score in found.items():
        assert score.interval is not None and score.interval.low < score.value < score.interval.high, name
        assert "|bootstrap:percentile|" in score.definition
    one = tagging.token_accuracy([["O"]], [["O"]])["token_accuracy"]
    assert (one.value, one.interval, one.definition) == (1.0, None, "share of tokens whose tag is right")


LIBRARIES: dict[str, Callable[[], object]] = {
    "sklearn.metrics": lambda: classification.classification(["a"], ["a"]),
    "seqeval.scheme": lambda: tagging.entities([["B-X"]], [["B-X"]]),
}


def unknown(package: str) -> str:
    raise metadata.PackageNotFoundError(package)


@pytest.mark.parametrize("module", LIBRARIES)
def test_a_missing_library_is_named_with_the_command_that_brings_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(metadata, "version", unknown)
    with pytest.raises(RunError) as refused:
        LIBRARIES[module]()
    assert refused.value.id == "core.missing_extra"
    assert module in str(refused.value) and 'pip install "wenlu[eval]"' in str(refused.value)
