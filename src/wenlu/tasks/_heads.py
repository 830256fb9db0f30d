"""How a model is made fit for an objective: heads that it does not have, ids that it does not say."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from torch import nn

from wenlu.core.log import notice
from wenlu.models.build import family
from wenlu.models.config import Head, TransformerConfig
from wenlu.models.families._files import HFConfig
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.initialization import initialize
from wenlu.models.transformer import Transformer, on_meta


def with_heads(model: nn.Module, heads: AbstractSet[Head], *, seed: int) -> nn.Module:
    """The model with these heads as well; those that it did not have are drawn from the seed, and it is said.

    Weights of a new model are those that it would have if it had been made with the heads.
    """
    if not isinstance(model, Transformer) or heads <= model.config.heads:
        return model
    made = on_meta(_with_heads(model.config, heads, model.kind))
    made.kind = model.kind
    parameters = dict(model.named_parameters())
    if all(parameter.is_meta for parameter in parameters.values()):
        return made
    made = made.to_empty(device=next(iter(parameters.values())).device)
    initialize(made, seed=seed, scheme="gpt2")
    missing, unexpected = made.load_state_dict(parameters, strict=False)
    assert not unexpected and all(name.startswith("head.") for name in missing)
    notice("tasks.new_heads", names=", ".join(sorted({name.split(".")[1] for name in missing})))
    return made


def _with_heads(config: TransformerConfig, heads: AbstractSet[Head], kind: str | None) -> TransformerConfig:
    """The config with these heads as well; a head for words that is added has the bias that its kind has."""
    bias = config.head_bias
    if "language_model" in heads - config.heads and kind is not None:
        made = family(kind)
        if isinstance(made, TransformerFamily):
            bias = made.config(HFConfig(made.written(config), Path("config.json"))).head_bias
    return replace(config, heads=config.heads | heads, head_bias=bias)


def with_ids(model: nn.Module, **ids: int) -> nn.Module:
    """The model, whose config says these ids of special tokens."""
    if isinstance(model, Transformer):
        model.config = replace(model.config, **ids)  # type: ignore[arg-type]  # fields of the config
    return model
