"""Fitting the weights of a mixture on held-out text.

Expectation-maximisation (A. P. Dempster et al. 1977; for language models F. Jelinek and R. Mercer 1980) finds the
weights that make the held-out tokens most probable. The likelihood is concave in them, so there is one best answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wenlu.core.log import progress
from wenlu.evaluation.documents import TokenizedDocument
from wenlu.evaluation.scoring import Windows, token_log_probs
from wenlu.metrics.language_model import bits_per_byte
from wenlu.models.config import LanguageModel

MAX_ROUNDS = 1000
TOLERANCE = 1e-6


@dataclass(frozen=True)
class FittedWeights:
    """The weights, and the mean loss (nats a token) of each component alone and of the mixture on the same tokens."""

    weights: tuple[float, ...]
    component_losses: tuple[float, ...]
    loss: float
    tokens: int


@dataclass(frozen=True)
class MixedText:
    """What the weights were fitted on."""

    fitted: FittedWeights
    documents: int
    num_bytes: float

    def bits_per_byte(self, loss: float) -> float:
        """Bits per byte of a model with this mean loss on the same tokens."""
        return bits_per_byte(loss * self.fitted.tokens, self.num_bytes)


def fit_mixture(
    models: Sequence[LanguageModel],
    documents: Sequence[TokenizedDocument],
    *,
    names: Sequence[str],
    context_id: int,
    windows: Windows,
) -> MixedText:
    """Score the documents under each model, by the window rule of evaluations; fit the weights on all their tokens."""
    log_probs = []
    for model, name in zip(models, names, strict=True):
        scored = []
        with progress("mixture.scoring", total=len(documents), unit="documents", model=name) as bar:
            for values in token_log_probs(model, documents, context_id=context_id, windows=windows):
                scored.append(values.astype(np.float32))
                bar.advance()
        log_probs.append(np.concatenate(scored))
    num_bytes = sum(document.num_bytes for document in documents)
    return MixedText(fit_weights(log_probs), len(documents), num_bytes)


def fit_weights(log_probs: Sequence[NDArray[np.float32]]) -> FittedWeights:
    """The best weights for components whose log-probabilities of the same tokens are given, one array each."""
    logs_MN = np.stack([np.asarray(part, dtype=np.float64) for part in log_probs])
    components, tokens = logs_MN.shape
    assert tokens, "weights are fitted on at least one token"
    highest_N = logs_MN.max(axis=0)
    scaled_MN = np.exp(logs_MN - highest_N)
    weights_M = np.full(components, 1 / components)
    for _ in range(MAX_ROUNDS):
        mixed_N = weights_M @ scaled_MN
        updated_M = weights_M * (scaled_MN / mixed_N).mean(axis=1)
        updated_M /= updated_M.sum()
        change = float(np.abs(updated_M - weights_M).max())
        weights_M = updated_M
        if change < TOLERANCE:
            break
    loss = -float((np.log(weights_M @ scaled_MN) + highest_N).mean())
    losses = tuple((-logs_MN.mean(axis=1)).tolist())
    return FittedWeights(tuple(weights_M.tolist()), component_losses=losses, loss=loss, tokens=tokens)
