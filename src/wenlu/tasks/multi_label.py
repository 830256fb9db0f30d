"""Classification of a text with any number of labels, each judged by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wenlu.data.examples import Example, Schema
from wenlu.metrics import classification as scores_of
from wenlu.tasks._base import Score, Skip
from wenlu.tasks._labelled import Features, Judged, JudgingTask, LabelledSettings, Prediction
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class MultiLabelSettings(LabelledSettings):
    """The ``[task]`` table. A text has the labels whose probability is at least ``threshold``."""

    bounds: ClassVar = {"0 < x < 1": ("threshold",)}

    name: str = "multi_label"
    threshold: float = 0.5


class MultiLabel(JudgingTask):
    """The task; see ``tasks/_base.py`` for what each method means."""

    schema = Schema("multi_label", {"text": "text", "labels": "labels"})
    head = "sequence"
    best = "micro_f1"
    settings: MultiLabelSettings = MultiLabelSettings()

    def inventory(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted({label for example in examples for label in example.fields.get("labels", ())}))

    def encode(self, example: Example, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The text, and 1 at each of its labels."""
        labels = None
        if "labels" in example.fields:
            labels = np.array([float(label in example.fields["labels"]) for label in self.settings.labels])
        return self.of_texts(example, tokenizer, labels=labels)

    def learned(self, labels: Tensor) -> Tensor:
        """Every row, with all its judgements."""
        return torch.ones(len(labels), dtype=torch.bool)

    def nats(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of -ln p over the labels, there or not."""
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none").mean(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probability of each label."""
        return logits.sigmoid().double()

    def merge(self, parts: Sequence[Judged]) -> Prediction:
        """The labels above the threshold, and the probability of each."""
        [part] = parts
        probabilities = dict(zip(self.settings.labels, part.probabilities.tolist(), strict=True))
        chosen = [label for label, probability in probabilities.items() if probability >= self.settings.threshold]
        return {"labels": chosen, "probabilities": probabilities}

    def metrics(self, predictions: Sequence[Prediction], references: Sequence[Example]) -> dict[str, Score]:
        """Micro and macro F1, and the share of texts whose labels are all right."""
        gold = [reference.fields["labels"] for reference in references]
        return scores_of.multi_label(gold, [one["labels"] for one in predictions])


SETTINGS = MultiLabelSettings
create = MultiLabel
