"""A model directory in memory: the model, its tokenizer, its task and its generation defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from wenlu.core.errors import CheckpointError
from wenlu.core.publication import verify
from wenlu.core.runs import resolve_model
from wenlu.core.version import __version__
from wenlu.generation import settings as generation_settings
from wenlu.generation.settings import GenerationSettings
from wenlu.models.checkpoint import load_model, save_model
from wenlu.tokenization.tokenizer import Tokenizer

FILE_NAME = "wenlu.toml"
DEFAULT_TASK = "causal_lm"


@dataclass(frozen=True)
class Bundle:
    """What is needed to use a model. ``path`` is the directory it came from."""

    model: nn.Module
    tokenizer: Tokenizer
    task: str
    generation: GenerationSettings
    path: Path


def load_bundle(where: str | Path | None = None) -> Bundle:
    """Load a model directory, a run or a name under ``runs/``; None is the newest finished run, which is announced.

    With a manifest, weights must be what was written and edited text files are announced; a directory without one is
    announced as unverified. The model is in evaluation mode.

    Raises:
        CheckpointError: the directory is missing, damaged, or has files that are no model of ours.
    """
    path = resolve_model(where)
    verify(path, strict=False)
    model = load_model(path)
    model.eval()
    return Bundle(model, Tokenizer.load(path), _read_task(path), generation_settings.load(path), path)


def save_bundle(
    directory: Path,
    *,
    model: nn.Module,
    tokenizer: Tokenizer,
    task: str = DEFAULT_TASK,
    generation: GenerationSettings | None = None,
    provenance: Mapping[str, str | int | float] | None = None,
) -> None:
    """Write the files of a model directory into an existing folder (no manifest: ``core.runs.publish`` adds it)."""
    save_model(model, directory)
    tokenizer.save(directory)
    generation_settings.save(
        generation or GenerationSettings(), directory, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id
    )
    (directory / FILE_NAME).write_text(_toml(task, provenance or {}), encoding="utf-8")


def _toml(task: str, provenance: Mapping[str, str | int | float]) -> str:
    """``wenlu.toml``: only what config.json cannot say."""
    import tomlkit

    document = tomlkit.document()
    document.add("format", tomlkit.item(1))
    document.add("task", tomlkit.item(task))
    table = tomlkit.table()
    for key, value in {"wenlu": __version__, **provenance}.items():
        table.add(key, value)
    document.add("provenance", table)
    return tomlkit.dumps(document)


def _read_task(directory: Path) -> str:
    """The task that ``wenlu.toml`` names; a foreign directory is a causal language model.

    Raises:
        CheckpointError: ``bundle.bad_file`` when the file is not what we write, or a newer Wenlu wrote it.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return DEFAULT_TASK
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("bundle.bad_file", path=path, detail=error) from error
    task = record.get("task")
    if record.get("format") != 1 or not isinstance(task, str):
        raise CheckpointError(
            "bundle.bad_file", path=path, detail=f"format = {record.get('format')!r}, task = {task!r}"
        )
    return task
