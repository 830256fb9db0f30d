"""What a run will need, before its first step: parameters, FLOPs, memory, time and disk.

Formulas explain the parts, a trial measures the whole; where the two disagree the trial is right, and it is said.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from wenlu.core import machine
from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.publication import sweep
from wenlu.core.settings import Resolved, to_toml
from wenlu.data.settings import DataSettings
from wenlu.models.adapters import add_lora
from wenlu.models.config import LanguageModel
from wenlu.tasks._base import CorpusObjective
from wenlu.tasks._heads import with_heads
from wenlu.training.fitting import FITTED_KINDS
from wenlu.training.memory import MemoryParts, memory_parts
from wenlu.training.optimizers import Role, parameter_roles
from wenlu.training.resolution import absolute_paths, create_model, refuse_unread_by_store, resolve_settings
from wenlu.training.run import refuse_existing
from wenlu.training.schedules import Duration, Pace
from wenlu.training.settings import RunSettings
from wenlu.training.trial import OUT_OF_MEMORY, Corpus, Trial, look_at_corpus, start_trial

_SCRATCH = "wenlu-plan"
_ROOM = 4  # times the size of a checkpoint must be free on the disk for the trial to write one


@dataclass(frozen=True)
class Plan:
    """The figures of a run to come. ``peak_bytes`` is the trial's where there was one, else that of the formulas.

    Memory is that of the device; ``seconds`` and ``disk`` are by part; ``steps`` is None where nothing decides it yet.
    """

    settings: RunSettings
    corpus: Corpus
    parameters: Mapping[Role, int]
    flops_per_token: float
    parts: MemoryParts
    trial: Trial | None
    trial_failure: Notice | None
    steps: int | None
    seconds: Mapping[str, float]
    disk: Mapping[str, int]
    disk_free: int | None
    memory_free: int | None
    peak_bytes: int
    formula_bytes: int
    largest_batch: int | None

    @property
    def tokens_per_step(self) -> int:
        return self.settings.train.tokens_per_step

    @property
    def fits_memory(self) -> bool:
        """Whether the memory that is free now suffices, as far as the system tells."""
        enough = self.memory_free is None or self.peak_bytes <= self.memory_free
        return enough and self.trial_failure != OUT_OF_MEMORY

    @property
    def fits_disk(self) -> bool:
        return self.disk_free is None or sum(self.disk.values()) <= self.disk_free

    @property
    def fits(self) -> bool:
        """Whether the run was tried, and everything suffices."""
        return self.trial is not None and self.fits_memory and self.fits_disk

    def as_record(self) -> dict[str, object]:
        """For JSON; bytes, seconds and floating-point operations."""
        record = {name: value for name, value in asdict(self).items() if name != "settings"}
        flops = self.flops_per_token * self.tokens_per_step
        total = math.fsum(self.seconds.values()) if self.seconds else None
        return record | {
            "parameters": {"total": sum(self.parameters.values()), **record["parameters"]},
            "flops": {"token": self.flops_per_token, "step": flops, "run": self.steps and flops * self.steps},
            "seconds": {"total": total, **self.seconds},
            "disk": {"total": sum(self.disk.values()), **self.disk},
            "fits": self.fits,
        }


def plan_run(resolved: Resolved[RunSettings], target: Path, *, trial_command: Sequence[str]) -> Plan:
    """The plan of the run that ``train_run`` would make at ``target``; ``trial_command``: see ``start_trial``.

    Raises:
        SettingsError: ``training.plan_fitted`` for a model that is fitted by counting; whatever ``train_run`` refuses.
    """
    refuse_existing(target, only_look=True)
    refuse_unread_by_store(resolved)
    if resolved.value.model.kind in FITTED_KINDS:
        raise SettingsError("training.plan_fitted", kind=resolved.value.model.kind)
    resolved, task = resolve_settings(absolute_paths(resolved))
    settings, train = resolved.value, resolved.value.train
    free = machine.memory().free if train.device == "cpu" else torch.cuda.mem_get_info()[0]
    with _scratch(machine.nearest_folder(target)) as folder:
        corpus, sample = look_at_corpus(settings, folder)
        with torch.device("meta"):
            model = create_model(settings, vocab_size=corpus.vocab_size, end_id=0, train_tokens=corpus.train_tokens)
        if isinstance(task, CorpusObjective):
            model = with_heads(model, task.heads | {"language_model"}, seed=train.seed)
        model = add_lora(model, settings.lora, seed=train.seed)
        parts = memory_parts(model, settings)
        found: Trial | Notice = Notice("plan.trial_too_large")
        if free is None or parts.peak(accumulation=train.accumulation) <= free:
            found = _try(settings, corpus, parts, folder, sample, trial_command)
    trial, failure = (found, None) if isinstance(found, Trial) else (None, found)
    if trial is not None and trial.libraries_bytes is not None:
        parts = replace(parts, libraries=trial.libraries_bytes)
    formula = parts.peak(accumulation=train.accumulation)
    peak = (trial and trial.peak_bytes) or formula
    largest = None if free is None else parts.largest_batch(free, peak, train.batch_size)
    if failure == OUT_OF_MEMORY:  # whatever the formulas say
        largest = min(train.batch_size // 2, largest or 0)
    statistics = cast(LanguageModel, model).statistics(sequence_length=train.sequence_length)
    steps = _steps(settings, corpus, trial)
    return Plan(
        settings=settings,
        corpus=corpus,
        parameters=_parameters(model),
        flops_per_token=statistics.forward_flops_per_token + statistics.backward_flops_per_token,
        parts=parts,
        trial=trial,
        trial_failure=failure,
        steps=steps,
        seconds=_seconds(settings, corpus, trial, steps) if trial and steps else {},
        disk=_disk(settings, corpus, parts, trial, steps),
        disk_free=machine.disk(target).free_bytes,
        memory_free=free,
        peak_bytes=peak,
        formula_bytes=formula,
        largest_batch=largest,
    )


def _try(
    settings: RunSettings, corpus: Corpus, parts: MemoryParts, folder: Path, sample: Path | None, command: Sequence[str]
) -> Trial | Notice:
    """The trial with the corpus, a sample of it, or random tokens; a checkpoint is written where the disk has room."""
    data = settings.data if sample is None else DataSettings(paths=(str(sample),))
    (folder / "run.toml").write_text(to_toml(Resolved(replace(settings, data=data), {})), encoding="utf-8")
    free = machine.disk(folder).free_bytes
    save = free is None or free > _ROOM * (parts.weights + parts.optimizer)
    stand_in = corpus.vocab_size if sample is None and corpus.source != "prepared" else 0
    return start_trial(folder, command, stand_in=stand_in, save=save)


def _parameters(model: nn.Module) -> dict[Role, int]:
    """The number of parameters of each role; a tied output matrix counts once, as embedding."""
    shapes, counts = dict(model.named_parameters()), Counter[Role]()
    for name, role in parameter_roles(model).items():
        counts[role] += shapes[name].numel()
    return dict(counts)


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder for the trial, on the disk of the run; what a killed plan left there is removed first."""
    sweep(parent, _SCRATCH.__eq__)
    folder = parent / f".{_SCRATCH}.tmp-{os.getpid()}"
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _steps(settings: RunSettings, corpus: Corpus, trial: Trial | None) -> int | None:
    """The number of steps as ``decide_steps`` will decide it; None when the corpus or the speed is not known."""
    budget = settings.train.length
    if settings.train.steps is not None:
        return settings.train.steps
    if (budget.unit == "epochs" and not corpus.train_tokens) or (budget.unit == "seconds" and trial is None):
        return None
    if trial and budget.unit == "seconds":
        budget = replace(budget, value=max(0.0, budget.value - trial.bigrams_seconds))
    return budget.steps(_pace(settings, corpus, trial.seconds_per_step if trial else None, None))


def _pace(settings: RunSettings, corpus: Corpus, seconds_per_step: float | None, steps: int | None) -> Pace:
    tokens = settings.train.tokens_per_step
    return Pace(tokens, (corpus.train_tokens or 0) / tokens, total_steps=steps, seconds_per_step=seconds_per_step)


def _seconds(settings: RunSettings, corpus: Corpus, trial: Trial, steps: int) -> dict[str, float]:
    """How long each part of the run takes."""
    evaluate, known = settings.evaluate, corpus.validation_tokens or 0
    evaluations, saves = _counts(settings, corpus, trial.seconds_per_step, steps)
    regular, final = (min(limit or known, known) for limit in (evaluate.max_tokens, evaluate.final_max_tokens))
    scored = evaluations * regular + (final if final != regular else 0)
    model = trial.checkpoint_seconds * trial.model_bytes / max(trial.checkpoint_bytes, 1)
    return {
        "corpus": corpus.prepare_seconds,
        "start": trial.ready_seconds,
        "bigrams": trial.bigrams_seconds,
        "calibration": trial.calibration_seconds,
        "steps": steps * trial.seconds_per_step,
        "evaluation": scored * trial.evaluation_seconds_per_token,
        "checkpoints": saves * trial.checkpoint_seconds + model,
    }


def _counts(settings: RunSettings, corpus: Corpus, seconds_per_step: float, steps: int) -> tuple[int, int]:
    """How often a run evaluates and saves: regularly, at its end, and after each evaluation, taken to be the best."""
    pace = _pace(settings, corpus, seconds_per_step, steps)
    evaluate = Duration.parse(settings.evaluate.every, setting="evaluate.every").steps(pace)
    save = Duration.parse(settings.train.save_every, setting="train.save_every").steps(pace)
    evaluations, saves = (steps - 1) // evaluate, (steps - 1) // save
    return evaluations + 1, evaluations + saves - (steps - 1) // math.lcm(evaluate, save) + 1


def _disk(
    settings: RunSettings, corpus: Corpus, parts: MemoryParts, trial: Trial | None, steps: int | None
) -> dict[str, int]:
    """Bytes on disk at most: the newest checkpoints, the best, the one that is being written, and what stays."""
    model = (trial and trial.model_bytes) or parts.gradients
    state = (trial and trial.checkpoint_bytes) or model + parts.optimizer
    count = settings.train.keep + 2
    if steps is not None:
        count = min(count, _counts(settings, corpus, trial.seconds_per_step if trial else 1.0, steps)[1])
    return {"checkpoints": state * count, "final": model, "store": corpus.store_bytes}
