"""Before the first step: open the corpus, build the model, and decide once what a resume must not decide."""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from wenlu.core import plugins
from wenlu.core.errors import DataError, SettingsError, is_out_of_memory
from wenlu.core.log import Notice, notice, warn
from wenlu.core.runs import Run
from wenlu.core.settings import Resolved, changed, unused_setting
from wenlu.data.loader import Loader
from wenlu.data.store import Store
from wenlu.data.tokens import prepared_store
from wenlu.models.adapters import add_lora
from wenlu.models.build import build_model, family
from wenlu.models.config import LanguageModel
from wenlu.models.device import describe_device, pick_device
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import Carried, CorpusObjective, Objective, TaskSettings
from wenlu.tasks._heads import with_ids
from wenlu.training.bigrams import fit_bigrams
from wenlu.training.compilation import REPAYING_SECONDS, compile_layers, may_compile, repays
from wenlu.training.duration import Pace
from wenlu.training.memory import has_room, warn_if_short
from wenlu.training.objectives import for_objective, own_rows
from wenlu.training.optimizers import Optimizer, parameter_roles
from wenlu.training.precision import newton_schulz_dtype, resolve_machine
from wenlu.training.schedules import Schedule
from wenlu.training.settings import RunSettings
from wenlu.training.start import (
    describe_start,
    from_start,
    load_start,
    refuse_changed_start,
    refuse_lost_start,
    refuse_other_tokenizer,
    tokenization,
)
from wenlu.training.trainer import Step, Trainer

RECURRENT_KINDS = frozenset({"lstm"})
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
_ANY_SIZE = 16  # of the vocabulary of a model that is only looked at


@dataclass
class Prepared:
    """Everything that a trainer is made of, with settings that leave nothing open."""

    resolved: Resolved[RunSettings]
    store: Store
    model: nn.Module
    task: Objective
    loader: Loader

    @property
    def settings(self) -> RunSettings:
        """The resolved settings."""
        return self.resolved.value

    @property
    def start(self) -> dict[str, object]:
        """What ``data.json`` says of the model that the run goes on from; asked before the first step."""
        return describe_start(self.settings, self.model, self.store.tokenizer)

    @property
    def pace(self) -> Pace:
        """What a step is worth, from the settings and the corpus."""
        train = self.settings.train
        epochs_per_step = self.loader.epochs_at(train.accumulation)
        tokens = train.batch_size * train.sequence_length * train.accumulation
        return Pace(tokens_per_step=tokens, steps_per_epoch=1 / epochs_per_step, total_steps=train.steps)

    def trainer(self, model: nn.Module | None = None) -> Trainer:
        """A trainer at step 0, of this model or of a copy; the number of steps must be known."""
        s = self.settings
        model = self.model if model is None else model
        if s.train.compile:
            compile_layers(model)
        optimizer = Optimizer(model, s.optimizer, newton_schulz_dtype=newton_schulz_dtype(s.train.precision))
        schedule = Schedule.of(s.schedule, pace=self.pace)
        carried = new_carried(model, s)
        return Trainer(model, self.task, optimizer, schedule, self.loader, s.train, carried=carried)


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


def refuse_unread_by_store(resolved: Resolved[RunSettings]) -> None:
    """A packed store has its tokenizer and its cleaning behind it: refuse settings of theirs that a user gave.

    Raises:
        SettingsError: ``core.setting_unused``.
    """
    settings = resolved.value
    if not (settings.data.paths and Store.is_store(Path(settings.data.paths[0]))):
        return
    because = Notice("training.because", {"setting": "data.paths", "value": settings.data.paths[0]})
    for table, name in ((settings.data, "data"), (settings.tokenizer, "tokenizer")):
        keys = [field.name for field in fields(table) if field.name != "paths"]
        for key, value in changed(table, name, keys).items():
            if resolved.given(key):
                raise unused_setting(key, value, because=because)


def absolute_paths(resolved: Resolved[RunSettings]) -> Resolved[RunSettings]:
    """The settings with absolute paths, so that a run goes on from wherever it is resumed."""
    data = resolved.value.data
    absolute = replace(
        data,
        paths=_absolute(data.paths),
        validation_paths=_absolute(data.validation_paths),
        test_paths=_absolute(data.test_paths),
    )
    return Resolved(replace(resolved.value, data=absolute), resolved.origins)


def _absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(Path.cwd() / Path(path).expanduser()) for path in paths)


def create_task(settings: TaskSettings) -> Objective:
    """The task that the settings name.

    Raises:
        SettingsError: ``core.unknown_plugin`` with the nearest name.
    """
    create = cast(Callable[[TaskSettings], Objective], plugins.load("wenlu.tasks", settings.name).create)
    return create(settings)


def new_carried(model: nn.Module, settings: RunSettings) -> Carried | None:
    """The state a model carries from window to window in the stream layout."""
    if settings.train.layout != "stream":
        return None
    cache = model.new_cache(settings.train.batch_size, settings.train.sequence_length)  # type: ignore[operator]
    assert isinstance(cache, Carried), "a model that reads streams must have a cache that can be saved"
    return cache


def prepare(resolved: Resolved[RunSettings], *, store: Store | None = None) -> Prepared:
    """Open the corpus, build the model, and resolve what the machine decides; not yet the steps."""
    resolved, task = resolve_settings(resolved)
    settings, train = resolved.value, resolved.value.train
    store = store or open_store(settings)
    tokenizer, tokens = store.tokenizer, store.train.num_tokens
    model = create_model(settings, vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id, train_tokens=tokens)
    if settings.model.start is None:
        model = with_ids(model, start_token_id=tokenizer.context_id)
    if isinstance(task, CorpusObjective):
        model = task.equip(model, tokenizer, seed=train.seed)
    model = add_lora(model, settings.lora, seed=train.seed).to(pick_device(train.device))
    if isinstance(model, Transformer):
        model.attention_backend = "eager" if train.attention == "eager" else "sdpa"
    assert train.layout != "auto"
    warn_if_short(model, settings)
    loader = Loader(
        store.train,
        sequence_length=train.sequence_length,
        batch_size=train.batch_size,
        seed=train.seed,
        layout=train.layout,
        num_workers=train.num_workers,
        make_epoch=own_rows(task, store, settings),
    )
    return Prepared(resolved, store, model, task, loader)


def prepare_again(
    run: Run, resolved: Resolved[RunSettings], checkpoint: Path | None, *, store: Store | None = None
) -> Prepared:
    """``prepare`` for a run that goes on from a checkpoint, or (None) makes its first weights again.

    The checkpoint stands in for the model that the run once went on from, which nothing else of it depends on.

    Raises:
        CheckpointError: ``training.start_lost``, ``training.start_changed`` where the first weights cannot be made.
    """
    settings = resolved.value
    if checkpoint is None:
        refuse_lost_start(settings)
        prepared = prepare(resolved, store=store)
        refuse_changed_start(prepared.start, run.data(), settings)
        return prepared
    if settings.model.start is None:
        return prepare(resolved, store=store)
    stand_in = replace(settings, model=replace(settings.model, start=str(checkpoint.absolute())))
    prepared = prepare(Resolved(stand_in, resolved.origins), store=store)
    prepared.resolved = Resolved(replace(prepared.settings, model=settings.model), prepared.resolved.origins)
    return prepared


def resolve_settings(resolved: Resolved[RunSettings]) -> tuple[Resolved[RunSettings], Objective]:
    """What the machine decides, and the task; what is wrong is said before the corpus is read."""
    resolved = resolve_for_machine(one_length(from_start(resolved)))
    resolved.value.model.refuse_unused(family(resolved.value.model.kind).uses)
    task = create_task(resolved.value.task)
    with torch.device("meta"):
        model = create_model(resolved.value, vocab_size=_ANY_SIZE, end_id=0, train_tokens=None)
    resolved = for_objective(resolved, task, model)
    return fit_to_model(resolved, add_lora(model, resolved.value.lora, seed=0)), task


def fit_to_model(resolved: Resolved[RunSettings], model: nn.Module) -> Resolved[RunSettings]:
    """Refuse what the model, or its evaluation, could not use; what a preset says for another's head is left out.

    Raises:
        SettingsError: ``core.setting_unused``, ``training.range``.
    """
    settings = resolved.value
    if "head" not in parameter_roles(model).values():
        rate, bigrams = settings.optimizer.head_rate, settings.train.bigram_steps or None
        if settings.model.start is not None and not resolved.given("optimizer.head_rate"):
            optimizer, rate = replace(settings.optimizer, head_rate=None), None
            resolved = _with(resolved, "optimizer.head_rate", "model.start", optimizer=optimizer)
        for key, value in (("optimizer.head_rate", rate), ("train.bigram_steps", bigrams)):
            if value is not None:
                because = Notice("training.because", {"setting": "model.tie_embeddings", "value": "true"})
                raise unused_setting(key, value, because=because)
    check_windows(settings, cast(LanguageModel, model).max_positions)
    return resolved


def create_model(settings: RunSettings, *, vocab_size: int, end_id: int, train_tokens: int | None) -> nn.Module:
    """The model, where torch makes tensors now."""
    if train_tokens == 0:
        raise DataError("data.empty_split")
    sizes = {"sequence_length": settings.train.sequence_length, "seed": settings.train.seed}
    if settings.model.start is not None:
        return load_start(settings.model.start)
    return build_model(settings.model, vocab_size=vocab_size, end_id=end_id, **sizes)


def check_windows(settings: RunSettings, max_positions: int | None) -> None:
    """Refuse now what the first evaluation would refuse after a share of the run.

    Raises:
        SettingsError: ``training.range``.
    """
    context = settings.evaluate.context or settings.train.sequence_length
    setting = "evaluate.context" if settings.evaluate.context else "train.sequence_length"
    if max_positions is not None and context > max_positions:
        bounds = f"<= model.max_positions = {max_positions}"
        raise SettingsError("training.range", setting=setting, value=context, bounds=bounds)
    if settings.evaluate.stride > context:
        bounds = f"<= {setting} = {context}"
        raise SettingsError("training.range", setting="evaluate.stride", value=settings.evaluate.stride, bounds=bounds)


def fit_first_weights(prepared: Prepared) -> float:
    """Give a new model what ``train.bigram_steps`` asks for, and fix their number; the seconds that it took."""
    train = prepared.settings.train
    if not train.bigram_steps:
        return 0.0
    count, vocab_size = prepared.store.train.num_tokens, prepared.store.tokenizer.vocab_size
    if count < _LEAST_PAIRS * vocab_size:
        notice("training.bigrams_few", tokens=count, vocab_size=vocab_size)
        return 0.0
    budget, limit = train.length, math.inf
    if train.steps is None and budget.unit == "seconds":
        limit = _MOST_BIGRAMS * budget.value
    started = time.perf_counter()
    assert isinstance(prepared.model, Transformer), "other models refuse train.bigram_steps"
    data = prepared.store.train
    given = {"steps": train.bigram_steps, "seed": train.seed}
    steps = fit_bigrams(prepared.model, data.tokens, **given, limit=limit, borders=(data.end_id, data.context_id))
    if steps != train.bigram_steps:
        origin = f"budget {train.budget}"
        train = replace(train, bigram_steps=steps)
        prepared.resolved = _with(prepared.resolved, "train.bigram_steps", origin, train=train)
    return time.perf_counter() - started


def decide_steps(prepared: Prepared) -> float:
    """Make the first weights, and fix whether to compile and the number of steps: as given, or from the budget.

    A time needs a measured speed. It is measured on a copy of the model that is thrown away, so that it leaves no trace
    in the run. Returned are the seconds that the first weights took, which a budget in time has paid.
    """
    spent = fit_first_weights(prepared)
    _decide_compilation(prepared)
    train = prepared.settings.train
    if train.steps is not None:
        return spent
    budget = train.length
    pace = replace(prepared.pace, total_steps=None)
    if budget.unit == "seconds":
        seconds = measure_seconds_per_step(prepared, budget.value)
        pace = replace(pace, seconds_per_step=seconds)
        steps = replace(budget, value=max(0.0, budget.value - spent)).steps(pace)
        origin = f"budget {train.budget} at {seconds:.4g} s a step, measured once"
        notice("training.budget", budget=train.budget, milliseconds=seconds * 1000, steps=steps)
    else:
        steps = budget.steps(pace)
        origin = f"budget {budget}"
        notice("training.length", length=str(budget), steps=steps)
    prepared.resolved = _with(prepared.resolved, "train.steps", origin, train=replace(train, steps=steps, budget=None))
    return spent


def _decide_compilation(prepared: Prepared) -> None:
    """Fix ``train.compile``. Only a long run is measured for it."""
    train = prepared.settings.train
    if train.compile is not None:
        return
    budget = train.length
    steps = train.steps
    if steps is None and budget.unit != "seconds":
        steps = budget.steps(replace(prepared.pace, total_steps=None))
    compiled = False
    if may_compile(prepared.model) and (budget.value >= REPAYING_SECONDS if steps is None else steps >= _MANY_STEPS):
        short = 0.0 if steps is None else REPAYING_SECONDS / 2 / steps

        def measure(compile: bool) -> float:
            resolved = _with(prepared.resolved, "train.compile", "trial", train=replace(train, compile=compile))
            return measure_seconds_per_step(replace(prepared, resolved=resolved), 0.0, short=short)

        try:
            if not has_room(prepared.model, prepared.settings, copies=1):
                raise MemoryError
            seconds = measure(False)
            expected = budget.value if steps is None else steps * seconds
            compiled = repays(expected, measure, seconds_per_step=seconds)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            warn("training.compilation_no_memory")
    decided = replace(train, compile=compiled)
    prepared.resolved = _with(prepared.resolved, "train.compile", "what repays here", train=decided)


def one_length(resolved: Resolved[RunSettings]) -> Resolved[RunSettings]:
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


def measure_seconds_per_step(prepared: Prepared, budget_seconds: float, *, short: float = 0.0) -> float:
    """Mean seconds of a step, of a copy of the model that is thrown away; see ``mean_seconds``."""
    train = prepared.settings.train
    resolved = _with(prepared.resolved, "train.steps", "trial", train=replace(train, steps=1_000_000))
    trial = replace(prepared, resolved=resolved, model=copy.deepcopy(prepared.model))
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


def resolve_for_machine(resolved: Resolved[RunSettings]) -> Resolved[RunSettings]:
    """Fill in what the machine and the kind of model decide."""
    before = resolved.value.train
    kind = resolved.value.model.kind
    because = Notice("training.because", {"setting": "model.kind", "value": kind})
    if kind in RECURRENT_KINDS:
        # Documents cut windows into pieces of every length, for each of which oneDNN compiles and keeps kernels: the
        # process grew by 8 MB a step. It reads this once, before its first kernel; compiling anew takes 2 % longer.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    train = resolve_machine(before)
    if train.layout == "auto":
        train = replace(train, layout="stream" if kind in RECURRENT_KINDS else "packed")
    elif train.layout == "stream" and kind not in RECURRENT_KINDS:
        raise unused_setting("train.layout", train.layout, because=because)
    if kind in RECURRENT_KINDS:
        if train.attention != "auto":
            raise unused_setting("train.attention", train.attention, because=because)
        for name in ("compile", "bigram_steps"):
            if getattr(train, name):
                raise unused_setting(f"train.{name}", getattr(train, name), because=because)
    elif train.attention == "auto":
        train = replace(train, attention="sdpa")
    if train.device == "cuda" and before.device == "auto":
        notice("training.device", device=describe_device(pick_device("cuda")))
    if train.device == "cpu" and not train.deterministic:
        because = Notice("training.because", {"setting": "train.device", "value": "cpu"})
        raise unused_setting("train.deterministic", train.deterministic, because=because)
    for name in ("device", "precision", "threads", "layout", "attention"):
        if getattr(train, name) != getattr(before, name):
            table = replace(resolved.value.train, **{name: getattr(train, name)})
            resolved = _with(resolved, f"train.{name}", "this machine", train=table)
    return resolved


def _with(resolved: Resolved[RunSettings], key: str, origin: str, **tables: object) -> Resolved[RunSettings]:
    """The settings with another table, and where one value of it came from."""
    value = replace(resolved.value, **tables)  # type: ignore[arg-type]  # the tables are those of RunSettings
    return Resolved(value, {**resolved.origins, key: origin})
