"""From labelled examples to answers and scores: encoded, read in batches of like length, merged example by example."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from wenlu.core.log import progress, warn
from wenlu.data.examples import Example
from wenlu.metrics.score import counted_scores, ratio
from wenlu.models.device import device_of
from wenlu.tasks._base import Score, Skip
from wenlu.tasks._labelled import Features, LabelledTask, Prediction
from wenlu.tokenization.tokenizer import Tokenizer

_TOKENS_AT_ONCE = 4096


@dataclass
class LeftOut:
    """What of the examples the model does not see: those without use by reason, and texts that were cut."""

    skipped: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    tokens: int = 0
    unasked: set[int] = field(default_factory=set)  # examples in which nothing is asked: no rows, but an answer

    def warn(self, length: int) -> None:
        """Say that texts were cut to the ``length`` of a row."""
        if self.cut:
            warn("tasks.texts_cut", count=self.cut, tokens=self.tokens, length=length)


Encoded = tuple[list[Features], list[int], LeftOut]
"""Rows, the number of the example of each, and what was left out."""


def encode_examples(
    task: LabelledTask[Any], examples: Sequence[Example], tokenizer: Tokenizer, *, learned: bool = False
) -> Encoded:
    """The rows of all examples, in order; of those that are to be ``learned``, the ones with a target."""
    rows: list[Features] = []
    owners: list[int] = []
    left = LeftOut()
    for number, example in enumerate(examples):
        made = task.encode(example, tokenizer)
        if learned and not isinstance(made, Skip):
            with_target = [row for row in made if any(task.counts(task.collate([row])).values())]
            made = with_target or Skip("no_target")
        if isinstance(made, Skip):
            left.skipped[made.reason] += 1
            continue
        if not made:
            left.unasked.add(number)
        rows += made
        owners += [number] * len(made)
        tokens = sum(row.cut for row in made)
        left.cut, left.tokens = left.cut + bool(tokens), left.tokens + tokens
    return rows, owners, left


@dataclass(frozen=True)
class Predictions:
    """An answer an example, None for one that was skipped, and of each row the -ln p of its labels and their number."""

    answers: Sequence[Prediction | None]
    nats: Sequence[float]
    labels: Sequence[int]

    def scores(self, task: LabelledTask[Any], references: Sequence[Example]) -> Mapping[str, Score]:
        """The task's scores of the examples that were answered, and the mean loss of their labels."""
        pairs = [(one, gold) for one, gold in zip(self.answers, references, strict=True) if one is not None]
        return self.loss | task.metrics([one for one, _ in pairs], [gold for _, gold in pairs])

    @property
    def loss(self) -> dict[str, Score]:
        """The mean loss, where labels are known."""
        if not sum(self.labels):
            return {}
        columns = np.array([self.nats, self.labels], dtype=np.float64)
        names = {"loss": "mean -ln p of the labels"}
        found = counted_scores(columns, lambda sums: ratio(sums[:1], sums[1:]), names, unit="row")
        return {name: replace(score, count=sum(self.labels)) for name, score in found.items()}


def predict_examples(
    task: LabelledTask[Any],
    model: nn.Module,
    examples: Sequence[Example],
    tokenizer: Tokenizer | None = None,
    *,
    encoded: Encoded | None = None,
) -> Predictions:
    """The answers of a model; rows of like length are read together. The model is left in its mode."""
    if encoded is None:
        assert tokenizer is not None
        encoded = encode_examples(task, examples, tokenizer)
        encoded[2].warn(task.settings.max_length)
    rows, owners, left = encoded
    parts: dict[int, list[Any]] = {number: [] for number in left.unasked}
    lengths = [len(row.columns["input_ids"]) for row in rows]
    order = sorted(range(len(rows)), key=lambda number: -lengths[number])
    found: list[Any] = [None] * len(rows)
    device, was_training = device_of(model), model.training
    model.eval()
    try:
        with progress("tasks.predicting", total=len(rows), unit="texts") as bar:
            while order:
                size = max(1, _TOKENS_AT_ONCE // lengths[order[0]])
                numbers, order = order[:size], order[size:]
                batch = task.collate([rows[number] for number in numbers])
                made = task.predict(model, {name: tensor.to(device) for name, tensor in batch.items()})
                for number, part in zip(numbers, made, strict=True):
                    found[number] = replace(part, extra=rows[number].extra)
                bar.advance(len(numbers))
    finally:
        model.train(was_training)
    for owner, part in zip(owners, found, strict=True):
        parts.setdefault(owner, []).append(part)
    answers = [task.merge(parts[number]) if number in parts else None for number in range(len(examples))]
    known = [part.log_prob or () for part in found]
    return Predictions(answers, [-math.fsum(row) for row in known], [len(row) for row in known])
