"""T5 (Raffel et al. 2020), dense and tied, and T5 v1.1 (Shazeer 2020), gated and untied."""

from __future__ import annotations

from wenlu.models.families import _t5

FAMILY = _t5.family("t5", "T5", scaled=True, projection="relu")
