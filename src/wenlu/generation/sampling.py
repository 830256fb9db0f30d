"""From the logits of a model to the next token.

B sequences, V vocabulary. The order is that of Hugging Face's ``generate``: penalties, forbidden tokens, temperature,
top-k, top-p, min-p, draw. All filters set what they drop to minus infinity and always keep the most probable token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wenlu.core.reproducibility import derive_seed, numpy_generator
from wenlu.generation.settings import GenerationSettings as GenerationSettings


def penalize_repetition(logits_BV: Tensor, seen_BV: Tensor, *, penalty: float) -> Tensor:
    """Divide positive logits of seen tokens by the penalty, multiply negative ones by it.

    Source: Keskar et al. 2019, "CTRL", section 4.1. The paper divides always; the sign rule is Hugging Face's, without
    which a penalty would reward tokens with negative logits. ``seen_BV`` marks the tokens of prompt and continuation.
    """
    penalized = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, penalized, logits_BV)


def penalize_counts(logits_BV: Tensor, counts_BV: Tensor, *, presence: float, frequency: float) -> Tensor:
    """``logit - frequency * count - presence * (count > 0)``, counts over the continuation alone.

    Source: OpenAI's API reference, "Frequency and presence penalties".
    """
    return logits_BV - frequency * counts_BV - presence * (counts_BV > 0)


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Keep the k greatest logits (Fan et al. 2018, section 5.4); ties with the k-th are kept."""
    k = min(k, logits_BV.shape[-1])
    smallest_B1 = torch.topk(logits_BV, k, dim=-1).values[:, -1:]
    return torch.where(logits_BV < smallest_B1, -torch.inf, logits_BV)


def keep_top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens whose probabilities sum to p or more (Holtzman et al. 2020, section 3.1).

    Of equally probable ones those with the smaller ids are kept.
    """
    sorted_BV = descending(logits_BV)
    probabilities_BV = sorted_BV.softmax(dim=-1)
    before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
    number_B1 = (before_BV < p).sum(dim=-1, keepdim=True).clamp(min=1)
    least_B1 = sorted_BV.gather(-1, number_B1 - 1)
    kept_BV = logits_BV >= least_B1
    if bool((kept_BV.sum(dim=-1, keepdim=True) > number_B1).any()):
        equal_BV = logits_BV == least_B1
        room_B1 = number_B1 - (logits_BV > least_B1).sum(dim=-1, keepdim=True)
        kept_BV &= ~equal_BV | (equal_BV.cumsum(dim=-1) <= room_B1)
    return torch.where(kept_BV, logits_BV, -torch.inf)


def descending(logits_BV: Tensor) -> Tensor:
    """The values, greatest first. On a processor by NumPy, whose sort without indices takes a twentieth of torch's."""
    if logits_BV.device.type != "cpu":
        return logits_BV.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(logits_BV.numpy(), axis=-1)).flip(-1)


def keep_min_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as probable as the most probable one (Nguyen et al. 2024, "Min-p sampling", 3)."""
    probabilities_BV = logits_BV.softmax(dim=-1)
    return torch.where(probabilities_BV < p * probabilities_BV.amax(dim=-1, keepdim=True), -torch.inf, logits_BV)


def draw(logits_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Token ids at these quantiles of the distributions: the first token whose cumulative probability exceeds u.

    One uniform number decides one draw, so that a draw depends on nothing but its own seed; cumulated in float64.
    """
    cumulative_BV = logits_BV.double().softmax(dim=-1).cumsum(dim=-1)
    threshold_B1 = uniforms_B.to(cumulative_BV)[:, None] * cumulative_BV[:, -1:]
    index_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True)[:, 0]
    if bool((index_B < logits_BV.shape[-1]).all()):
        return index_B
    # Rounding may carry u * total up to the total itself: take the last token that is possible at all.
    positions_V = torch.arange(logits_BV.shape[-1], device=logits_BV.device)
    last_B = torch.where(logits_BV > -torch.inf, positions_V, 0).amax(dim=-1)
    return torch.minimum(index_B, last_B)


class Sampler:
    """Chooses the next token of several sequences and remembers what their penalties need.

    The draw for token ``position`` of sequence ``number`` depends on (seed, number, position) alone: neither on the
    other sequences, nor on how many there are, nor on which of them are still running.
    """

    def __init__(
        self, settings: GenerationSettings, prompt_ids: Sequence[int], *, vocab_size: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.seeds = [derive_seed(settings.seed, "sequence", number) for number in range(settings.num_sequences)]
        self.counts_NV = self.prompt_V = None
        if settings.presence_penalty or settings.frequency_penalty or settings.repetition_penalty != 1:
            self.counts_NV = torch.zeros(settings.num_sequences, vocab_size, device=device)
            self.prompt_V = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self.prompt_V[torch.tensor(list(prompt_ids), dtype=torch.long, device=device)] = True

    def choose(
        self, logits_BV: Tensor, *, sequences: Sequence[int], position: int, forbidden: Tensor | None = None
    ) -> Tensor:
        """The next token ids of the sequences with these numbers, one a row; never one of ``forbidden``."""
        settings = self.settings
        scores_BV = self._penalized(logits_BV.float(), sequences)
        if forbidden is not None and len(forbidden):
            scores_BV = scores_BV.index_fill(-1, forbidden, -torch.inf)
        if settings.greedy:
            ids_B = scores_BV.argmax(dim=-1)
        else:
            uniforms = [numpy_generator(self.seeds[number], "sampling", position).random() for number in sequences]
            ids_B = draw(filtered(scores_BV, settings), torch.tensor(uniforms, dtype=torch.float64))
        if self.counts_NV is not None:
            self.counts_NV[torch.tensor(list(sequences), device=ids_B.device), ids_B] += 1
        return ids_B

    def _penalized(self, logits_BV: Tensor, sequences: Sequence[int]) -> Tensor:
        if self.counts_NV is None or self.prompt_V is None:
            return logits_BV
        settings = self.settings
        counts_BV = self.counts_NV[torch.tensor(list(sequences), device=logits_BV.device)]
        if settings.repetition_penalty != 1:
            seen_BV = (counts_BV > 0) | self.prompt_V
            logits_BV = penalize_repetition(logits_BV, seen_BV, penalty=settings.repetition_penalty)
        return penalize_counts(
            logits_BV, counts_BV, presence=settings.presence_penalty, frequency=settings.frequency_penalty
        )


def filtered(scores_BV: Tensor, settings: GenerationSettings) -> Tensor:
    """Scores at the temperature, with everything dropped that top-k, top-p and min-p drop, in that order."""
    scores_BV = scores_BV / settings.temperature
    if settings.top_k:
        scores_BV = keep_top_k(scores_BV, settings.top_k)
    if settings.top_p < 1:
        scores_BV = keep_top_p(scores_BV, settings.top_p)
    if settings.min_p:
        scores_BV = keep_min_p(scores_BV, settings.min_p)
    return scores_BV
