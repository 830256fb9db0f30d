"""mT5 (Xue et al. 2021): T5 v1.1 with a vocabulary of many languages; nothing is scaled before the output matrix."""

from __future__ import annotations

from dataclasses import replace

from wenlu.models.config import ModelSettings, TransformerConfig
from wenlu.models.families import t5
from wenlu.models.families._files import HFConfig


def config(hf: HFConfig) -> TransformerConfig:
    """Read a config.json."""
    return replace(t5.config(hf), head_scale=1.0)


def settings_to_config(settings: ModelSettings, vocab_size: int, sequence_length: int) -> TransformerConfig:
    """The config of a new model."""
    return replace(t5.settings_to_config(settings, vocab_size, sequence_length), head_scale=1.0)


FAMILY = replace(
    t5.FAMILY,
    model_type="mt5",
    config=config,
    settings_to_config=settings_to_config,
    architectures={"MT5ForConditionalGeneration": frozenset({"language_model"})},
)
