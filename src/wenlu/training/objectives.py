"""What a run's task asks of its settings: a kind of model that it can train, special tokens, rows of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.runs import resolve_model
from wenlu.core.settings import Resolved, changed, unused_setting
from wenlu.data.loader import Epoch
from wenlu.data.store import Store
from wenlu.models.build import build_model, family
from wenlu.models.checkpoint import load_model
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.roles import architecture, refuse_headless
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import CorpusObjective, Objective
from wenlu.tasks._heads import with_heads
from wenlu.training.settings import RunSettings

_ANY_SIZE = 16  # of the vocabulary of a model whose architecture is asked


def for_objective(resolved: Resolved[RunSettings], task: Objective) -> Resolved[RunSettings]:
    """The settings, in which a tokenizer that is trained for the run gets the special tokens of its task.

    What the task cannot use is refused before any text is read.

    Raises:
        SettingsError: ``tasks.architecture`` for a kind of model that it cannot train, ``core.setting_unused`` for what
            only models of next tokens have, ``tasks.heads`` for a kind that has no place for what it needs.
        RequestError: ``models.no_vocabulary_head`` for a model to go on from that cannot be given one.
    """
    settings = resolved.value
    wanted = task.architecture if isinstance(task, CorpusObjective) else "decoder"
    with torch.device("meta"):
        sizes = {"sequence_length": settings.train.sequence_length, "seed": settings.train.seed}
        start = settings.model.start
        if start is None:
            model = build_model(settings.model, vocab_size=_ANY_SIZE, end_id=0, **sizes)
        else:
            model = load_model(resolve_model(start))
    found = architecture(model)
    if found != wanted:
        raise SettingsError(
            "tasks.architecture", task=settings.task.name, kind=settings.model.kind, found=found, wanted=wanted
        )
    if isinstance(model, Transformer):
        if found != "encoder" or model.config.head_transform is None:  # no other would be read again with what it lacks
            refuse_headless(model)
        if isinstance(task, CorpusObjective):
            _refuse_homeless_heads(model, task, settings)
    if not isinstance(task, CorpusObjective):
        return resolved
    because = Notice("training.because", {"setting": "task.name", "value": settings.task.name})
    if settings.train.layout == "stream":
        raise unused_setting("model.kind", settings.model.kind, because=because)
    unused = changed(settings.train, "train", ["bigram_steps"])
    unused |= changed(settings.evaluate, "evaluate", ["context", "stride"])
    for key, value in unused.items():
        raise unused_setting(key, value, because=because)
    if settings.model.start is not None:  # has a tokenizer
        return resolved
    tokenizer = settings.tokenizer
    tokens = tuple(dict.fromkeys((*tokenizer.special_tokens, *task.special_tokens())))
    if tokens == tokenizer.special_tokens:
        return resolved
    settings = replace(settings, tokenizer=replace(tokenizer, special_tokens=tokens))
    return Resolved(settings, {**resolved.origins, "tokenizer.special_tokens": f"task {settings.task.name}"})


def _refuse_homeless_heads(model: Transformer, task: CorpusObjective, settings: RunSettings) -> None:
    """Refuse a model whose kind cannot write the heads of the task, or cannot tell the two parts of a pair apart."""
    kind = family(settings.model.kind)
    equipped = with_heads(model.to("meta"), task.heads | {"language_model"}, seed=settings.train.seed)
    assert isinstance(equipped, Transformer)
    written = not isinstance(kind, TransformerFamily) or kind.expresses(equipped.config)
    if not written or ("pair" in task.heads and equipped.config.main.num_segments < 2):
        raise SettingsError("tasks.heads", task=settings.task.name, kind=settings.model.kind)


def own_rows(task: Objective, store: Store, settings: RunSettings) -> Callable[[int], Epoch] | None:
    """How an objective that makes rows of its own makes those of an epoch; None for packed windows."""
    if not isinstance(task, CorpusObjective):
        return None
    train = settings.train

    def epoch(number: int) -> Epoch:
        length, seed = train.sequence_length, train.seed
        return task.epoch(store.train, store.tokenizer, sequence_length=length, seed=seed, epoch=number)

    return epoch
