"""Going on from a model that is there: ``model.start`` names it, and kind, sizes and tokenizer are then its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from wenlu.bundle import load_bundle
from wenlu.core.errors import CheckpointError, SettingsError
from wenlu.core.log import Notice
from wenlu.core.runs import resolve_model
from wenlu.core.settings import Resolved, changed, unused_setting
from wenlu.models.build import family
from wenlu.models.checkpoint import load_model, read_kind
from wenlu.models.config import ModelSettings
from wenlu.models.families._transformer import TransformerFamily
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.settings import RunSettings
from wenlu.training.state import digest


def from_start(resolved: Resolved[RunSettings]) -> Resolved[RunSettings]:
    """The settings of a run that goes on from a model: what a preset says of another model is left out.

    Raises:
        SettingsError: ``core.setting_unused`` for what a user says of the model or of its tokenizer,
            ``training.start_kind`` for what is not a Transformer, ``training.lora_start`` for LoRA without a model.
        CheckpointError: there is no such model, or of no kind known here.
    """
    settings = resolved.value
    if settings.model.start is None:
        if settings.lora.rank:
            raise SettingsError("training.lora_start", rank=settings.lora.rank)
        return resolved
    path = resolve_model(settings.model.start)
    model = ModelSettings(kind=read_kind(path)[1], start=str(path.absolute()))
    if not isinstance(family(model.kind), TransformerFamily):
        raise SettingsError("training.start_kind", start=path)
    because = Notice("training.because", {"setting": "model.start", "value": path})
    said = changed(settings.tokenizer, "tokenizer", [field.name for field in fields(settings.tokenizer)])
    said |= changed(settings.train, "train", ["bigram_steps"])
    for field in fields(model):
        value = getattr(settings.model, field.name)
        if field.name != "start" and value not in (field.default, getattr(model, field.name)):
            said[f"model.{field.name}"] = value
    for key, value in said.items():
        if resolved.given(key):
            raise unused_setting(key, value, because=because)
    train = replace(settings.train, bigram_steps=0)
    origins = {key: origin for key, origin in resolved.origins.items() if key not in said}
    origins["model.kind"] = "model.start"
    return Resolved(replace(settings, model=model, train=train, tokenizer=TokenizerSettings()), origins)


def tokenization(settings: RunSettings) -> tuple[Tokenizer | None, TokenizerSettings | None]:
    """The tokenizer of the model that a run goes on from; without one, how to train it."""
    if settings.model.start is None:
        return None, settings.tokenizer
    return Tokenizer.load(resolve_model(settings.model.start)), None


def refuse_other_tokenizer(settings: RunSettings, tokenizer: Tokenizer) -> None:
    """Refuse a packed store whose ids mean other tokens to the model.

    Raises:
        SettingsError: ``training.start_tokenizer``.
    """
    start, _ = tokenization(settings)
    if start is not None and start.fingerprint != tokenizer.fingerprint:
        raise SettingsError("training.start_tokenizer", start=settings.model.start, store=settings.data.paths[0])


def load_start(path: str) -> nn.Module:
    """The model itself, ready to be trained; its shapes alone where torch makes tensors of the meta device now."""
    if torch.get_default_device().type == "meta":
        return load_model(resolve_model(path)).to("meta")
    return load_bundle(path).model.train()


def describe_start(settings: RunSettings, model: nn.Module, tokenizer: Tokenizer) -> dict[str, object]:
    """``start`` of ``data.json``: digests of the first weights and of the tokenizer of a run that goes on from a model.

    Heads that the task has added count as weights. Other runs make both from their settings, and say nothing.
    """
    if settings.model.start is None:
        return {}
    return {"start": {"weights": digest(model.named_parameters()), "tokenizer": tokenizer.fingerprint}}


def refuse_lost_start(settings: RunSettings) -> None:
    """Refuse to make the first weights again without the model that they came from.

    Raises:
        CheckpointError: ``training.start_lost``.
    """
    if settings.model.start is not None and not Path(settings.model.start).exists():
        raise CheckpointError("training.start_lost", path=settings.model.start)


def refuse_changed_start(found: Mapping[str, object], data: Mapping[str, object], settings: RunSettings) -> None:
    """Refuse first weights that are not those that ``data.json`` tells of; an earlier Wenlu wrote nothing there.

    Raises:
        CheckpointError: ``training.start_changed``.
    """
    if "start" in data and found and found["start"] != data["start"]:
        raise CheckpointError("training.start_changed", path=settings.model.start)
