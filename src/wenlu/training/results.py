"""What a run is handed to score its model with, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import nn

from wenlu.core.runs import Run
from wenlu.data.store import TokenStore
from wenlu.training.settings import EvaluateSettings


def written(value: float) -> float | str:
    """A number as JSON can hold it: NaN and the infinities by name."""
    return value if math.isfinite(value) else str(value)


class Evaluate(Protocol):
    """Scores a model on validation text; must give ``loss`` (nats a token). ``max_tokens`` 0 means all of it."""

    def __call__(
        self, model: nn.Module, store: TokenStore, settings: EvaluateSettings, *, context: int, max_tokens: int
    ) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class RunResult:
    """How a run ended. ``exit_code`` is 130 or 143 when a signal stopped it."""

    path: Path
    state: Literal["finished", "stopped"]
    exit_code: int
    step: int
    seconds: float
    model: Path | None
    evaluation: Mapping[str, float]


def last_evaluation(run: Run) -> dict[str, float]:
    """The scores of the newest evaluation in the log."""
    for record in reversed(run.read_log()):
        if record.get("event") in ("evaluation", "final_evaluation"):
            return {name: value for name, value in record.items() if isinstance(value, float) and name != "seconds"}
    return {}


def finished_result(run: Run) -> RunResult:
    """The result of a run that had finished before."""
    status = run.status()
    step, seconds = status.get("step"), status.get("seconds")
    step, seconds = step if isinstance(step, int) else 0, seconds if isinstance(seconds, float) else 0.0
    return RunResult(run.path, "finished", 0, step, seconds, run.path / "final", last_evaluation(run))
