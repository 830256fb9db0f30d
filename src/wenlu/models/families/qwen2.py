"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on q, k and v."""

from __future__ import annotations

from wenlu.models.families._llama import LlamaKind

FAMILY = LlamaKind(model_type="qwen2", name="Qwen2", fixed_biases=frozenset({"q", "k", "v"}))
