"""Gemma 2 (Riviere et al. 2024): windows in every other layer, norms around sublayers, capped scores and logits."""

from __future__ import annotations

from wenlu.models.families._llama import LlamaKind

FAMILY = LlamaKind(
    model_type="gemma2",
    name="Gemma2",
    head_dim=256,
    tied=True,
    windowed=True,
    full_every=2,
    attention_softcap=50.0,
    logit_softcap=30.0,
    gemma=True,
)
