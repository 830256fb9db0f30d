"""The n-gram model as a kind: its settings and its files (``model_type`` wenlu_ngram)."""

from __future__ import annotations

from torch import nn

from wenlu.core.errors import SettingsError
from wenlu.models.config import ModelSettings
from wenlu.models.families._files import HFConfig
from wenlu.models.families._own import OwnFamily
from wenlu.models.ngram import NGramConfig, NGramModel


class NGramFamily(OwnFamily):
    """Implements ``wenlu.models.config.Family``. Its counts are integers, whatever the type."""

    uses = frozenset({"order"})
    model_type, made = "wenlu_ngram", NGramModel

    def build(
        self, settings: ModelSettings, *, vocab_size: int, end_id: int, sequence_length: int, seed: int
    ) -> nn.Module:
        """There is no n-gram model without counts.

        Raises:
            SettingsError: ``ngram.no_steps``; use ``wenlu.models.ngram.fit``.
        """
        raise SettingsError("ngram.no_steps", kind=settings.kind)

    def config(self, values: HFConfig) -> NGramConfig:
        """Read a config.json."""
        order = values.integer("order")
        sizes = values.listed("num_ngrams", int, f"{order} integers", size=order)
        discounts = values.listed("discounts", list, f"{order} x 3 numbers", size=order)
        for three in discounts:
            if len(three) != 3 or not all(isinstance(discount, int | float) for discount in three):
                values.refuse("discounts", discounts, f"{order} x 3 numbers")
        return NGramConfig(
            vocab_size=values.integer("vocab_size"),
            end_token_id=values.integer("end_token_id"),
            order=order,
            num_ngrams=tuple(sizes),
            discounts=tuple((float(d1), float(d2), float(d3)) for d1, d2, d3 in discounts),
        )


FAMILY = NGramFamily()
