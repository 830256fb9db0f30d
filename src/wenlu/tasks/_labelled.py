"""What tasks have alike that learn from labelled examples: texts framed for the model, rows padded, heads put on.

A long text is cut to the length of the run and it is said, or refused; never cut in silence.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core import plugins
from wenlu.core.errors import DataError, RequestError
from wenlu.data.examples import Example, FieldKind, Schema
from wenlu.data.linting import lint
from wenlu.models.config import Head
from wenlu.models.roles import Architecture
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import IGNORE_INDEX, Batch, Carried, Finding, Loss, Skip, Task, TaskSettings, Term, stack
from wenlu.tasks._heads import with_task_head
from wenlu.tokenization.tokenizer import Tokenizer

Truncation = Literal["head", "tail", "middle", "error"]
PartT = TypeVar("PartT")
Prediction = Mapping[str, Any]
"""An answer in the user's units, ready for JSON."""

_ASKED: Mapping[FieldKind, FieldKind] = {"frames": "predicates"}
"""Fields that hold questions and answers, and what they are without the answers."""


@dataclass(frozen=True)
class LabelledSettings(TaskSettings):
    """The ``[task]`` table of a task with labels.

    ``labels`` are those of the training examples unless given, and then written into ``run.toml``. A text of more than
    ``max_length`` tokens (0: the run's sequence length) keeps its ``head``, its ``tail``, or both ends without the
    ``middle``; ``error`` refuses it.
    """

    bounds: ClassVar = {">= 0": ("max_length",)}

    labels: tuple[str, ...] = ()
    max_length: int = 0
    truncation: Truncation = "head"


@dataclass(frozen=True, eq=False)
class Features:
    """One row: its arrays by the names of a batch, how many tokens were left out, and what an answer needs besides."""

    columns: dict[str, np.ndarray[Any, Any]]
    cut: int = 0
    extra: Any = None


class LabelledTask(Task[Example, Features, PartT, Prediction]):
    """The side that is the same; see ``tasks/_base.py`` for what each method means."""

    schema: ClassVar[Schema]
    head: ClassVar[Head]
    architectures: ClassVar[frozenset[Architecture]] = frozenset({"encoder", "decoder"})
    settings: LabelledSettings = LabelledSettings()

    def __init__(self, settings: LabelledSettings | None = None) -> None:
        self.settings = settings or self.settings

    @property
    @abstractmethod
    def best(self) -> str:
        """The score that tells the best evaluation."""

    @property
    def _answers(self) -> frozenset[str]:
        kinds = ("label", "labels", "tags")
        return frozenset(name for name, kind in self.schema.fields.items() if kind in kinds)

    @property
    def questions(self) -> Schema:
        """The schema of rows whose answers nobody knows yet."""
        fields = {name: _ASKED.get(kind, kind) for name, kind in self.schema.fields.items()}
        return replace(self.schema, fields=fields, optional=self.schema.optional | self._answers)

    def unanswered(self, example: Example) -> Example:
        """The example without the answers that it may have."""
        return replace(example, fields={k: value for k, value in example.fields.items() if k not in self._answers})

    def inventory(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """The labels of examples, sorted; empty for a task without."""
        return ()

    def resolved(self, examples: Sequence[Example], *, max_length: int) -> Self:
        """The task with nothing left open: the labels of its training examples, the length of its rows."""
        labels = self.settings.labels or self.inventory(examples)
        return self.changed(labels=labels, max_length=self.settings.max_length or max_length)

    def changed(self, **settings: Any) -> Self:
        """The task with other settings."""
        task = copy.copy(self)
        task.settings = replace(self.settings, **settings)
        return task

    def equip(self, model: nn.Module, tokenizer: Tokenizer, *, seed: int) -> nn.Module:
        """The model with the task's head and labels in place of the heads that it had."""
        return with_task_head(model, self.head, self.settings.labels, pad_token_id=tokenizer.pad_id, seed=seed)

    def check(self, rows: Sequence[Example]) -> Iterator[Finding]:
        """Labels that the training examples do not have, each at its first row."""
        unknown: dict[str, list[str]] = {}
        for row in rows if self.settings.labels else ():
            for label in sorted({*self.inventory([row])} - {*self.settings.labels}):
                unknown.setdefault(label, []).append(row.where)
        field = next((name for name, kind in self.schema.fields.items() if kind in ("label", "labels", "tags")), "-")
        for label, places in unknown.items():
            near = plugins.closest(label, [*self.settings.labels])
            values = {"label": label, "count": len(places), "near": near, "known": ", ".join(self.settings.labels[:20])}
            yield Finding(DataError("tasks.unknown_label", where=places[0], field=field, **values))

    def lint(self, train: Sequence[Example], validation: Sequence[Example]) -> Iterator[Finding]:
        """All that is wrong with the examples of a run; see ``wenlu.data.linting``."""
        yield from lint(train, validation, self.schema)
        if train:
            yield from self.resolved(train, max_length=1).check([*train, *validation])

    def refuse_unknown(self, rows: Sequence[Example]) -> None:
        """Refuse rows whose labels the training examples do not have.

        Raises:
            DataError: ``tasks.unknown_labels``, with the names and counts.
        """
        if unknown := [finding.error.values for finding in self.check(rows)]:
            names = ", ".join(f"{one['label']} ({one['count']})" for one in unknown[:8])
            raise DataError("tasks.unknown_labels", names=names, known=", ".join(self.settings.labels[:20]))

    def converted(self, examples: Sequence[Example]) -> list[Example]:
        """The examples of a file in the one form that the task reads."""
        return list(examples)

    def of_texts(
        self, example: Example, tokenizer: Tokenizer, *, labels: np.ndarray[Any, Any] | None
    ) -> list[Features] | Skip:
        """The row of an example's text, or of its two texts, with the labels where it has any."""
        texts = [example.fields[name] for name in ("text", "text_pair") if name in self.schema.fields]
        first, *second = tokenizer.encode_batch(texts, where=[example.where] * len(texts))
        if not all([first, *second]):
            return Skip("empty")
        row = self.framed(first, second[0] if second else None, tokenizer, example.where)
        return [row if labels is None else replace(row, columns={**row.columns, "labels": labels})]

    def of_text(self, text: str, where: str) -> Example:
        """The row of a plain text, for a task that reads one.

        Raises:
            RequestError: ``tasks.needs_fields`` where a row has more.
        """
        if not self.reads_text:
            fields = ", ".join(self._needed)
            raise RequestError("tasks.needs_fields", task=self.settings.name, fields=fields, where=where)
        return Example({self._needed[0]: text}, where)

    @property
    def reads_text(self) -> bool:
        """Whether a row without its answer is one text."""
        return [self.schema.fields[name] for name in self._needed] == ["text"]

    @property
    def _needed(self) -> list[str]:
        return [name for name in self.questions.fields if name not in self.questions.optional]

    def framed(self, first: Sequence[int], second: Sequence[int] | None, tokenizer: Tokenizer, where: str) -> Features:
        """The ids of one text or two between their special tokens, cut to the length of a row; no labels yet.

        Of two texts the longer one is cut.

        Raises:
            DataError: ``tasks.too_long`` where nothing may be cut, or where special tokens leave no room.
        """
        room = self.settings.max_length - tokenizer.template.num_special[second is not None]
        over = len(first) + len(second or ()) - room
        self._refuse_long(room + over, room, where, least=2)
        if over > 0:
            half, lengths = room // 2, (len(first), len(second or ()))
            first = self._shortened(first, min(lengths[0], max(half, room - lengths[1])))
            second = second and self._shortened(second, min(lengths[1], max(room - half, room - lengths[0])))
        made = tokenizer.with_special_tokens(first, second)
        columns = {"input_ids": np.array(made.ids, dtype=np.int64)}
        if second is not None:
            columns["segment_ids"] = np.array(made.segments, dtype=np.int64)
        return Features(columns, cut=max(over, 0))

    def _refuse_long(self, tokens: int, limit: int, where: str, *, least: int = 1) -> None:
        """Refuse a text that is too long where nothing may be cut, or less than ``least`` would be left.

        Raises:
            DataError: ``tasks.too_long``.
        """
        if tokens > limit and (self.settings.truncation == "error" or limit < least):
            raise DataError("tasks.too_long", where=where, tokens=tokens, limit=max(limit, 0))

    def _shortened(self, ids: Sequence[int], length: int) -> Sequence[int]:
        """What is left of so many tokens, as ``truncation`` says."""
        first = {"tail": 0, "middle": length - length // 2}.get(self.settings.truncation, length)
        return ids if len(ids) <= length else [*ids[:first], *ids[len(ids) - length + first :]]

    def collate(self, features: Sequence[Features], generator: torch.Generator | None = None) -> Batch:
        """Rows padded on the right; ``attention_mask`` is False at padding. Of answers all rows have one, or none."""
        lengths = torch.tensor([len(row.columns["input_ids"]) for row in features])
        names = [name for name in features[0].columns if all(name in row.columns for row in features)]
        batch = stack([{name: row.columns[name] for name in names} for row in features])
        return batch | {"attention_mask": torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]}

    def learned(self, labels: Tensor) -> Tensor:
        """Which rows, or which of their places, have something to be learned."""
        return labels != IGNORE_INDEX

    def counts(self, batch: Batch) -> dict[str, int]:
        """The number of targets."""
        return {self.settings.name: int(self.learned(batch["labels"]).sum())}

    def shown(self, answer: Prediction) -> str:
        """What a table shows of an answer: its first value."""
        value = next(iter(answer.values()))
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


AnyLabelled = LabelledTask[Any]


@dataclass(frozen=True, eq=False)
class Judged:
    """What a model says of one row: probabilities, and the natural-log probabilities of its labels where it has any."""

    probabilities: np.ndarray[Any, Any]
    log_prob: list[float] | None = None
    extra: Any = None


class JudgingTask(LabelledTask[Judged]):
    """A task whose labels a head judges."""

    def states(self, module: nn.Module, batch: Batch) -> Tensor:
        """The hidden states (B, S, D) of the rows."""
        model, mask = cast(Transformer, module), batch["attention_mask"]
        segments = batch.get("segment_ids") if model.config.main.num_segments > 1 else None
        return model.hidden(batch["input_ids"], mask=None if bool(mask.all()) else mask, segments=segments)

    def judged(self, module: nn.Module, batch: Batch) -> Tensor:
        """Logits of the task's head in float32."""
        model, mask = cast(Transformer, module), batch["attention_mask"]
        return model.head.judge(self.head, self.states(module, batch), None if bool(mask.all()) else mask).float()

    def nats(self, logits: Tensor, labels: Tensor) -> Tensor:
        """-ln p of the labels, in the shape of ``learned``."""
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the model says of rows, in the shape of their logits."""
        return logits.log_softmax(dim=-1).exp().double()

    def loss(self, module: nn.Module, batch: Batch, *, carried: Carried | None = None) -> Loss:
        """One term: the sum of -ln p over the targets."""
        total = self.nats(self.judged(module, batch), batch["labels"]).sum()
        return {name: Term(total, count) for name, count in self.counts(batch).items()}

    @torch.no_grad()
    def predict(self, module: nn.Module, batch: Batch) -> list[Judged]:
        """The probabilities of the labels, and the log-probabilities of those that are known."""
        logits = self.judged(module, batch).cpu()
        known: list[list[float] | None] = [None] * len(logits)
        if "labels" in batch:
            labels = batch["labels"].cpu()
            pairs = zip(-self.nats(logits, labels), self.learned(labels), strict=True)
            known = [log_probs[there].tolist() for log_probs, there in pairs]
        rows = self.probabilities(logits).numpy()
        return [Judged(row, log_probs) for row, log_probs in zip(rows, known, strict=True)]
