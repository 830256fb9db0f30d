"""A model together with the run that made it: its name, its costs, and the window rule it was trained with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    """A loaded model. ``run``, the one that the model is the final one or a checkpoint of, is None outside any run.

    Costs are None where nobody wrote them down.
    """

    name: str
    bundle: Bundle
    run: Run | None
    context: int
    stride: int
    parameters: int
    seconds: float | None = None
    trained_tokens: int | None = None

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
    run = next((Run(parent) for parent in bundle.path.resolve().parents[:2] if is_run(parent)), None)
    context = stride = 0
    if run is not None and run.has_settings():
        settings = read_settings(run).value
        context = settings.evaluate.context or settings.train.sequence_length
        stride = settings.evaluate.stride
    context = min(context or DEFAULT_CONTEXT, model.max_positions or context or DEFAULT_CONTEXT)
    stride = min(stride or max(1, context // 2), context)
    parameters = model.statistics(sequence_length=context).parameters
    if run is None:
        return Contestant(bundle.path.resolve().name, bundle, None, context, stride, parameters)
    given, tokens = run.status().get("seconds"), int(logged_sum(run.read_log(), "tokens"))
    seconds = float(given) if isinstance(given, int | float) else None
    return Contestant(run.path.resolve().name, bundle, run, context, stride, parameters, seconds, tokens or None)


def logged_sum(log: Iterable[Mapping[str, object]], name: str) -> float:
    """A field summed over the steps of a run's log, or of the one fit of a model that is fitted by counting."""
    values = (record.get(name) for record in log if record.get("event") in ("step", "fit"))
    return math.fsum(value for value in values if isinstance(value, int | float))
