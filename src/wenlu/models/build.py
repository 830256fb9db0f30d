"""From the ``[model]`` table to a model: the kind is the name of a file in ``models/families``, or an entry point."""

from __future__ import annotations

from typing import cast

from torch import nn

from wenlu.core import plugins
from wenlu.models.config import Family, ModelSettings

FAMILIES = "wenlu.models.families"


def family(kind: str) -> Family:
    """The kind of model with this name.

    Raises:
        SettingsError: ``core.unknown_plugin`` with the nearest name.
    """
    return cast(Family, plugins.load(FAMILIES, kind).FAMILY)


def build_model(
    settings: ModelSettings, *, vocab_size: int, end_id: int, sequence_length: int, seed: int = 0
) -> nn.Module:
    """A new model of the kind that the settings name, its weights drawn from the seed.

    Raises:
        SettingsError: ``models.setting_unused`` for a setting that the kind does not read; ``models.*`` for sizes and
            choices that contradict each other.
    """
    kind = family(settings.kind)
    settings.refuse_unused(kind.uses)
    return kind.build(settings, vocab_size=vocab_size, end_id=end_id, sequence_length=sequence_length, seed=seed)
