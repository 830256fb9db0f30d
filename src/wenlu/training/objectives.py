"""What a run's task asks of its settings: a kind of model that it can train, special tokens, rows of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.settings import Resolved, changed, unused_setting
from wenlu.data.loader import Epoch
from wenlu.data.store import Store, TokenStore
from wenlu.models.build import family
from wenlu.models.families._transformer import TransformerFamily
from wenlu.models.roles import architecture, refuse_headless
from wenlu.models.transformer import Transformer
from wenlu.tasks import _held_out
from wenlu.tasks._base import CorpusObjective, Objective
from wenlu.tasks._heads import with_heads
from wenlu.tokenization.hf import Files
from wenlu.tokenization.kinds import END_TOKEN, PAD_TOKEN, TokenizerSettings, untrained
from wenlu.tokenization.tokenizer import Tokenizer
from wenlu.training.settings import RunSettings
from wenlu.training.start import tokenization


def for_objective(resolved: Resolved[RunSettings], task: Objective, model: nn.Module) -> Resolved[RunSettings]:
    """The settings, in which a tokenizer that is trained for the run gets the special tokens of its task.

    What the task cannot use is refused before any text is read; of the model only the shapes are looked at.

    Raises:
        SettingsError: ``tasks.architecture`` for a kind of model that it cannot train, ``core.setting_unused`` for what
            only models of next tokens have, ``tasks.heads`` for a kind that has no place for what it needs,
            ``tasks.window`` for rows that are too short for its marks.
        TokenizerError: ``tasks.token_missing`` for a model to go on from whose tokenizer lacks one of its marks.
        RequestError: ``models.no_vocabulary_head`` for a model to go on from that cannot be given one.
    """
    settings = resolved.value
    wanted = task.architecture if isinstance(task, CorpusObjective) else "decoder"
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
    for key, value in changed(settings.evaluate, "evaluate", ["context", "stride"]).items():
        raise unused_setting(key, value, because=because)
    if isinstance(model, Transformer) and (found == "encoder" or model.main.final_norm is None):
        for key, value in changed(settings.train, "train", ["bigram_steps"]).items():  # a decoder's norm, then its head
            kind = Notice("training.because", {"setting": "model.kind", "value": settings.model.kind})
            raise unused_setting(key, value, because=kind)
    tokens = tuple(dict.fromkeys((*settings.tokenizer.special_tokens, *task.special_tokens())))
    if settings.model.start is None and tokens != settings.tokenizer.special_tokens:
        settings = replace(settings, tokenizer=replace(settings.tokenizer, special_tokens=tokens))
        origins = {**resolved.origins, "tokenizer.special_tokens": f"task {settings.task.name}"}
        resolved = Resolved(settings, origins)
    _refuse_rows(task, settings)
    return resolved


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
    equipped = with_heads(model.to("meta"), task.heads | {"language_model"}, seed=settings.train.seed)
    assert isinstance(equipped, Transformer)
    written = not isinstance(kind, TransformerFamily) or kind.expresses(equipped.config)
    if not written or ("pair" in task.heads and equipped.config.main.num_segments < 2):
        raise SettingsError("tasks.heads", task=settings.task.name, kind=settings.model.kind)


def refuse_no_targets(task: Objective, store: Store, settings: RunSettings) -> None:
    """Refuse validation text that the first evaluation would refuse, if an objective makes rows of its own of it.

    Raises:
        DataError: ``evaluation.no_targets``, ``evaluation.no_documents``.
    """
    if isinstance(task, CorpusObjective) and store.validation.num_tokens:
        limits = [limit for limit in (settings.evaluate.max_tokens, settings.evaluate.final_max_tokens) if limit]
        length, least = settings.train.sequence_length, min(limits, default=0)
        _held_out.refuse_no_targets(task, store.validation, store.tokenizer, sequence_length=length, max_tokens=least)


def own_rows(task: Objective, store: Store, settings: RunSettings) -> Callable[[int], Epoch] | None:
    """How an objective that makes rows of its own makes those of an epoch; None for packed windows."""
    if not isinstance(task, CorpusObjective):
        return None
    train = settings.train

    def epoch(number: int) -> Epoch:
        length, seed = train.sequence_length, train.seed
        return task.epoch(store.train, store.tokenizer, sequence_length=length, seed=seed, epoch=number)

    return epoch
