"""Causal language modelling: predict each token from the tokens before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from wenlu.core.settings import refuse_outside
from wenlu.models.config import Cache, LanguageModel
from wenlu.tasks._base import IGNORE_INDEX, Batch, Carried, Loss, Score, Skip, TaskSettings
from wenlu.tasks._targets import cross_entropy, guesses
from wenlu.tasks._texts import TextTask
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Features:
    """One document as the model sees it: ``Tokenizer.context_id`` and all tokens but the last go in, all are labels."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Part:
    """The log-probabilities of one row's targets, natural logarithm, in order."""

    log_probabilities: list[float]


class CausalLM(TextTask):
    """The task; see ``tasks/_base.py`` for what each method means."""

    def __init__(self, settings: TaskSettings | None = None) -> None:
        self.settings = settings or TaskSettings()
        refuse_outside("training.range", "task", self.settings, {">= 1": ("chunk_rows",)})

    def encode(self, example: str, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The document's tokens and the end token, read after the tokenizer's ``context_id``."""
        labels = [*tokenizer.encode(example), tokenizer.end_id]
        if len(labels) == 1:
            return Skip("empty")
        return [Features([tokenizer.context_id, *labels[:-1]], labels)]

    def collate(self, features: Sequence[Features], generator: torch.Generator | None = None) -> Batch:
        """Rows padded on the right; padding is a document of its own and no target."""
        length = max(len(row.labels) for row in features)
        shape = (len(features), length)
        batch = {
            "input_ids": torch.zeros(shape, dtype=torch.int64),
            "labels": torch.full(shape, IGNORE_INDEX),
            "position_ids": torch.zeros(shape, dtype=torch.int64),
            "document_ids": torch.full(shape, -1),
        }
        for number, row in enumerate(features):
            used = len(row.labels)
            batch["input_ids"][number, :used] = torch.tensor(row.input_ids)
            batch["labels"][number, :used] = torch.tensor(row.labels)
            batch["position_ids"][number, :used] = torch.arange(used)
            batch["document_ids"][number, :used] = 0
        return batch

    def counts(self, batch: Batch) -> dict[str, int]:
        """The number of labels that are not ignored."""
        return {"cross_entropy": int((batch["labels"] != IGNORE_INDEX).sum())}

    def loss(self, module: nn.Module, batch: Batch, *, carried: Carried | None = None) -> Loss:
        """One term, ``cross_entropy``: the sum of -ln p over the targets."""
        model, cache = cast(LanguageModel, module), cast("Cache | None", carried)
        hidden_BSD = model.hidden(
            batch["input_ids"], positions=batch["position_ids"], document_ids=batch["document_ids"], cache=cache
        )
        labels_BS, chunk_rows = batch["labels"], self.settings.chunk_rows
        return {"cross_entropy": cross_entropy(module, model.logits, hidden_BSD, labels_BS, chunk_rows=chunk_rows)}

    @torch.no_grad()
    def predict(self, module: nn.Module, batch: Batch) -> list[Part]:
        """The log-probability of every target."""
        model = cast(LanguageModel, module)
        hidden_BSD = model.hidden(
            batch["input_ids"], positions=batch["position_ids"], document_ids=batch["document_ids"]
        )
        found = guesses(model.logits, hidden_BSD, batch["labels"], chunk_rows=self.settings.chunk_rows)
        return [Part(part.log_probs.tolist()) for part in found]

    def merge(self, parts: Sequence[Part]) -> list[float]:
        """The log-probabilities of a document's tokens."""
        return [value for part in parts for value in part.log_probabilities]

    def metrics(self, predictions: Sequence[list[float]], references: Sequence[str]) -> dict[str, Score]:
        """Loss (nats a token) and perplexity; bits per byte, which compares tokenizers, is the evaluator's."""
        count = sum(map(len, predictions))
        loss = -sum(map(math.fsum, predictions)) / max(count, 1)
        return {
            "loss": Score(loss, "mean -ln p over all tokens, end of text included", count),
            "perplexity": Score(math.exp(loss), "exp(loss)", count),
        }


SETTINGS = TaskSettings


def create(settings: TaskSettings) -> CausalLM:
    """The task with these settings."""
    return CausalLM(settings)
