"""The n-gram model as a kind: its settings and its files (``model_type`` wenlu_ngram)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from wenlu.core.errors import SettingsError
from wenlu.models.config import ModelSettings
from wenlu.models.families._files import HFConfig, write_model
from wenlu.models.families._own import fill
from wenlu.models.ngram import NGramConfig, NGramModel

MODEL_TYPE = "wenlu_ngram"


class NGramFamily:
    """Implements ``wenlu.models.config.Family``."""

    uses = frozenset({"order"})

    def build(
        self, settings: ModelSettings, *, vocab_size: int, end_id: int, sequence_length: int, seed: int
    ) -> nn.Module:
        """There is no n-gram model without counts.

        Raises:
            SettingsError: ``ngram.no_steps``; use ``wenlu.models.ngram.fit``.
        """
        raise SettingsError("ngram.no_steps", kind=settings.kind)

    def load(self, hf: Mapping[str, object], directory: Path, *, dtype: torch.dtype) -> nn.Module:
        """The model of a directory whose config.json is ``hf``; its counts are integers, whatever the type."""
        values = HFConfig(hf, directory / "config.json")
        order = values.integer("order")
        config = NGramConfig(
            vocab_size=values.integer("vocab_size"),
            end_token_id=values.integer("end_token_id"),
            order=order,
            num_ngrams=_sizes(values, order),
            discounts=_discounts(values, order),
        )
        with torch.device("meta"):
            model = NGramModel(config)
        fill(model, directory, dtype=dtype)
        return model

    def save(self, model: nn.Module, directory: Path) -> bool:
        """Write config.json and the counts; False for another kind of model."""
        if not isinstance(model, NGramModel):
            return False
        write_model(directory, {"model_type": MODEL_TYPE, **asdict(model.config)}, model.state_dict())
        return True


def _sizes(values: HFConfig, order: int) -> tuple[int, ...]:
    sizes = values.values.get("num_ngrams")
    if not (isinstance(sizes, list) and len(sizes) == order and all(isinstance(size, int) for size in sizes)):
        values.refuse("num_ngrams", sizes, f"{order} integers")
    return tuple(sizes)


def _discounts(values: HFConfig, order: int) -> tuple[tuple[float, float, float], ...]:
    discounts = values.values.get("discounts")
    if not (isinstance(discounts, list) and len(discounts) == order and all(map(_is_triple, discounts))):
        values.refuse("discounts", discounts, f"{order} x 3 numbers")
    return tuple((float(d1), float(d2), float(d3)) for d1, d2, d3 in discounts)


def _is_triple(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(item, int | float) for item in value)


FAMILY = NGramFamily()
