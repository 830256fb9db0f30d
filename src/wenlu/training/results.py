"""What a run is handed to score its model with, what its files tell of it, and what it gives back."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import nn

from wenlu.core.runs import Run
from wenlu.core.version import __version__
from wenlu.data.store import Store, TokenStore
from wenlu.models.device import describe_device, pick_device
from wenlu.training.precision import environment
from wenlu.training.settings import EvaluateSettings, RunSettings


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
    """The result of a run that has finished, now or before."""
    status = run.status()
    step, seconds = status.get("step"), status.get("seconds")
    step, seconds = step if isinstance(step, int) else 0, seconds if isinstance(seconds, float) else 0.0
    return RunResult(run.path, "finished", 0, step, seconds, run.path / "final", last_evaluation(run))


def describe_process(settings: RunSettings) -> dict[str, object]:
    """Versions, commit, seed, device, process and time, for ``status.json``."""
    name = settings.train.device
    device = pick_device("cpu" if name == "auto" else name)  # auto is left open where a model is counted, not trained
    return {
        "versions": {"wenlu": __version__, "python": platform.python_version(), **environment(device)},
        "commit": _commit(),
        "seed": settings.train.seed,
        "device": f"{describe_device(device)}, {settings.train.threads} threads, {settings.train.precision}",
        "pid": os.getpid(),
        "started": time.time(),
        **dict.fromkeys(("ended", "signal", "error")),
    }


def _commit() -> str | None:
    """The commit of Wenlu's own source when it runs from a repository, else None."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    try:
        command = ["git", "--no-optional-locks", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def describe_data(store: Store) -> dict[str, object]:
    """``data.json``: how the corpus was made, and the fingerprints and sizes of its splits."""
    splits = {
        name: {"fingerprint": split.fingerprint, "documents": split.num_documents, "tokens": split.num_tokens}
        for name, split in (("train", store.train), ("validation", store.validation), ("test", store.test))
    }
    return {"store": os.fspath(store.path), "fingerprint": store.fingerprint, "splits": splits, "made": store.record}
