"""Classification of a text: one label, by a head on the state of its first or last token (Devlin et al. 2019, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import nn

from wenlu.data.examples import Example, Schema
from wenlu.metrics import classification as scores_of
from wenlu.tasks._base import Batch, Carried, Loss, Score, Skip, Term
from wenlu.tasks._labelled import Features, Judged, JudgingTask, LabelledSettings, Prediction
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class ClassificationSettings(LabelledSettings):
    """The ``[task]`` table: what every task with labels has, and how the loss weighs them.

    ``label_weights`` multiply the loss of each label's examples; ``label_smoothing`` is the share of the target that
    all labels have alike (Szegedy et al. 2016, section 7).
    """

    bounds: ClassVar = {"0 <= x < 1": ("label_smoothing",)}

    name: str = "classification"
    label_weights: dict[str, float] = field(default_factory=dict)
    label_smoothing: float = 0.0


class Classification(JudgingTask):
    """The task; see ``tasks/_base.py`` for what each method means."""

    schema = Schema("classification", {"text": "text", "label": "label"})
    head = "sequence"
    best = "accuracy"
    settings: ClassificationSettings = ClassificationSettings()

    def inventory(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted({example.fields["label"] for example in examples if "label" in example.fields}))

    def encode(self, example: Example, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The text, or the two texts, and the number of the label."""
        label = example.fields.get("label")
        return self.of_texts(example, tokenizer, labels=label and np.array(self.settings.labels.index(label)))

    def loss(self, module: nn.Module, batch: Batch, *, carried: Carried | None = None) -> Loss:
        """One term: the sum of -ln p over the examples' labels."""
        given = self.settings.label_weights
        logits_BC = self.judged(module, batch)
        weights = logits_BC.new_tensor([given.get(label, 1.0) for label in self.settings.labels]) if given else None
        smoothing = self.settings.label_smoothing
        total = F.cross_entropy(logits_BC, batch["labels"], weights, reduction="sum", label_smoothing=smoothing)
        return {self.settings.name: Term(total, len(batch["labels"]))}

    def merge(self, parts: Sequence[Judged]) -> Prediction:
        """The likeliest label, and the probability of each."""
        [part] = parts
        labels = self.settings.labels
        return {
            "label": labels[int(part.probabilities.argmax())],
            "probabilities": dict(zip(labels, part.probabilities.tolist(), strict=True)),
        }

    def metrics(self, predictions: Sequence[Prediction], references: Sequence[Example]) -> dict[str, Score]:
        """Accuracy, precision, recall and F1."""
        gold = [reference.fields["label"] for reference in references]
        return scores_of.classification(gold, [one["label"] for one in predictions])


SETTINGS = ClassificationSettings
create = Classification
