"""Mistral (Jiang et al. 2023): Llama whose attention sees a window of the nearest tokens."""

from __future__ import annotations

from wenlu.models.families._llama import LlamaKind

FAMILY = LlamaKind(model_type="mistral", name="Mistral", fixed_biases=frozenset(), windowed=True)
