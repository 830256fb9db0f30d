"""How a model is made fit for an objective: heads that it does not have, ids that it does not say."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from torch import nn

from wenlu.core.errors import SettingsError
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
    config = model.config
    bias = config.head_bias
    if "language_model" in heads - config.heads and model.kind is not None:
        made = family(model.kind)
        if isinstance(made, TransformerFamily):  # a head for words that is added has the bias that its kind has
            bias = made.config(HFConfig(made.written(config), Path("config.json"))).head_bias
    return _remade(model, replace(config, heads=config.heads | heads, head_bias=bias), seed=seed)


def with_ids(model: nn.Module, **ids: int) -> nn.Module:
    """The model, whose config says these ids of special tokens."""
    if isinstance(model, Transformer):
        model.config = replace(model.config, **ids)  # type: ignore[arg-type]  # fields of the config
    return model


def with_task_head(model: nn.Module, head: Head, labels: tuple[str, ...], *, pad_token_id: int, seed: int) -> nn.Module:
    """The model as its kind's class for this head, and no other head; a head for other labels is drawn anew.

    Raises:
        SettingsError: ``tasks.heads`` for a kind that has no class with it.
    """
    kind = family(model.kind) if isinstance(model, Transformer) and model.kind is not None else None
    classes = (
        [heads for heads in kind.architectures.values() if head in heads] if isinstance(kind, TransformerFamily) else []
    )
    if not classes:
        raise SettingsError("tasks.heads", task=head, kind=getattr(model, "kind", type(model).__name__))
    assert isinstance(model, Transformer)
    heads = min(classes, key=len)
    labels = labels if head in ("sequence", "token") else ()
    before, same = model.config, heads <= model.config.heads and labels == model.config.labels
    config = replace(before, heads=heads, labels=labels, pad_token_id=pad_token_id)
    if same and heads == before.heads:
        model.config = config
        return model
    return _remade(model, config, seed=seed, anew=() if same else ("head.classifier",))


def _remade(model: Transformer, config: TransformerConfig, *, seed: int, anew: tuple[str, ...] = ()) -> Transformer:
    """The model with another config: weights of heads that it did not have, or ``anew``, are drawn, and it is said."""
    made = on_meta(config)
    made.kind = model.kind
    parameters = dict(model.named_parameters())
    if all(parameter.is_meta for parameter in parameters.values()):
        return made
    made = made.to_empty(device=next(iter(parameters.values())).device)
    initialize(made, seed=seed, scheme="gpt2")
    wanted = dict(made.named_parameters())
    kept = {name: tensor for name, tensor in parameters.items() if name in wanted and not name.startswith(anew or "?")}
    missing, unexpected = made.load_state_dict(kept, strict=False)
    assert not unexpected and all(name.startswith("head.") for name in missing)
    if missing:
        notice("tasks.new_heads", names=", ".join(sorted({name.split(".")[1] for name in missing})))
    return made
