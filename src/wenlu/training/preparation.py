"""Before the first step: open the corpus, build the model, and decide once what a resume must not decide."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from wenlu.core.errors import CheckpointError, SettingsError, is_out_of_memory
from wenlu.core.log import notice, warn
from wenlu.core.runs import Run
from wenlu.core.settings import Resolved
from wenlu.data.loader import Batches
from wenlu.data.store import Store
from wenlu.data.tokens import prepared_store
from wenlu.models.adapters import add_lora
from wenlu.models.checkpoint import digest
from wenlu.models.device import pick_device
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import Carried, CorpusObjective, Objective
from wenlu.tasks._heads import with_ids
from wenlu.tasks._labelled import LabelledTask
from wenlu.training.bigrams import fit_bigrams
from wenlu.training.compilation import REPAYING_SECONDS, compile_layers, may_compile, repays
from wenlu.training.material import Material, PackedText, open_examples
from wenlu.training.memory import has_room, warn_if_short
from wenlu.training.optimizers import Optimizer
from wenlu.training.resolution import create_model, refuse_other_tokenizer, resolve_settings, settled, tokenization
from wenlu.training.schedules import Pace, Schedule
from wenlu.training.settings import RunSettings
from wenlu.training.trainer import Step, Trainer

_WARMUP_STEPS = 3
_LEAST_MEASURED_STEPS = 10
_LEAST_MEASURED_SECONDS = 2.0
_MEASURED_SHARE = 0.04
_MOST_MEASURED_SECONDS = 10.0
_MOST_BIGRAMS = 0.25  # of a budget in time
_LEAST_PAIRS = 50  # for each token of the vocabulary: fewer are learned by heart (table in docs/en/speed.md)
_MOST_WAITED_SECONDS = 120.0  # where most of the time goes to steps that do not count
_COMPILING = 10  # times the median: a step that took so long compiled something first
_MANY_STEPS = 200  # fewer are not measured for whether compiling repays


@dataclass
class Prepared:
    """Everything that a trainer is made of, with settings that leave nothing open."""

    resolved: Resolved[RunSettings]
    material: Material
    model: nn.Module
    task: Objective
    loader: Batches

    @property
    def settings(self) -> RunSettings:
        """The resolved settings."""
        return self.resolved.value

    @property
    def start(self) -> dict[str, object]:
        """``start`` of ``data.json``, asked before the first step: of a run that goes on from a model, two digests.

        They are of its tokenizer and of its first weights, among which are heads that the task has added. Other runs
        make both from their settings, and say nothing.
        """
        if self.settings.model.start is None:
            return {}
        weights = digest(self.model.named_parameters())
        return {"start": {"weights": weights, "tokenizer": self.material.tokenizer.fingerprint}}

    @property
    def pace(self) -> Pace:
        """What a step is worth, from the settings and the corpus."""
        train, epochs = self.settings.train, self.loader.epochs_at(self.settings.train.accumulation)
        tokens = round(train.batch_size * self.material.tokens_per_row(self.settings) * train.accumulation)
        return Pace(tokens_per_step=tokens, steps_per_epoch=1 / epochs, total_steps=train.steps)

    def settle(self, key: str, origin: str, **values: object) -> None:
        """Decide what the settings left open; see ``settled``."""
        self.resolved = settled(self.resolved, key, origin, **values)

    def trainer(self, model: nn.Module | None = None) -> Trainer:
        """A trainer at step 0, of this model or of a copy; the number of steps must be known."""
        s, train = self.settings, self.settings.train
        model = self.model if model is None else model
        if train.compile:
            compile_layers(model)
        dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
        optimizer = Optimizer(model, s.optimizer, newton_schulz_dtype=dtype)
        schedule = Schedule.of(s.schedule, pace=self.pace)
        carried = None
        if train.layout == "stream":  # a recurrent model carries its state from window to window
            carried = model.new_cache(train.batch_size, train.sequence_length)  # type: ignore[operator]
            assert isinstance(carried, Carried), "a model that reads streams must have a cache that can be saved"
        return Trainer(model, self.task, optimizer, schedule, self.loader, train, carried=carried)


def open_store(settings: RunSettings) -> Store:
    """The packed corpus: a store directory as it is, anything else prepared in the cache.

    Raises:
        SettingsError: ``training.no_data`` without ``data.paths``; ``training.mixed_data`` for a store beside others;
            ``training.start_tokenizer`` for one whose tokens the model that the run goes on from does not have.
    """
    if not settings.data.paths:
        raise SettingsError("training.no_data")
    tokenizer, trained = tokenization(settings)
    store = prepared_store(settings.data, tokenizer=tokenizer, tokenizer_settings=trained)
    refuse_other_tokenizer(settings, store.tokenizer)
    return store


def prepare(resolved: Resolved[RunSettings], *, store: Store | None = None) -> Prepared:
    """Open the corpus, build the model, and resolve what the machine decides; not yet the steps."""
    resolved, task = resolve_settings(resolved)
    material: Material
    if isinstance(task, LabelledTask):
        resolved, material = open_examples(resolved, task)
        task = cast(Objective, material.task)
    else:
        material = PackedText(store or open_store(resolved.value), task)
    settings, tokenizer = resolved.value, material.tokenizer
    train, tokens = settings.train, material.store.train.num_tokens if isinstance(material, PackedText) else None
    model = create_model(settings, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, train_tokens=tokens)
    if settings.model.start is None:
        model = with_ids(model, start_token_id=tokenizer.context_id)
    if isinstance(task, CorpusObjective | LabelledTask):
        model = task.equip(model, tokenizer, seed=train.seed)
    model = add_lora(model, settings.lora, seed=train.seed).to(pick_device(train.device))
    if isinstance(model, Transformer):
        model.attention_backend = "eager" if settings.train.attention == "eager" else "sdpa"
    warn_if_short(model, settings)
    return Prepared(resolved, material, model, task, material.loader(settings))


def prepare_again(
    run: Run, resolved: Resolved[RunSettings], checkpoint: Path | None, *, store: Store | None = None
) -> Prepared:
    """``prepare`` for a run that goes on from a checkpoint, or (None) makes its first weights again.

    The checkpoint stands in for the model that the run once went on from, which nothing else of it depends on.

    Raises:
        CheckpointError: ``training.start_lost``, ``training.start_changed`` where the first weights cannot be made.
    """
    model = resolved.value.model
    start = model.start
    if checkpoint is None:
        if start is not None and not Path(start).exists():
            raise CheckpointError("training.start_lost", path=start)
        prepared = prepare(resolved, store=store)
        found, data = prepared.start, run.data()
        if found and data.get("start", found["start"]) != found["start"]:  # an earlier Wenlu wrote nothing there
            raise CheckpointError("training.start_changed", path=start)
        return prepared
    if start is None:
        return prepare(resolved, store=store)
    stand_in = replace(resolved.value, model=replace(model, start=str(checkpoint.absolute())))
    prepared = prepare(Resolved(stand_in, resolved.origins), store=store)
    prepared.resolved = Resolved(replace(prepared.settings, model=model), prepared.resolved.origins)
    return prepared


def fit_first_weights(prepared: Prepared) -> float:
    """Give a new model what ``train.bigram_steps`` asks for, and fix their number; the seconds that it took."""
    train = prepared.settings.train
    if not train.bigram_steps:
        return 0.0
    assert isinstance(prepared.material, PackedText), "other tasks refuse train.bigram_steps"
    data, vocab_size = prepared.material.store.train, prepared.material.tokenizer.vocab_size
    count = data.num_tokens
    if count < _LEAST_PAIRS * vocab_size:
        notice("training.bigrams_few", tokens=count, vocab_size=vocab_size)
        return 0.0
    budget, limit = train.length, math.inf
    if train.steps is None and budget.unit == "seconds":
        limit = _MOST_BIGRAMS * budget.value
    started = time.perf_counter()
    assert isinstance(prepared.model, Transformer), "other models refuse train.bigram_steps"
    given = {"steps": train.bigram_steps, "seed": train.seed}
    steps = fit_bigrams(prepared.model, data.tokens, **given, limit=limit, borders=(data.end_id, data.context_id))
    if steps != train.bigram_steps:
        prepared.settle("train.bigram_steps", f"budget {train.budget}", bigram_steps=steps)
    return time.perf_counter() - started


def decide_steps(prepared: Prepared) -> float:
    """Make the first weights, and fix whether to compile and the number of steps: as given, or from the budget.

    A time needs a measured speed. It is measured on a copy of the model that is thrown away, so that it leaves no trace
    in the run. Returned are the seconds that the first weights took, which a budget in time has paid.
    """
    spent = fit_first_weights(prepared)
    train, budget, pace = prepared.settings.train, prepared.settings.train.length, prepared.pace
    if train.steps is None and budget.unit != "seconds":
        steps = budget.steps(pace)
        notice("training.length", length=str(budget), steps=steps)
        prepared.settle("train.steps", f"budget {budget}", steps=steps, budget=None)
    if train.compile is None:
        compiled = may_compile(prepared.model) and _compiling_repays(prepared)
        prepared.settle("train.compile", "what repays here", compile=compiled)
    if prepared.settings.train.steps is None:
        seconds = measure_seconds_per_step(prepared, budget.value)
        left = replace(budget, value=max(0.0, budget.value - spent))
        steps = left.steps(replace(pace, seconds_per_step=seconds))
        notice("training.budget", budget=train.budget, milliseconds=seconds * 1000, steps=steps)
        origin = f"budget {train.budget} at {seconds:.4g} s a step, measured once"
        prepared.settle("train.steps", origin, steps=steps, budget=None)
    return spent


def _compiling_repays(prepared: Prepared) -> bool:
    """Whether a run saves more time than it costs to compile its model. Only a long one is measured for it."""
    steps, seconds = prepared.settings.train.steps, prepared.settings.train.length.value
    if seconds < REPAYING_SECONDS if steps is None else steps < _MANY_STEPS:
        return False
    short = 0.0 if steps is None else REPAYING_SECONDS / 2 / steps

    def measure(compile: bool) -> float:
        tried = settled(prepared.resolved, "train.compile", "trial", compile=compile)
        return measure_seconds_per_step(replace(prepared, resolved=tried), 0.0, short=short)

    try:
        if not has_room(prepared.model, prepared.settings, copies=1):
            raise MemoryError
        eager = measure(False)
        return repays(seconds if steps is None else steps * eager, measure, seconds_per_step=eager)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        warn("training.compilation_no_memory")
        return False


def measure_seconds_per_step(prepared: Prepared, budget_seconds: float, *, short: float = 0.0) -> float:
    """Mean seconds of a step, of a copy of the model that is thrown away; see ``mean_seconds``."""
    endless = settled(prepared.resolved, "train.steps", "trial", steps=1_000_000)
    trial = replace(prepared, resolved=endless, model=copy.deepcopy(prepared.model))
    return mean_seconds(trial.trainer(), budget_seconds, short=short)


def mean_seconds(steps: Iterable[Step], budget_seconds: float, *, short: float = 0.0) -> float:
    """Mean seconds of a step after a few to warm up; takes 4 % of the budget, 2 to 10 seconds, or twice that.

    Left out are steps that compiled something first, as for the first batch with a mask. Where a step takes less than
    ``short`` seconds, the last one to warm up must do.
    """
    allowed = min(max(_LEAST_MEASURED_SECONDS, _MEASURED_SHARE * budget_seconds), _MOST_MEASURED_SECONDS)
    taken: list[float] = []
    usual: list[float] = []
    for step in steps:
        taken.append(step.seconds)
        if len(taken) == _WARMUP_STEPS and step.seconds < short:
            return step.seconds
        if (waited := sum(taken[_WARMUP_STEPS:])) >= allowed:
            most = _COMPILING * statistics.median_low(taken)
            usual = [seconds for seconds in taken[_WARMUP_STEPS:] if seconds < most]
            wanted = allowed if len(usual) >= _LEAST_MEASURED_STEPS else 2 * allowed
            if usual and (sum(usual) >= wanted or waited >= _MOST_WAITED_SECONDS):
                break
    return statistics.fmean(usual)
