"""A run that was killed after its first checkpoint, for tests that break what it does next in forked children."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from forking import fork, wait
from skips import needs_posix
from tiny_training import tiny_settings, tiny_store
from wenlu.core.errors import WenluError
from wenlu.core.runs import Run, checkpoint_step
from wenlu.data.store import TokenStore
from wenlu.training.run import resume_run, train_run
from wenlu.training.settings import EvaluateSettings

FIRST, SECOND = 2, 4
SETTINGS = ("train.steps=8", "train.save_every=1000", "evaluate.every=2", "train.keep=1")


class Score:
    """An evaluation that finds every model better than the last, so that each is saved; ``at`` runs at these calls."""

    def __init__(self, at: Mapping[int, Callable[[], object]] | None = None, *, first: float = 1.0) -> None:
        self.calls = 0
        self._at = at or {}
        self._first = first

    def __call__(
        self, model: nn.Module, store: TokenStore, settings: EvaluateSettings, *, context: int, max_tokens: int
    ) -> Mapping[str, float]:
        self.calls += 1
        self._at.get(self.calls, lambda: None)()
        return {"loss": self._first / self.calls}


def leave() -> None:
    """End this child: everything that was to be seen has happened."""
    os._exit(0)


def saved_run(folder: Path) -> Path:
    """A run that was killed after its first checkpoint, at step 2. Imports what training needs into this process."""
    needs_posix()
    train_run(tiny_settings("train.steps=1"), folder / "warm", store=tiny_store(folder / "corpus"))
    run = folder / "run"

    def child() -> int:
        train_run(
            tiny_settings(*SETTINGS), run, evaluate=Score({2: leave}, first=9.0), store=tiny_store(folder / "corpus")
        )
        return 1

    assert wait(fork(child)) == 0
    assert [checkpoint_step(path) for path in Run(run).checkpoints()] == [FIRST]
    return run


def goes_on(run: Path, score: Score, said: mmap.mmap | None = None) -> int:
    """Resume in a child; the exit code, 99 for a bug. The error is ``said`` in memory: the disk may take nothing."""
    try:
        return resume_run(run, evaluate=score, store=tiny_store(run.parent / "corpus")).exit_code
    except Exception as error:
        if said is not None:
            said.write(str(error).encode() if isinstance(error, WenluError) else repr(error).encode())
        return error.exit_code if isinstance(error, WenluError) else 99
