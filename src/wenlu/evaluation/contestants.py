"""A model together with the run that made it: its name, its costs, and the window rule it was trained with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wenlu.bundle import Bundle, load_bundle
from wenlu.core.errors import RequestError
from wenlu.core.runs import Run, is_run
from wenlu.evaluation.evaluator import DEFAULT_CONTEXT
from wenlu.evaluation.scoring import Windows
from wenlu.models.config import LanguageModel
from wenlu.models.device import DeviceName
from wenlu.training.run import read_settings


@dataclass(frozen=True)
class Contestant:
    """A loaded model. ``run`` is None for a directory outside any run; costs are None where nobody wrote them down."""

    name: str
    bundle: Bundle
    run: Run | None
    context: int
    stride: int
    parameters: int
    seconds: float | None
    trained_tokens: int | None

    @property
    def model(self) -> LanguageModel:
        """The model as one that reads from left to right; raises RequestError where it is none."""
        return self.bundle.language_model

    def windows(self, *, context: int | None = None, stride: int | None = None) -> Windows:
        """The window rule of its run, with what the user gave; a context alone is stepped through by halves.

        Raises:
            SettingsError: ``evaluation.window``.
        """
        if context is None:
            return Windows(self.context, self.stride if stride is None else stride)
        return Windows(context, max(1, context // 2) if stride is None else stride)

    def columns(self, context: int | None = None) -> int:
        """The length of the rows of an objective: what the user gave, or what its run has.

        Raises:
            RequestError: ``evaluation.columns``.
        """
        most = self.bundle.measured.max_positions
        if context is not None and not 1 <= context <= (most or context):
            raise RequestError("evaluation.columns", found=context, most=most or "∞")
        return self.context if context is None else context

    def as_record(self) -> dict[str, object]:
        """Name, path, tokenizer and costs for JSON."""
        costs = {name: getattr(self, name) for name in ("parameters", "seconds", "trained_tokens")}
        tokenizer = self.bundle.tokenizer.fingerprint
        return {"name": self.name, "path": str(self.bundle.path), "tokenizer": tokenizer, **costs}


def open_contestant(where: str | None, *, device: DeviceName = "cpu") -> Contestant:
    """Load what a user calls ``DIR | RUN | NAME``; None is the newest finished run.

    Its context is that of its run's evaluations, so that a number can be compared with the run's log; outside a run,
    ``DEFAULT_CONTEXT`` or what the model can read.

    Raises:
        CheckpointError: the model is missing or damaged.
    """
    bundle = load_bundle(where, device=device)
    model = bundle.measured
    run = run_of(bundle.path)
    context = stride = 0
    if run is not None and run.has_settings():
        settings = read_settings(run).value
        context = settings.evaluate.context or settings.train.sequence_length
        stride = settings.evaluate.stride
    context = min(context or DEFAULT_CONTEXT, model.max_positions or context or DEFAULT_CONTEXT)
    seconds = run.status().get("seconds") if run is not None else None
    return Contestant(
        name=(run.path if run is not None else bundle.path).resolve().name,
        bundle=bundle,
        run=run,
        context=context,
        stride=min(stride or max(1, context // 2), context),
        parameters=model.statistics(sequence_length=context).parameters,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        trained_tokens=(int(logged_sum(run.read_log(), "tokens")) or None) if run is not None else None,
    )


def run_of(model_path: Path) -> Run | None:
    """The run that a model directory lies in: as its final model, or as one of its checkpoints."""
    resolved = model_path.resolve()
    for parent in (resolved.parent, resolved.parent.parent):
        if is_run(parent):
            return Run(parent)
    return None


def store_of(run: Run) -> str | None:
    """The token store that a run was trained on, as its ``data.json`` says."""
    store = run.data().get("store")
    return store if isinstance(store, str) else None


def logged_sum(log: Iterable[Mapping[str, object]], name: str) -> float:
    """A field summed over the steps of a run's log, or of the one fit of a model that is fitted by counting."""
    values = (record.get(name) for record in log if record.get("event") in ("step", "fit"))
    return math.fsum(value for value in values if isinstance(value, int | float))
