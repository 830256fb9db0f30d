"""mT5 (Xue et al. 2021): T5 v1.1 with a vocabulary of many languages; nothing is scaled before the output matrix."""

from __future__ import annotations

from wenlu.models.families._t5 import NEW, T5Kind

FAMILY = T5Kind(
    model_type="mt5",
    architectures={"MT5ForConditionalGeneration": frozenset({"language_model"})},
    new=NEW,
    scaled=False,
    projection="gated-gelu",
)
