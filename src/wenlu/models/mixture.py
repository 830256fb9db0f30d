"""Two or more language models of one tokenizer as one: their probabilities are averaged with fixed weights.

F. Jelinek and R. Mercer, "Interpolated estimation of Markov source parameters from sparse data", 1980.

B batch, S length, V vocabulary, M components.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from wenlu.core.errors import SettingsError
from wenlu.models.config import Cache, LanguageModel, Reading
from wenlu.models.device import device_of
from wenlu.models.heads import IGNORE_INDEX, LanguageModelCalls
from wenlu.models.roles import causal_model
from wenlu.models.statistics import Statistics


class MixtureCache:
    """The caches of the components, side by side."""

    def __init__(self, parts: Sequence[Cache]) -> None:
        self.parts = tuple(parts)

    @property
    def length(self) -> int:
        """Number of slots read."""
        return self.parts[0].length

    def reorder(self, index_N: Tensor) -> None:
        """Let row i continue what was row ``index_N[i]``; the number of rows may change."""
        for part in self.parts:
            part.reorder(index_N)

    def truncate(self, length: int) -> None:
        """Forget all slots from ``length`` on, where every component can."""
        for part in self.parts:
            part.truncate(length)


class Mixture(LanguageModelCalls):
    """Finished models mixed linearly in probability. Implements ``wenlu.models.config.LanguageModel``; no gradients.

    Its hidden states are those of all components side by side in float64, which holds float32 and int64 numbers of
    contexts exactly.
    """

    def __init__(self, components: Sequence[nn.Module], weights: Sequence[float]) -> None:
        """Mix these components, in evaluation mode, with one weight each.

        Raises:
            RequestError: a component does not read from left to right.
            SettingsError: ``mixture.vocabularies`` when the components differ in it; ``mixture.weights`` when there is
                not one weight a component, or one is negative, or they do not sum to 1.
        """
        super().__init__()
        models = [causal_model(component) for component in components]
        sizes = [model.vocab_size for model in models]
        if len(set(sizes)) != 1:
            raise SettingsError("mixture.vocabularies", sizes=", ".join(map(str, sizes)))
        valid = len(weights) == len(models) and all(weight >= 0 for weight in weights)
        if not valid or abs(math.fsum(weights) - 1) > 1e-6:
            raise SettingsError("mixture.weights", weights=list(weights), components=len(models))
        self.components = nn.ModuleList(components)
        self.weights = tuple(float(weight) for weight in weights)
        self.vocab_size = sizes[0]
        limits = [model.max_positions for model in models if model.max_positions is not None]
        self.max_positions = min(limits) if limits else None
        with torch.no_grad():  # one token says how wide the hidden states are, and of which type
            device = device_of(self)
            states = [model.hidden(torch.zeros((1, 1), dtype=torch.int64, device=device)) for model in models]
        self._layout = [(state.shape[-1], state.dtype) for state in states]

    @torch.no_grad()
    def hidden(self, input_ids_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """Hidden states of all components side by side (float64)."""
        parts = [model.hidden(input_ids_BS, **own) for model, own, _ in self._asked(reading)]
        return torch.cat([part.double() for part in parts], dim=-1)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Log-probabilities of every token (float32 ... V) after hidden states of any leading shape."""
        states = torch.split(hidden, [width for width, _ in self._layout], dim=-1)
        asked = zip(self._asked({}), self._layout, states, strict=True)
        parts = [
            model.logits(state.to(dtype)).float().log_softmax(dim=-1) + weight
            for (model, _, weight), (_, dtype), state in asked
        ]
        return _log_sum(parts)

    @torch.no_grad()
    def target_log_probs(self, input_ids_BS: Tensor, labels_BS: Tensor, **reading: Unpack[Reading]) -> Tensor:
        """Natural-log probability (B, S) of each label in float32, 0 where the label is -100."""
        asked = self._asked(reading)
        parts = [model.target_log_probs(input_ids_BS, labels_BS, **own) + weight for model, own, weight in asked]
        return torch.where(labels_BS == IGNORE_INDEX, 0.0, _log_sum(parts))

    def new_cache(self, batch_size: int, max_length: int) -> MixtureCache:
        """An empty cache for ``batch_size`` rows of at most ``max_length`` positions."""
        return MixtureCache([model.new_cache(batch_size, max_length) for model in self._models()])

    def statistics(self, *, sequence_length: int) -> Statistics:
        """The sums over the components."""
        parts = [asdict(model.statistics(sequence_length=sequence_length)) for model in self._models()]
        return Statistics(**{name: sum(part[name] for part in parts) for name in parts[0]})

    def _models(self) -> list[LanguageModel]:
        return [cast(LanguageModel, component) for component in self.components]

    def _asked(self, reading: Reading) -> Iterator[tuple[LanguageModel, Reading, float]]:
        """Each component, what it is told, and the logarithm of its weight."""
        cache = reading.get("cache")
        assert cache is None or isinstance(cache, MixtureCache), "a mixture needs the cache that it made"
        caches = [None] * len(self.components) if cache is None else cache.parts
        for model, weight, part in zip(self._models(), self.weights, caches, strict=True):
            yield model, {**reading, "cache": part}, math.log(weight) if weight else -math.inf


def _log_sum(parts: Sequence[Tensor]) -> Tensor:
    """log of the sum of exp over the parts; a weight of 0 is a part of minus infinity."""
    return functools.reduce(torch.logaddexp, parts)
