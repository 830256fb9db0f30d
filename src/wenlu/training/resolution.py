"""The settings of a run, resolved: what its machine, its task and the model that it goes on from make of them.

What nothing could use is refused here, before any text is read; of the model only the shapes are looked at. A run goes
on from a model that is there where ``model.start`` names it: kind, sizes and tokenizer are then its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from wenlu.bundle import load_bundle
from wenlu.core import plugins
from wenlu.core.errors import DataError, SettingsError
from wenlu.core.log import Notice, notice
from wenlu.core.runs import resolve_model
from wenlu.core.settings import Resolved, changed, refuse_changed, unused_setting
from wenlu.data.store import Store, TokenStore
from wenlu.models.adapters import add_lora
from wenlu.models.build import build_model, family
from wenlu.models.checkpoint import load_model, read_kind
from wenlu.models.config import LanguageModel, ModelSettings
from wenlu.models.device import describe_device, pick_device
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.roles import Architecture, architecture, refuse_headless
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import CorpusObjective, Objective, TaskSettings
from wenlu.tasks._heads import with_heads
from wenlu.tasks._labelled import LabelledTask
from wenlu.tokenization.hf import Files
from wenlu.tokenization.kinds import END_TOKEN, PAD_TOKEN, untrained
from wenlu.tokenization.tokenizer import Tokenizer, TokenizerSettings
from wenlu.training.optimizers import parameter_roles, refuse_layers
from wenlu.training.precision import resolve_machine
from wenlu.training.settings import RunSettings

_RECURRENT_KINDS = frozenset({"lstm"})
_ANY_SIZE = 16  # of the vocabulary of a model that is only looked at


def resolve_settings(resolved: Resolved[RunSettings]) -> tuple[Resolved[RunSettings], Objective]:
    """What the machine decides, and the task; what is wrong is said before the corpus is read."""
    resolved = _for_machine(_one_length(_from_start(resolved)))
    resolved.value.model.refuse_unused(family(resolved.value.model.kind).uses)
    task = create_task(resolved.value.task)
    with torch.device("meta"):
        model = create_model(resolved.value, vocab_size=_ANY_SIZE, end_id=0, train_tokens=None)
    resolved = _for_objective(resolved, task, model)
    return _fit_to_model(resolved, add_lora(model, resolved.value.lora, seed=0)), task


def settled(resolved: Resolved[RunSettings], key: str, origin: str, **values: object) -> Resolved[RunSettings]:
    """The settings with other values in the table of ``key``, and where the one of this key came from."""
    table = key.partition(".")[0]
    tables = {table: replace(getattr(resolved.value, table), **values)}
    return Resolved(replace(resolved.value, **tables), {**resolved.origins, key: origin})


def create_task(settings: TaskSettings) -> Objective:
    """The task that the settings name.

    Raises:
        SettingsError: ``core.unknown_plugin`` with the nearest name.
    """
    create = cast(Callable[[TaskSettings], Objective], plugins.load("wenlu.tasks", settings.name).create)
    return create(settings)


def create_model(settings: RunSettings, *, vocab_size: int, end_id: int, train_tokens: int | None) -> nn.Module:
    """The model that a run begins with, where torch makes tensors now; one that is there, ready to be trained."""
    if train_tokens == 0:
        raise DataError("data.empty_split")
    if settings.model.start is None:
        sizes = {"sequence_length": settings.train.sequence_length, "seed": settings.train.seed}
        return build_model(settings.model, vocab_size=vocab_size, end_id=end_id, **sizes)
    if torch.get_default_device().type == "meta":
        return load_model(resolve_model(settings.model.start)).to("meta")
    return load_bundle(settings.model.start).model.train()


def tokenization(settings: RunSettings) -> tuple[Tokenizer | None, TokenizerSettings | None]:
    """The tokenizer of the model that a run goes on from; without one, how to train it."""
    if settings.model.start is None:
        return None, settings.tokenizer
    return Tokenizer.load(resolve_model(settings.model.start)), None


def refuse_other_tokenizer(settings: RunSettings, tokenizer: Tokenizer) -> None:
    """Refuse a packed store whose ids mean other tokens to the model that the run goes on from.

    Raises:
        SettingsError: ``training.start_tokenizer``.
    """
    start, _ = tokenization(settings)
    if start is not None and start.fingerprint != tokenizer.fingerprint:
        raise SettingsError("training.start_tokenizer", start=settings.model.start, store=settings.data.paths[0])


def refuse_unread_by_store(resolved: Resolved[RunSettings]) -> None:
    """A packed store has its tokenizer and its cleaning behind it: refuse settings of theirs that a user gave.

    Raises:
        SettingsError: ``core.setting_unused``.
    """
    data, tokenizer = resolved.value.data, resolved.value.tokenizer
    if data.paths and Store.is_store(Path(data.paths[0])):
        unread = changed(data, "data", [field.name for field in fields(data) if field.name != "paths"])
        unread |= changed(tokenizer, "tokenizer", [field.name for field in fields(tokenizer)])
        _refuse_given(resolved, unread, "data.paths", data.paths[0])


def absolute_paths(resolved: Resolved[RunSettings]) -> Resolved[RunSettings]:
    """The settings with absolute paths, so that a run goes on from wherever it is resumed."""
    data = resolved.value.data
    absolute: dict[str, Any] = {
        name: tuple(str(Path.cwd() / Path(path).expanduser()) for path in getattr(data, name))
        for name in ("paths", "validation_paths", "test_paths")
    }
    return Resolved(replace(resolved.value, data=replace(data, **absolute)), resolved.origins)


def check_windows(settings: RunSettings, max_positions: int | None) -> None:
    """Refuse now what the first evaluation would refuse after a share of the run.

    Raises:
        SettingsError: ``training.range``.
    """
    context = settings.evaluate.context or settings.train.sequence_length
    setting = "evaluate.context" if settings.evaluate.context else "train.sequence_length"
    bounds = f"<= model.max_positions = {max_positions}"
    for name, length in ((setting, context), ("task.max_length", getattr(settings.task, "max_length", 0))):
        if max_positions is not None and length > max_positions:
            raise SettingsError("training.range", setting=name, value=length, bounds=bounds)
    if settings.evaluate.stride > context:
        bounds = f"<= {setting} = {context}"
        raise SettingsError("training.range", setting="evaluate.stride", value=settings.evaluate.stride, bounds=bounds)


def _refuse_given(resolved: Resolved[RunSettings], unread: Mapping[str, object], setting: str, value: object) -> None:
    """Refuse what the user said, and not a preset, of settings that are unread because of another one."""
    for key, said in unread.items():
        if resolved.given(key):
            because = Notice("training.because", {"setting": setting, "value": value})
            raise unused_setting(key, said, because=because)


def _from_start(resolved: Resolved[RunSettings]) -> Resolved[RunSettings]:
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
    said = changed(settings.tokenizer, "tokenizer", [field.name for field in fields(settings.tokenizer)])
    said |= changed(settings.train, "train", ["bigram_steps"])
    theirs = changed(settings.model, "model", [field.name for field in fields(model) if field.name != "start"])
    said |= {key: value for key, value in theirs.items() if value != getattr(model, key.removeprefix("model."))}
    _refuse_given(resolved, said, "model.start", path)
    train = replace(settings.train, bigram_steps=0)
    origins = {key: origin for key, origin in resolved.origins.items() if key not in said}
    origins["model.kind"] = "model.start"
    return Resolved(replace(settings, model=model, train=train, tokenizer=TokenizerSettings()), origins)


def _one_length(resolved: Resolved[RunSettings]) -> Resolved[RunSettings]:
    """The settings with ``train.steps`` or ``train.budget``, whichever came from the later source, and not the other.

    Decided before ``run.toml`` is first written, which would make one source of the two.

    Raises:
        SettingsError: ``training.steps_and_budget`` when one source gave both.
    """
    train = resolved.value.train
    if train.steps is None or train.budget is None:
        return resolved
    steps, budget = resolved.rank("train.steps"), resolved.rank("train.budget")
    if steps == budget:
        raise SettingsError("training.steps_and_budget", steps=train.steps, budget=train.budget)
    one = replace(train, budget=None) if steps > budget else replace(train, steps=None)
    return Resolved(replace(resolved.value, train=one), resolved.origins)


def _for_machine(resolved: Resolved[RunSettings]) -> Resolved[RunSettings]:
    """Fill in what the machine and the kind of model decide."""
    before, kind = resolved.value.train, resolved.value.model.kind
    recurrent = kind in _RECURRENT_KINDS
    if recurrent:
        # Documents cut windows into pieces of every length, for each of which oneDNN compiles and keeps kernels: the
        # process grew by 8 MB a step. It reads this once, before its first kernel; compiling anew takes 2 % longer.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    train = resolve_machine(before)
    because = Notice("training.because", {"setting": "model.kind", "value": kind})
    for name in ("attention", "compile", "bigram_steps") if recurrent else ("layout",):
        if (value := getattr(train, name)) and value not in ("auto", "packed"):
            raise unused_setting(f"train.{name}", value, because=because)
    if train.layout == "auto":
        train = replace(train, layout="stream" if recurrent else "packed")
    if train.attention == "auto" and not recurrent:
        train = replace(train, attention="sdpa")
    if train.device == "cuda" and before.device == "auto":
        notice("training.device", device=describe_device(pick_device("cuda")))
    if train.device == "cpu":
        because = Notice("training.because", {"setting": "train.device", "value": "cpu"})
        refuse_changed(train, "train", ["deterministic"], because=because)
    for name in ("device", "precision", "threads", "layout", "attention"):
        if (value := getattr(train, name)) != getattr(before, name):
            resolved = settled(resolved, f"train.{name}", "this machine", **{name: value})
    return resolved


def _for_objective(resolved: Resolved[RunSettings], task: Objective, model: nn.Module) -> Resolved[RunSettings]:
    """The settings, in which a tokenizer that is trained for the run gets the special tokens of its task.

    Raises:
        SettingsError: ``tasks.architecture`` for a kind of model that it cannot train, ``core.setting_unused`` for what
            only models of next tokens have, ``tasks.heads`` for a kind that has no place for what it needs,
            ``tasks.window`` for rows that are too short for its marks.
        TokenizerError: ``tasks.token_missing`` for a model to go on from whose tokenizer lacks one of its marks.
        RequestError: ``models.no_vocabulary_head`` for a model to go on from that cannot be given one.
    """
    settings, name = resolved.value, resolved.value.task.name
    refuse_layers(model, settings)
    wanted: frozenset[Architecture] = frozenset({"decoder"})
    if isinstance(task, LabelledTask):
        wanted = task.architectures
    elif isinstance(task, CorpusObjective):
        wanted = frozenset({task.architecture})
    found, kind = architecture(model), settings.model.kind
    if found not in wanted:
        raise SettingsError("tasks.architecture", task=name, kind=kind, found=found, wanted=", ".join(sorted(wanted)))
    if isinstance(task, LabelledTask):
        _refuse_unread_by_labels(resolved, model)
        return resolved
    if isinstance(model, Transformer):
        if found != "encoder" or model.config.head_transform is None:  # no other would be read again with what it lacks
            refuse_headless(model)
        if isinstance(task, CorpusObjective):
            _refuse_homeless_heads(model, task, settings)
    if not isinstance(task, CorpusObjective):
        return resolved
    because = Notice("training.because", {"setting": "task.name", "value": name})
    if settings.train.layout == "stream":
        raise unused_setting("model.kind", kind, because=because)
    refuse_changed(settings.evaluate, "evaluate", ["context", "stride"], because=because)
    if isinstance(model, Transformer) and (found == "encoder" or model.main.final_norm is None):
        because = Notice("training.because", {"setting": "model.kind", "value": kind})
        refuse_changed(settings.train, "train", ["bigram_steps"], because=because)  # a decoder's norm, then its head
    tokens = tuple(dict.fromkeys((*settings.tokenizer.special_tokens, *task.special_tokens())))
    if settings.model.start is None and tokens != settings.tokenizer.special_tokens:
        resolved = settled(resolved, "tokenizer.special_tokens", f"task {name}", special_tokens=tokens)
    _refuse_rows(task, resolved.value)
    return resolved


def _refuse_unread_by_labels(resolved: Resolved[RunSettings], model: nn.Module) -> None:
    """Refuse what only a run on text reads."""
    settings = resolved.value
    if not isinstance(model, Transformer):
        because = Notice("training.because", {"setting": "task.name", "value": settings.task.name})
        raise unused_setting("model.kind", settings.model.kind, because=because)
    unread = changed(settings.train, "train", ["bigram_steps"])
    unread |= changed(settings.evaluate, "evaluate", ["context", "stride", "max_tokens", "final_max_tokens"])
    read = ("paths", "validation_paths", "validation_fraction", "encoding")
    unread |= changed(settings.data, "data", [one.name for one in fields(settings.data) if one.name not in read])
    _refuse_given(resolved, unread, "task.name", settings.task.name)


def _refuse_rows(task: CorpusObjective, settings: RunSettings) -> None:
    """Refuse rows that are too short for their marks, and a tokenizer without these, by an epoch of an empty text."""
    tokenizer, _ = tokenization(settings)
    if tokenizer is None:  # in place of the one that will be trained: its marks, and no other token
        library = untrained(TokenizerSettings("bpe"))
        library.add_special_tokens([END_TOKEN, PAD_TOKEN, *task.special_tokens()])
        tokenizer = Tokenizer(Files(library, END_TOKEN, PAD_TOKEN, None))
    end_id = tokenizer.end_id
    store = TokenStore.from_documents([[end_id]], end_id=end_id, vocab_size=tokenizer.vocab_size)
    task.epoch(store, tokenizer, sequence_length=settings.train.sequence_length, seed=0, epoch=0)


def _refuse_homeless_heads(model: Transformer, task: CorpusObjective, settings: RunSettings) -> None:
    """Refuse a model whose kind cannot write the heads of the task, or cannot tell the two parts of a pair apart."""
    kind = family(settings.model.kind)
    equipped = cast(Transformer, with_heads(model.to("meta"), task.heads | {"language_model"}, seed=0))
    written = not isinstance(kind, TransformerFamily) or kind.expresses(equipped.config)
    if not written or ("pair" in task.heads and equipped.config.main.num_segments < 2):
        raise SettingsError("tasks.heads", task=settings.task.name, kind=settings.model.kind)


def _fit_to_model(resolved: Resolved[RunSettings], model: nn.Module) -> Resolved[RunSettings]:
    """Refuse what the model, or its evaluation, could not use; what a preset says for another's head is left out.

    Raises:
        SettingsError: ``core.setting_unused``, ``training.range``.
    """
    if "head" not in parameter_roles(model).values():
        if resolved.value.model.start is not None and not resolved.given("optimizer.head_rate"):
            resolved = settled(resolved, "optimizer.head_rate", "model.start", head_rate=None)
        because = Notice("training.because", {"setting": "model.tie_embeddings", "value": "true"})
        refuse_changed(resolved.value.optimizer, "optimizer", ["head_rate"], because=because)
        refuse_changed(resolved.value.train, "train", ["bigram_steps"], because=because)
    check_windows(resolved.value, cast(LanguageModel, model).max_positions)
    return resolved
