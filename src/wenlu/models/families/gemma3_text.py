"""Gemma 3, its text model (Kamath et al. 2025): five layers with a window for each without, q/k norm."""

from __future__ import annotations

from wenlu.models.families._llama import LlamaKind

FAMILY = LlamaKind(
    model_type="gemma3_text",
    name="Gemma3",
    qk_norm="head",
    head_dim=256,
    tied=True,
    windowed=True,
    full_every=6,
    rope_theta=1e6,
    window_rope_theta=1e4,
    gemma=True,
)
