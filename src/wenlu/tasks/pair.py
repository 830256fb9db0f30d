"""Pairs of texts with one label: entailment, paraphrase; the two are read together, each with its own segment."""

from __future__ import annotations

from dataclasses import dataclass

from wenlu.data.examples import Schema
from wenlu.tasks.classification import Classification, ClassificationSettings


@dataclass(frozen=True)
class PairSettings(ClassificationSettings):
    """The ``[task]`` table: that of ``classification``."""

    name: str = "pair"


class Pair(Classification):
    """The task; see ``tasks/_base.py`` for what each method means."""

    schema = Schema("pair", {"text": "text", "text_pair": "text", "label": "label"})
    settings: PairSettings = PairSettings()


SETTINGS = PairSettings
create = Pair
