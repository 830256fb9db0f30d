"""A model directory in memory: the model, its tokenizer, its task and its generation defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from torch import nn

from wenlu.core.errors import CheckpointError
from wenlu.core.publication import verify
from wenlu.core.runs import resolve_model
from wenlu.core.version import __version__
from wenlu.generation import settings as generation_settings
from wenlu.generation.settings import GenerationSettings
from wenlu.models.adapters import FOLDER, load_adapted, write_adapter
from wenlu.models.checkpoint import load_model, save_model
from wenlu.models.config import Head, LanguageModel, Measured, given
from wenlu.models.device import DeviceName, pick_device
from wenlu.models.families._files import refuse_pickle
from wenlu.models.roles import architecture, causal_model
from wenlu.models.transformer import Transformer
from wenlu.tokenization.tokenizer import Tokenizer

FILE_NAME = "wenlu.toml"
FORMAT = 1
DEFAULT_TASK = "causal_lm"
_TASKS: Mapping[Head, str] = {"sequence": "classification", "token": "tagging"}
"""What a head is for in a model of unknown origin."""


@dataclass(frozen=True)
class Bundle:
    """What is needed to use a model. ``path`` is the directory it came from."""

    model: nn.Module
    tokenizer: Tokenizer
    task: str
    generation: GenerationSettings
    path: Path
    task_settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def language_model(self) -> LanguageModel:
        """The model as one that reads a text from left to right.

        Raises:
            RequestError: it is an encoder or an encoder-decoder (see ``models.roles``).
        """
        return causal_model(self.model)

    @property
    def measured(self) -> Measured:
        """The model, whatever it is, with its sizes."""
        return cast(Measured, self.model)


def load_bundle(where: str | Path | None = None, *, device: DeviceName = "cpu", adapter: Path | None = None) -> Bundle:
    """Load a model directory, a run or a name under ``runs/``; None is the newest finished run, which is announced.

    With a manifest, weights must be what was written and edited text files are announced; a directory without one is
    announced as unverified. The model is in evaluation mode; an ``adapter`` is PEFT's files of LoRA paths for it.

    Raises:
        CheckpointError: the directory is missing, damaged, a pickle, or has files that are no model of ours.
        DeviceError: ``models.no_cuda``.
    """
    place = pick_device(device)
    if where is not None:
        refuse_pickle(Path(where))
    path = resolve_model(where)
    verify(path, strict=False)
    (task, said), generation, tokenizer = _read_task(path), generation_settings.load(path), Tokenizer.load(path)
    model = load_model(path) if adapter is None else load_adapted(path, adapter)
    refuse_strangers(model, tokenizer, path)
    return Bundle(model.to(place).eval(), tokenizer, task or default_task(model), generation, path, said)


def save_bundle(
    directory: Path,
    *,
    model: nn.Module,
    tokenizer: Tokenizer,
    task: str | None = None,
    task_settings: Mapping[str, object] | None = None,
    generation: GenerationSettings | None = None,
    provenance: Mapping[str, str | int | float] | None = None,
    base: str | None = None,
) -> None:
    """Write the files of a model directory into an existing folder (no manifest: ``core.publication.publish`` adds it).

    Without a ``task`` it is ``default_task``. Of a model with LoRA the paths are merged; beside it they are written as
    an adapter of ``base``, where they were trained.
    """
    import tomlkit

    save_model_files(directory, model=model, tokenizer=tokenizer, generation=generation or GenerationSettings())
    if base is not None:
        write_adapter(model, directory / FOLDER, base=base)
    record: dict[str, object] = {"format": FORMAT, "task": task or default_task(model)}  # what config.json cannot say
    if task_settings:
        record["task_settings"] = dict(task_settings)
    record["provenance"] = {"wenlu": __version__, **(provenance or {})}
    (directory / FILE_NAME).write_text(tomlkit.dumps(record), encoding="utf-8")


def default_task(model: nn.Module) -> str:
    """The objective that a model of this shape and unknown origin was trained with."""
    if not isinstance(model, Transformer):
        return DEFAULT_TASK
    shape, heads = architecture(model), model.config.heads
    if tasks := [task for head, task in _TASKS.items() if head in heads]:
        return tasks[0]
    if shape == "decoder" or "language_model" not in heads:
        return DEFAULT_TASK
    denoising = "span_corruption" if model.config.main.position == "relative" else "denoising"
    return "masked_lm" if shape == "encoder" else denoising


def save_model_files(
    directory: Path, *, model: nn.Module, tokenizer: Tokenizer, generation: GenerationSettings
) -> None:
    """The files of a model directory that the Hugging Face libraries read, too."""
    save_model(model, directory)
    tokenizer.save(directory)
    end_id, pad_id = tokenizer.end_id, tokenizer.pad_id
    start_id = model.config.start_token_id if isinstance(model, Transformer) else None
    start_id = given(start_id, tokenizer.context_id)
    generation_settings.save(generation, directory, end_id=end_id, pad_id=pad_id, start_id=start_id)


def refuse_strangers(model: nn.Module, tokenizer: Tokenizer, path: Path) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for; fewer tokens than embeddings are usual.

    Raises:
        CheckpointError: ``bundle.vocabulary``.
    """
    size = cast(Measured, model).vocab_size
    if tokenizer.vocab_size > size:
        raise CheckpointError("bundle.vocabulary", path=path, tokens=tokenizer.vocab_size, embeddings=size)


def _read_task(directory: Path) -> tuple[str | None, Mapping[str, object]]:
    """The task that ``wenlu.toml`` names, and its settings; None for a foreign directory.

    Raises:
        CheckpointError: ``bundle.bad_file`` when the file is not what we write, ``bundle.newer`` for a newer format.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return None, {}
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError("bundle.bad_file", path=path, detail=error) from error
    found, task, settings = record.get("format"), record.get("task"), record.get("task_settings", {})
    if isinstance(found, int) and found > FORMAT:
        raise CheckpointError("bundle.newer", path=path, found=found, known=FORMAT)
    if found != FORMAT or not isinstance(task, str) or not isinstance(settings, dict):
        raise CheckpointError("bundle.bad_file", path=path, detail=f"format = {found!r}, task = {task!r}")
    return task, settings
