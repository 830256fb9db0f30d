"""Llama 1 to 3 (Touvron et al. 2023; Dubey et al. 2024): Llama 3.1's rotary scaling, biases where the config says."""

from __future__ import annotations

from wenlu.models.families._llama import LlamaKind

FAMILY = LlamaKind(model_type="llama", name="Llama")
