"""T5 (Raffel et al. 2020), dense and tied, and T5 v1.1 (Shazeer 2020), gated and untied."""

from __future__ import annotations

from wenlu.models.families._t5 import NEW, T5Kind

FAMILY = T5Kind(
    model_type="t5",
    architectures={"T5ForConditionalGeneration": frozenset({"language_model"})},
    new=NEW,
    scaled=True,
    projection="relu",
)
