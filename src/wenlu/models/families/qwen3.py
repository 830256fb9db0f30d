"""Qwen3 (Yang et al. 2025): Llama with a norm over each head of q and k, and a head size of its own."""

from __future__ import annotations

from wenlu.models.families._llama import LlamaKind

FAMILY = LlamaKind(model_type="qwen3", name="Qwen3", qk_norm="head", head_dim=128)
