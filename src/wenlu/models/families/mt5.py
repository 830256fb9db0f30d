"""mT5 (Xue et al. 2021): T5 v1.1 with a vocabulary of many languages; nothing is scaled before the output matrix."""

from __future__ import annotations

from wenlu.models.families import _t5

FAMILY = _t5.family("mt5", "MT5", scaled=False, projection="gated-gelu")
