"""Relations and semantic roles: rows and scores against values worked out by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score as entity_f1
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score
from torch import nn

from skips import needs_test_data
from tiny_tokenizers import corpus, tiny
from wenlu.core.errors import DataError, SettingsError
from wenlu.core.log import LOGGER
from wenlu.data.examples import Example, read_examples
from wenlu.models.build import build_model
from wenlu.models.config import ModelSettings
from wenlu.tasks._base import IGNORE_INDEX, Skip
from wenlu.tasks._labelled import Features, Judged, LabelledTask
from wenlu.tasks._predictions import predict_examples
from wenlu.tasks.relation import Relation, RelationSettings
from wenlu.tasks.semantic_roles import SemanticRoles, SemanticRolesSettings
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.optimizers import Optimizer, OptimizerSettings

Task = LabelledTask[Any]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    settings = TokenizerSettings(kind="wordpiece", vocab_size=420, special_tokens=("[CLS]", "[SEP]", "[MASK]"))
    return Tokenizer.train([*corpus(), *['@ # " < >'] * 9], settings)


def example(**fields: Any) -> Example:
    return Example(fields, "rows.jsonl:1")


def span(text: str, part: str) -> dict[str, Any]:
    start = text.index(part)
    return {"text": part, "start": start, "end": start + len(part)}


def relation(text: str, head: str, tail: str, label: str = "none") -> Example:
    return example(text=text, head=span(text, head), tail=span(text, tail), label=label)


def rows_of(task: Task, one: Example, tokenizer: Tokenizer) -> list[Features]:
    found = task.encode(one, tokenizer)
    assert not isinstance(found, Skip)
    return found


def resolved(task: Task, examples: Sequence[Example], length: int = 48) -> Task:
    return task.resolved(examples, max_length=length)


def model_for(task: Task, tokenizer: Tokenizer, kind: str = "bert") -> nn.Module:
    """A small model with the task's head, every parameter random."""
    settings = ModelSettings(kind=kind, num_layers=2, hidden_size=32, num_heads=2)
    sizes = {"vocab_size": tokenizer.vocab_size, "end_id": tokenizer.end_id, "sequence_length": 64}
    model = task.equip(build_model(settings, **sizes, seed=1), tokenizer, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


def tokens(row: Features, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(id) for id in row.columns["input_ids"].tolist()]


LINES = ("The quick fox reads the lazy dog", "A model jumps over 12 books", "the dog does not mind the fox")


def cases(name: str) -> tuple[Task, list[Example]]:
    """Eight examples of a task."""
    words = [LINES[number % 3].split() for number in range(8)]
    if name == "relation":
        rows = [relation(" ".join(w), w[1], w[-1], "abc"[number % 3]) for number, w in enumerate(words)]
        return resolved(Relation(), rows), rows
    tags = [["B-ARG0", "I-ARG0", "O", "O", "B-ARG1", *["I-ARG1"] * (len(w) - 5)] for w in words]
    other = [["O"] * (len(w) - 1) + ["B-ARG1"] for w in words]
    rows = [
        example(tokens=w, frames=[{"predicate": 2, "tags": one}, {"predicate": number % 2, "tags": two}])
        for number, (w, one, two) in enumerate(zip(words, tags, other, strict=True))
    ]
    return resolved(SemanticRoles(), rows), rows


NAMES = ("relation", "semantic_roles")


@pytest.mark.parametrize("name", NAMES)
def test_overfits_eight_examples(name: str, tokenizer: Tokenizer) -> None:
    task, examples = cases(name)
    model = model_for(task, tokenizer)
    batch = task.collate([row for one in examples for row in rows_of(task, one, tokenizer)])
    optimizer = Optimizer(model, OptimizerSettings(learning_rate=5e-3))
    for _ in range(120):
        (term,) = task.loss(model, batch).values()
        (term.total / term.count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    found = predict_examples(task, model, examples, tokenizer)
    scores = found.scores(task, examples)
    assert scores[task.best].value == 1
    assert scores["loss"].value < 0.3


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_and_order_do_not_matter(name: str, kind: str, tokenizer: Tokenizer) -> None:
    task, examples = cases(name)
    if (name, kind) == ("semantic_roles", "gpt2"):  # it has no head for tokens
        return
    model = model_for(task, tokenizer, kind)
    rows = [row for one in examples for row in rows_of(task, one, tokenizer)]
    whole, turned = (task.collate(part) for part in (rows, rows[::-1]))
    (term,), (other,) = task.loss(model, whole).values(), task.loss(model, turned).values()
    alone = [one for row in rows for one in task.loss(model, task.collate([row])).values()]
    assert term.count == other.count == sum(one.count for one in alone) == next(iter(task.counts(whole).values()))
    assert other.total.item() == pytest.approx(term.total.item(), rel=1e-5)
    assert sum(one.total.item() for one in alone) == pytest.approx(term.total.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_answered_needs_no_labels(name: str, tokenizer: Tokenizer) -> None:
    task, examples = cases(name)
    model = model_for(task, tokenizer)
    labelled = predict_examples(task, model, examples, tokenizer)
    asked = []
    for one in examples:
        fields = {key: value for key, value in one.fields.items() if key != "label"}
        if "frames" in fields:
            fields["frames"] = [{k: v for k, v in part.items() if k != "tags"} for part in fields["frames"]]
        asked.append(example(**fields))
    found = predict_examples(task, model, asked, tokenizer)
    assert list(found.answers) == list(labelled.answers)
    assert not any(found.labels)
    assert any(labelled.labels)
    assert json.loads(json.dumps(found.answers)) == list(found.answers)


def test_signs_stand_around_head_and_tail(tokenizer: Tokenizer) -> None:
    text = "The quick fox reads the lazy dog"
    task = resolved(Relation(), [relation(text, "quick fox", "dog")])
    (row,) = rows_of(task, relation(text, "quick fox", "dog"), tokenizer)
    shown = tokens(row, tokenizer)
    assert tokenizer.decode(row.columns["input_ids"].tolist()) == "The @ quick fox @ reads the lazy # dog #"
    assert [shown[place] for place in row.columns["signs"]] == ["@", "#"]
    assert row.columns["signs"].tolist() == [shown.index("@"), shown.index("#")]
    (turned,) = rows_of(task, relation(text, "dog", "quick fox"), tokenizer)
    assert [tokens(turned, tokenizer)[place] for place in turned.columns["signs"]] == ["@", "#"]
    assert turned.columns["signs"][0] > turned.columns["signs"][1]


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        ("模型", "文本", "@模型@读#文本#"),
        ("模型读文本", "模型", "@#模型#读文本@"),
        ("模型", "模型读文本", "#@模型@读文本#"),
        ("模型读", "文本", "@模型读@#文本#"),
        ("读文本", "读文本", "模型@#读文本#@"),
    ],
)
def test_signs_of_parts_that_touch_or_lie_in_each_other(head: str, tail: str, expected: str) -> None:
    words = Tokenizer.train(["模型读文本 @ #"] * 9, TokenizerSettings(kind="characters", vocab_size=60))
    task = resolved(Relation(), [relation("模型读文本", head, tail)])
    (row,) = rows_of(task, relation("模型读文本", head, tail), words)
    assert words.decode(row.columns["input_ids"].tolist()) == expected
    assert [words.token(int(row.columns["input_ids"][place])) for place in row.columns["signs"]] == ["@", "#"]


@pytest.mark.parametrize("truncation", ["head", "tail", "error"])
def test_what_is_marked_is_never_cut_off(truncation: Any, tokenizer: Tokenizer) -> None:
    text = "stop " * 9 + "fox the dog" + " mind" * 9
    one = relation(text, "fox", "dog")
    task = resolved(Relation(RelationSettings(truncation=truncation)), [one], length=14)
    if truncation == "error":
        with pytest.raises(DataError) as caught:
            task.encode(one, tokenizer)
        assert caught.value.id == "tasks.too_long"
        return
    (row,) = rows_of(task, one, tokenizer)
    shown = tokens(row, tokenizer)
    assert len(shown) == 14
    assert [shown[place] for place in row.columns["signs"]] == ["@", "#"]
    assert (shown[1], shown[-2]) == (("stop", "#") if truncation == "head" else ("@", "mind"))
    whole = tokenizer.encode(text.replace("fox", "@ fox @").replace("dog", "# dog #"))
    assert row.cut == len(whole) + 2 - 14
    short = resolved(Relation(RelationSettings(truncation=truncation)), [one], length=8)
    assert short.encode(one, tokenizer) == Skip("too_far_apart")


def test_a_sign_that_the_tokenizer_does_not_know_is_refused(tokenizer: Tokenizer) -> None:
    one = relation("the fox reads", "fox", "reads")
    with pytest.raises(SettingsError) as caught:
        resolved(Relation(RelationSettings(signs=("§", "#"))), [one]).encode(one, tokenizer)
    assert caught.value.id == "tasks.sign"


def test_relations_are_counted_with_and_without_the_class_for_none() -> None:
    draw = random.Random(1)
    labels = ["Other", "a(e1,e2)", "a(e2,e1)", "b"]
    gold, found = (draw.choices(labels, k=1000) for _ in range(2))
    task = Relation(RelationSettings(labels=tuple(labels)))
    scores = task.metrics([{"label": one} for one in found], [example(label=one) for one in gold])
    for name, average in (("macro_f1", "macro"), ("micro_f1", "micro")):
        assert scores[name].value == pytest.approx(f1_score(gold, found, average=average), abs=1e-12)
        without = f1_score(gold, found, labels=labels[1:], average=average)
        assert scores[f"{name}_of_relations"].value == pytest.approx(without, abs=1e-12)
    other = Relation(RelationSettings(labels=("x", "y"), no_relation="y"))
    assert other.metrics([{"label": "x"}] * 2, [example(label="x"), example(label="y")])[
        "micro_recall_of_relations"
    ].value == 1  # fmt: skip
    assert "micro_f1_of_relations" not in Relation(RelationSettings(labels=("x", "z"))).metrics(
        [{"label": "x"}], [example(label="z")]
    )


def test_the_state_at_the_signs_is_judged(tokenizer: Tokenizer) -> None:
    examples = [relation("The quick fox reads the lazy dog", "fox", "dog", label) for label in "ab"]
    task = resolved(Relation(), examples)
    model = model_for(task, tokenizer)
    batch = task.collate(rows_of(task, examples[0], tokenizer))
    hidden = model.hidden(batch["input_ids"])[0]  # type: ignore[operator]
    state = (hidden[batch["signs"][0, 0]] + hidden[batch["signs"][0, 1]]) / 2
    head = model.head
    expected = head.classifier(torch.tanh(head.pooler(state)))  # type: ignore[union-attr,operator]
    torch.testing.assert_close(task.judged(model, batch)[0], expected)
    whole = Relation(RelationSettings(labels=task.settings.labels, state="text"))
    expected = head.classifier(torch.tanh(head.pooler(hidden[0])))  # type: ignore[union-attr,operator]
    torch.testing.assert_close(whole.judged(model, batch)[0], expected)


def test_each_predicate_has_a_row_with_its_roles_at_first_tokens(tokenizer: Tokenizer) -> None:
    words = ["Don't", "stop", "reading", "books"]
    frames = [
        {"predicate": 1, "tags": ["O", "O", "B-ARG1", "I-ARG1"]},
        {"predicate": 2, "tags": ["O", "O", "O", "B-ARG1"]},
    ]
    one = example(tokens=words, frames=frames)
    task = resolved(SemanticRoles(), [one])
    assert task.settings.labels == ("B-ARG1", "I-ARG1", "O")
    for row, text, frame in zip(
        rows_of(task, one, tokenizer),
        ["Don't @ stop @ reading books", "Don't stop @ reading @ books"],
        frames,
        strict=True,
    ):
        ids = row.columns["input_ids"].tolist()
        assert ids[1:-1] == tokenizer.encode(text)
        labels = row.columns["labels"].tolist()
        found = {place: task.settings.labels[label] for place, label in enumerate(labels) if label != IGNORE_INDEX}
        firsts = [1 + len(tokenizer.encode(" ".join(text.split()[:n]))) for n, w in enumerate(text.split()) if w != "@"]
        assert found == dict(zip(firsts, frame["tags"], strict=True))  # type: ignore[call-overload]


def test_roles_are_decoded_as_spans_and_scored_as_by_the_library(tokenizer: Tokenizer) -> None:
    draw = random.Random(2)
    tags = ["O", "B-ARG0", "I-ARG0", "B-ARG1", "I-ARG1"]
    gold, found = ([draw.choices(tags, k=9) for _ in range(1000)] for _ in range(2))
    references = [example(tokens=["w"] * 9, frames=[{"predicate": 0, "tags": row}]) for row in gold]
    scores = SemanticRoles().metrics([{"frames": [{"tags": row}]} for row in found], references)
    expected = entity_f1(gold, found, mode="strict", scheme=IOB2)
    assert scores["role_f1"].value == pytest.approx(expected, abs=1e-12)
    task, examples = cases("semantic_roles")
    (answer, *_) = predict_examples(task, model_for(task, tokenizer), examples, tokenizer).answers
    assert answer is not None
    for frame in answer["frames"]:
        before = "O"
        for tag in frame["tags"]:
            assert tag[0] != "I" or before[1:] == tag[1:]
            before = tag
        told = {(one["role"], one["start"], one["end"]) for one in frame["arguments"]}
        assert told == {(tag[2:], at, _end(frame["tags"], at)) for at, tag in enumerate(frame["tags"]) if tag[0] == "B"}


def test_a_role_that_does_not_begin_with_b_is_mended() -> None:
    task = SemanticRoles(SemanticRolesSettings(labels=("B-X", "I-X", "I-Y", "O")))
    likely = np.eye(4)[[3, 1, 1, 2, 2, 3]]
    answer = task.merge([Judged(likely, extra=(0, list("abcdef"), [0, 1, 2, 3, None, 5]))])
    (frame,) = answer["frames"]
    assert frame["tags"] == ["O", "B-X", "I-X", "B-Y", "O", "O"]
    assert [(one["role"], one["start"], one["end"]) for one in frame["arguments"]] == [("X", 1, 3), ("Y", 3, 4)]
    assert task.shown(answer) == "a(X b c, Y d)"


def _end(tags: Sequence[str], start: int) -> int:
    return next((at for at in range(start + 1, len(tags)) if tags[at][0] != "I"), len(tags))


def test_a_sentence_without_a_predicate_is_answered_and_an_unseen_role_is_a_miss(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    known, examples = cases("semantic_roles")
    settings = SemanticRolesSettings(labels=known.settings.labels, max_length=48, unseen_roles="miss")
    task = SemanticRoles(settings)
    rare = example(tokens=["the", "fox"], frames=[{"predicate": 1, "tags": ["B-ARGM-RARE", "O"]}])
    bare = example(tokens=["the", "fox"], frames=[])
    with caplog.at_level("INFO", logger=LOGGER.name):
        task.refuse_unknown([rare, *examples])
    assert "ARGM-RARE" in caplog.text
    with pytest.raises(DataError):
        known.refuse_unknown([rare, *examples])
    (row,) = rows_of(task, rare, tokenizer)
    assert (row.columns["labels"] >= 0).sum() == 1
    found = predict_examples(task, model_for(task, tokenizer), [bare, rare], tokenizer)
    assert found.answers[0] == {"frames": []}
    assert found.scores(task, [bare, rare])["role_recall"].value == 0


def test_on_published_data() -> None:
    """Every row of the shared development sets is read."""
    words = tiny("bpe")
    for folder, task in (("relation/semeval2010_task8", Relation()), ("srl/up_en_ewt", SemanticRoles())):
        rows = list(read_examples([str(needs_test_data(folder, "dev.jsonl.gz"))], task.schema))
        ready = resolved(task, rows, length=2048)
        assert not any(isinstance(ready.encode(one, words), Skip) for one in rows)
