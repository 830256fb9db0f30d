"""Causal language modelling: predict each token from the tokens before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from wenlu.models.config import Cache, LanguageModel
from wenlu.tasks._base import Batch, Carried, Score, Skip, TaskSettings, stack
from wenlu.tasks._corpus import TextTask
from wenlu.tasks._targets import Guesses
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Features:
    """One document as the model sees it: ``Tokenizer.context_id`` and all tokens but the last go in, all are labels."""

    input_ids: list[int]
    labels: list[int]


class CausalLM(TextTask):
    """The task; see ``tasks/_base.py`` for what each method means."""

    def encode(self, example: str, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The document's tokens and the end token, read after the tokenizer's ``context_id``."""
        labels = [*tokenizer.encode(example), tokenizer.end_id]
        if len(labels) == 1:
            return Skip("empty")
        return [Features([tokenizer.context_id, *labels[:-1]], labels)]

    def collate(self, features: Sequence[Features], generator: torch.Generator | None = None) -> Batch:
        """Rows padded on the right; padding is a document of its own and no target."""
        ids = [{name: np.array(column) for name, column in vars(one).items()} for one in features]
        places = [np.arange(len(one.labels)) for one in features]
        return stack([row | {"position_ids": at, "document_ids": 0 * at} for row, at in zip(ids, places, strict=True)])

    def hidden(self, module: nn.Module, batch: Batch, carried: Carried | None = None) -> Tensor:
        """The states of all tokens, after those that are carried."""
        model, cache = cast(LanguageModel, module), cast("Cache | None", carried)
        places, documents = batch["position_ids"], batch["document_ids"]
        return model.hidden(batch["input_ids"], positions=places, document_ids=documents, cache=cache)

    def scores(self, parts: Sequence[Guesses]) -> dict[str, Score]:
        """Loss (nats a token) and perplexity; bits per byte, which compares tokenizers, is the evaluator's."""
        count = sum(len(part.labels) for part in parts)
        loss = -math.fsum(float(part.log_probs.sum()) for part in parts) / max(count, 1)
        return {
            "loss": Score(loss, "mean -ln p over all tokens, end of text included", count),
            "perplexity": Score(math.exp(loss), "exp(loss)", count),
        }


SETTINGS = TaskSettings
create = CausalLM
