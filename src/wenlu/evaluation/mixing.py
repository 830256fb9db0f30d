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


def fit_mixture(
    models: Sequence[LanguageModel],
    documents: Sequence[TokenizedDocument],
    *,
    names: Sequence[str],
    context_id: int,
    windows: Windows,
) -> FittedWeights:
    """Score the documents under each model, by the window rule of evaluations; fit the weights on all their tokens."""
    log_probs = []
    for model, name in zip(models, names, strict=True):
        scored = []
        with progress("mixture.scoring", total=len(documents), unit="documents", model=name) as bar:
            for values in token_log_probs(model, documents, context_id=context_id, windows=windows):
                scored.append(values.astype(np.float32))
                bar.advance()
        log_probs.append(np.concatenate(scored))
    return fit_weights(log_probs)


def fit_weights(log_probs: Sequence[NDArray[np.float32]]) -> FittedWeights:
    """The best weights for components whose log-probabilities of the same tokens are given, one array each."""
    logs_MN = np.stack(log_probs).astype(np.float64)
    components, tokens = logs_MN.shape
    assert tokens, "weights are fitted on at least one token"
    highest_N = logs_MN.max(axis=0)
    scaled_MN = np.exp(logs_MN - highest_N)
    weights_M = np.full(components, 1 / components)
    for _ in range(MAX_ROUNDS):
        updated_M = weights_M * (scaled_MN / (weights_M @ scaled_MN)).mean(axis=1)
        updated_M /= updated_M.sum()
        change, weights_M = float(np.abs(updated_M - weights_M).max()), updated_M
        if change < TOLERANCE:
            break
    loss = -float((np.log(weights_M @ scaled_MN) + highest_N).mean())
    return FittedWeights(tuple(weights_M.tolist()), tuple((-logs_MN.mean(axis=1)).tolist()), loss, tokens)
