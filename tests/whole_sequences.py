"""The engine's stream as finished sequences, for tests of what it generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wenlu.generation.engine import FinishReason, stream
from wenlu.generation.settings import GenerationSettings
from wenlu.models.config import LanguageModel


@dataclass
class GeneratedSequence:
    """A finished continuation; ``ids`` are the new tokens alone, an end token that the model produced included."""

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"


def generate(
    model: LanguageModel, prompt_ids: Sequence[int], settings: GenerationSettings, **told: Any
) -> list[GeneratedSequence]:
    """All continuations of a prompt, finished; arguments and errors as for ``stream``."""
    sequences = [GeneratedSequence() for _ in range(settings.num_sequences)]
    for step in stream(model, prompt_ids, settings, **told):
        sequence = sequences[step.sequence]
        sequence.ids.append(step.token_id)
        sequence.log_probs.append(step.log_prob)
        if step.finish_reason is not None:
            sequence.finish_reason = step.finish_reason
    return sequences
