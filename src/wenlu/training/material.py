"""What a run learns from and is scored on: packed text, or labelled examples. Its tokenizer comes with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from wenlu.core.errors import CheckpointError, DataError, SettingsError
from wenlu.core.log import notice
from wenlu.core.setting_types import fields
from wenlu.core.settings import Resolved, changed
from wenlu.data.examples import Example, read_examples
from wenlu.data.linting import Finding, announce, collect
from wenlu.data.loader import Batches, Epoch, ExampleLoader, Loader
from wenlu.data.settings import DataSettings
from wenlu.data.store import Store
from wenlu.tasks._base import CorpusObjective, Objective
from wenlu.tasks._held_out import held_out, refuse_no_targets
from wenlu.tasks._labelled import LabelledTask
from wenlu.tasks._predictions import encode_examples, predict_examples
from wenlu.tokenization.tokenizer import Tokenizer
from wenlu.training.resolution import tokenization
from wenlu.training.results import Evaluate, describe_data
from wenlu.training.settings import RunSettings

_TIE = 1e-9  # a score of fewer than ten million items has no smaller differences, even where the loss is 100


@dataclass(eq=False)
class PackedText:
    """The splits of a token store, and the objective that reads them."""

    store: Store
    task: Objective
    best: ClassVar[str] = "loss"
    """The score that tells the best evaluation."""
    keeps_best: ClassVar[bool] = False
    """Whether a finished run's model is that of its best evaluation; else that of its last step."""
    task_settings: ClassVar[Mapping[str, object]] = {}
    """What a model directory says of the task, so that it answers as it was trained to."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The store's own."""
        return self.store.tokenizer

    @property
    def fingerprint(self) -> str:
        """A digest of what is learned."""
        return self.store.train.fingerprint

    @property
    def identity(self) -> str:
        """``data`` of ``state.json``: the fingerprint, and what documents are read after where it is not the end token.

        Objectives that make rows of their own put their own marks around them.
        """
        train = self.store.train
        if isinstance(self.task, CorpusObjective) or train.context_id == train.end_id:
            return train.fingerprint
        return f"{train.fingerprint} after {train.context_id}"

    @property
    def held_out(self) -> int:
        """How much there is to be scored on: tokens."""
        return self.store.validation.num_tokens

    def describe(self) -> dict[str, object]:
        """``data.json``: how the corpus was made, and the fingerprints and sizes of its splits."""
        return describe_data(self.store)

    def check(self, settings: RunSettings) -> None:
        """Refuse before the first step what the first evaluation would refuse: own rows without targets.

        Raises:
            DataError: ``evaluation.no_targets``, ``evaluation.no_documents``.
        """
        if isinstance(self.task, CorpusObjective) and self.held_out:
            limits = [limit for limit in (settings.evaluate.max_tokens, settings.evaluate.final_max_tokens) if limit]
            length, least = settings.train.sequence_length, min(limits, default=0)
            data = self.store.validation
            refuse_no_targets(self.task, data, self.tokenizer, sequence_length=length, max_tokens=least)

    def loader(self, settings: RunSettings) -> Batches:
        """The batches of the run: packed windows, or the rows that an objective makes of its own."""
        train, task, data = settings.train, self.task, self.store.train
        assert train.layout != "auto"
        length, seed = train.sequence_length, train.seed
        own: Callable[[int], Epoch] | None = None
        if isinstance(task, CorpusObjective):
            own = lambda number: task.epoch(data, self.tokenizer, sequence_length=length, seed=seed, epoch=number)
        numbers = {"batch_size": train.batch_size, "seed": seed, "num_workers": train.num_workers}
        return Loader(data, sequence_length=length, **numbers, layout=train.layout, make_epoch=own)

    def tokens_per_row(self, settings: RunSettings) -> float:
        """What a row of a batch holds, padding left out."""
        return settings.train.sequence_length

    def scores(self, model: nn.Module, settings: RunSettings, evaluate: Evaluate, *, limit: int) -> dict[str, float]:
        """The scores of a model on what is held out; ``loss`` is among them."""
        data, length = self.store.validation, settings.train.sequence_length
        if isinstance(self.task, CorpusObjective):
            found = held_out(self.task, model, data, self.tokenizer, sequence_length=length, max_tokens=limit)
            return found.values()
        context = settings.evaluate.context or length
        return dict(evaluate(model, data, settings.evaluate, context=context, max_tokens=limit))

    def rank(self, scores: Mapping[str, float]) -> float:
        """What is compared to find the best model: less is better."""
        return scores["loss"]


@dataclass(eq=False)
class LabelledExamples:
    """Training and validation examples of a task, encoded once; offers what ``PackedText`` offers."""

    task: LabelledTask[Any]
    tokenizer: Tokenizer
    train: Sequence[Example]
    validation: Sequence[Example]
    paths: tuple[str, ...]
    keeps_best: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.best = self.task.best
        self.rows, self.owners, self.left_out = encode_examples(self.task, self.train, self.tokenizer, learned=True)
        self.lengths = [len(row.columns["input_ids"]) for row in self.rows]
        self._held_out = encode_examples(self.task, self.validation, self.tokenizer)
        found = {
            "train": len(self.train), "validation": len(self.validation),
            "skipped": sum(self.left_out.skipped.values()), "cut": self.left_out.cut,
        }  # fmt: skip
        notice("training.examples", **found)
        for left in (self.left_out, self._held_out[2]):
            left.warn(self.task.settings.max_length)

    @cached_property
    def fingerprint(self) -> str:
        return digest(self.train)

    @property
    def identity(self) -> str:
        return self.fingerprint

    @property
    def task_settings(self) -> Mapping[str, object]:
        settings = self.task.settings
        keys = [key for key in fields(type(settings)) if key not in ("name", "chunk_rows", "labels")]
        return {key.removeprefix("task."): value for key, value in changed(settings, "task", keys).items()}

    @property
    def held_out(self) -> int:
        """Examples."""
        return len(self.validation)

    def describe(self) -> dict[str, object]:
        parts = (("train", self.train, self.left_out), ("validation", self.validation, self._held_out[2]))
        sizes = {name: {"fingerprint": digest(part), "examples": len(part)} for name, part, _ in parts}
        cut = {name: {"skipped": dict(x.skipped), "cut": x.cut, "tokens_cut": x.tokens} for name, _, x in parts}
        return {"paths": list(self.paths), "splits": {name: {**sizes[name], **cut[name]} for name in sizes}}

    def check(self, settings: RunSettings) -> None:
        """Something of the validation examples must be left to be scored.

        Raises:
            DataError: ``training.nothing_to_score``.
        """
        if self.validation and not self._held_out[0]:
            reasons = ", ".join(self._held_out[2].skipped)
            raise DataError("training.nothing_to_score", count=len(self.validation), reasons=reasons)

    def loader(self, settings: RunSettings) -> Batches:
        train, collate = settings.train, self.task.collate
        numbers = {"batch_size": train.batch_size, "seed": train.seed, "num_workers": train.num_workers}
        return ExampleLoader(self.rows, self.lengths, self.owners, collate, **numbers)

    def tokens_per_row(self, settings: RunSettings) -> float:
        return float(np.mean(self.lengths))

    def scores(self, model: nn.Module, settings: RunSettings, evaluate: Evaluate, *, limit: int) -> dict[str, float]:
        found = predict_examples(self.task, model, self.validation, encoded=self._held_out)
        return {name: score.value for name, score in found.scores(self.task, self.validation).items()}

    def rank(self, scores: Mapping[str, float]) -> float:
        """The task's own score, turned: less is better.

        Of equal ones, the lower loss: it is added far behind.
        """
        return -scores[self.best] + _TIE * min(scores.get("loss", 0.0), 100.0)


Material = PackedText | LabelledExamples


def refuse_other(material: Material, then: str, *, path: Path) -> None:
    """Refuse to go on with something else than ``then``, of the checkpoint ``path``.

    Raises:
        DataError: ``training.data_changed``.
        CheckpointError: ``training.start_token`` when an earlier Wenlu read its documents after the end token.
    """
    if then == material.fingerprint != material.identity and isinstance(material, PackedText):
        train = material.store.train
        raise CheckpointError("training.start_token", path=path, then=train.end_id, now=train.context_id)
    if then != material.identity:
        raise DataError("training.data_changed", then=then, now=material.identity)


def open_examples(
    resolved: Resolved[RunSettings], task: LabelledTask[Any]
) -> tuple[Resolved[RunSettings], LabelledExamples]:
    """The examples of a run, and its settings with the labels that they have.

    Raises:
        SettingsError: ``training.no_data``, ``training.needs_start``.
        DataError: what ``wenlu.data.linting.announce`` finds fatal.
    """
    settings = resolved.value
    if not settings.data.paths:
        raise SettingsError("training.no_data")
    tokenizer, _ = tokenization(settings)
    if tokenizer is None:
        raise SettingsError("training.needs_start", task=settings.task.name)
    found: list[Finding] = []
    train, validation = split_examples(settings.data, task, found)
    announce([*found, *task.lint(train, validation)], len(train) + len(validation))
    task = task.resolved(train, max_length=settings.train.sequence_length)
    origins = dict(resolved.origins)
    for key in fields(type(task.settings)):
        if getattr(task.settings, key) != getattr(settings.task, key):
            origins[f"task.{key}"] = "train.sequence_length" if key == "max_length" else "training examples"
    resolved = Resolved(replace(settings, task=task.settings), origins)
    return resolved, LabelledExamples(task, tokenizer, train, validation, settings.data.paths)


def split_examples(
    data: DataSettings, task: LabelledTask[Any], found: list[Finding] | None = None
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples; wrong rows are left out with a finding each where ``found`` is given.

    Without ``data.validation_paths``, ``data.validation_fraction`` of the examples are held out, by the hash of their
    fields, so that equal ones are on one side.
    """

    def read(paths: Sequence[str]) -> list[Example]:
        rows = partial(read_examples, paths, task.schema, encoding=data.encoding)
        return task.converted(list(rows()) if found is None else collect(lambda refused: rows(refused=refused), found))

    train = read(data.paths)
    if data.validation_paths:
        return train, read(data.validation_paths)
    held = [int(digest([one])[:16], 16) / 2**64 < data.validation_fraction for one in train]
    apart: tuple[list[Example], list[Example]] = [], []
    for one, is_held in zip(train, held, strict=True):
        apart[is_held].append(one)
    return apart


def digest(examples: Sequence[Example]) -> str:
    """The SHA-256 of the fields of examples, in order."""
    found = hashlib.sha256()
    for example in examples:
        found.update(json.dumps(example.fields, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return found.hexdigest()
