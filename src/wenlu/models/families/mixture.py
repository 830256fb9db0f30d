"""A mixture as a kind: config.json holds the weights, ``component_0/`` and ``component_1/`` are model directories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from wenlu.core.errors import SettingsError
from wenlu.models.config import ModelSettings
from wenlu.models.families._files import HFConfig
from wenlu.models.mixture import Mixture

MODEL_TYPE = "wenlu_mixture"


class MixtureFamily:
    """Implements ``wenlu.models.config.Family``."""

    uses: frozenset[str] = frozenset()

    def build(
        self, settings: ModelSettings, *, vocab_size: int, end_id: int, sequence_length: int, seed: int
    ) -> nn.Module:
        """A mixture is made of finished models.

        Raises:
            SettingsError: ``mixture.no_steps``, which names ``wenlu mix``.
        """
        raise SettingsError("mixture.no_steps", kind=settings.kind)

    def load(self, hf: Mapping[str, object], directory: Path, *, dtype: torch.dtype) -> nn.Module:
        """The mixture of a directory, its components loaded from theirs."""
        from wenlu.models.checkpoint import load_model

        values = HFConfig(hf, directory / "config.json")
        weights = [float(weight) for weight in values.listed("weights", (int, float), "[0.4, 0.6]")]
        components = [load_model(directory / f"component_{number}", dtype=dtype) for number in range(len(weights))]
        return Mixture(components, weights)

    def save(self, model: nn.Module, directory: Path) -> bool:
        """Write the weights, and each component in its own family's format; False for another kind of model."""
        from wenlu.models.checkpoint import save_model

        if not isinstance(model, Mixture):
            return False
        directory.mkdir(parents=True, exist_ok=True)
        config = {"model_type": MODEL_TYPE, "vocab_size": model.vocab_size, "weights": list(model.weights)}
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for number, component in enumerate(model.components):
            save_model(component, directory / f"component_{number}")
        return True


FAMILY = MixtureFamily()
