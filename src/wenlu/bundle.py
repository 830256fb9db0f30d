"""A model directory in memory: the model, its tokenizer, its task and its generation defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from wenlu.generation.sampling import GenerationSettings
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Bundle:
    """What is needed to use a model. ``path`` is the directory it came from."""

    model: nn.Module
    tokenizer: Tokenizer
    task: str
    generation: GenerationSettings
    path: Path


def load_bundle(where: str | Path | None = None) -> Bundle:
    """Load a model directory, a run or a name under ``runs/``; None is the newest finished run, which is announced."""
    raise NotImplementedError


def save_bundle(directory: Path, *, model: nn.Module, tokenizer: Tokenizer, task: str = "causal_lm") -> None:
    """Write the files of a model directory (no manifest: ``core.runs.publish`` adds it)."""
    raise NotImplementedError
