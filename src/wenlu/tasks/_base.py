"""What every task is: the protocol, and the records that pass between a task, the trainer and the evaluator.

A pre-training objective is a task whose examples are windows of a corpus. A module of this folder offers
``create(settings) -> Task`` and ``SETTINGS``, the class of its ``[task]`` table; its name is the task's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from wenlu.core.settings import refuse_outside
from wenlu.data.linting import Finding as Finding
from wenlu.data.packing import PADDING_DOCUMENT
from wenlu.metrics.score import Score as Score
from wenlu.models.roles import Architecture as Architecture
from wenlu.tokenization.tokenizer import Tokenizer

if TYPE_CHECKING:
    from wenlu.data.loader import Epoch
    from wenlu.data.store import TokenStore
    from wenlu.models.config import Head
    from wenlu.tasks._targets import Guesses

IGNORE_INDEX = -100
"""The label of a position that is not a target."""

Batch = dict[str, Tensor]
"""Tensors of one micro-batch under the field's names: input_ids, labels, position_ids, document_ids, attention_mask."""

Array = np.ndarray[Any, Any]
Row = dict[str, Array]
"""One row of a batch, by the same names."""

ExampleT = TypeVar("ExampleT")
FeaturesT = TypeVar("FeaturesT")
PartT = TypeVar("PartT")
PredictionT = TypeVar("PredictionT")


@dataclass(frozen=True)
class TaskSettings:
    """The ``[task]`` table. ``chunk_rows`` positions at a time are turned into vocabulary-sized logits."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    bounds: ClassVar[Mapping[str, Sequence[str]]] = {">= 1": ("chunk_rows",)}
    """What the settings of this very class may be; see ``core.settings.refuse_outside``."""

    name: str = "causal_lm"
    chunk_rows: int = 512

    def __post_init__(self) -> None:
        for cls in reversed(type(self).__mro__):
            refuse_outside("training.range", "task", self, vars(cls).get("bounds", {}))


@dataclass(frozen=True)
class Term:
    """One named part of a loss: the sum over its targets (a scalar with a gradient), their number, and its weight."""

    total: Tensor
    count: int
    weight: float = 1.0


Loss = dict[str, Term]
"""The terms of a loss by name. What is minimised is the sum of weight * total / count over the whole step."""


@dataclass(frozen=True)
class Skip:
    """Why an example cannot be used; counted and shown."""

    reason: str


@runtime_checkable
class Carried(Protocol):
    """State that a recurrent model carries from one window to the next (its cache)."""

    def detach_(self) -> None:
        """Cut the gradient path to the windows before (truncated back-propagation through time)."""

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, to be saved in a checkpoint."""

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state back; the exact inverse of ``tensors``."""


class Objective(Protocol):
    """The side of a task that the trainer uses."""

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """The number of targets of each term, from the batch alone; a step divides by their sums before backward."""

    def loss(self, module: nn.Module, batch: Batch, *, carried: Carried | None = None) -> Loss:
        """The named terms of one micro-batch."""


@runtime_checkable
class CorpusObjective(Protocol):
    """An objective that makes rows of its own of a corpus; any other reads packed windows of next tokens.

    ``architecture`` is what it trains, ``heads`` what that needs besides the one for words. Every random draw of a row
    depends on (seed, number of the row in the run).
    """

    architecture: Architecture
    heads: frozenset[Head]
    settings: TaskSettings

    def special_tokens(self) -> tuple[str, ...]:
        """What a tokenizer that is trained for it needs besides its own special tokens."""

    def equip(self, model: nn.Module, tokenizer: Tokenizer, *, seed: int) -> nn.Module:
        """The model with the heads that it needs, drawn from the seed, and the ids that its config must say."""

    def epoch(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        *,
        sequence_length: int,
        seed: int,
        epoch: int,
        shuffle: bool = True,
    ) -> Epoch:
        """One epoch of rows of ``sequence_length`` columns.

        Raises:
            TokenizerError: ``tasks.token_missing`` when the vocabulary lacks a special token.
        """

    def predict(self, module: nn.Module, batch: Batch) -> Sequence[Guesses]:
        """One part for each row of the batch, in order."""

    def scores(self, parts: Sequence[Guesses]) -> dict[str, Score]:
        """What the parts of held-out rows come to; ``loss`` is among it."""


class Task(Objective, Protocol[ExampleT, FeaturesT, PartT, PredictionT]):
    """An objective with everything around it, from a source's examples to a score."""

    def examples(self, source: Sequence[ExampleT], generator: torch.Generator) -> Iterator[ExampleT]:
        """The examples of one pass; objectives cut, pair or sample here, drawing only from ``generator``.

        As it stands, all of them in a random order.
        """
        for index in torch.randperm(len(source), generator=generator).tolist():
            yield source[index]

    def check(self, rows: Sequence[ExampleT]) -> Iterator[Finding]:
        """What is wrong with the rows, for the data linter."""

    def build(self, model: nn.Module) -> nn.Module:
        """Put the task's head on the model (often: the model itself)."""
        return model

    def encode(self, example: ExampleT, tokenizer: Tokenizer) -> list[FeaturesT] | Skip:
        """Token ids and labels; several where a long example is read in strides."""

    def collate(self, features: Sequence[FeaturesT], generator: torch.Generator) -> Batch:
        """Pad, mask, corrupt; drawing only from ``generator``."""

    def predict(self, module: nn.Module, batch: Batch) -> list[PartT]:
        """One part for each row of the batch, in order."""

    def merge(self, parts: Sequence[PartT]) -> PredictionT:
        """One answer an example, in the user's units."""

    def metrics(self, predictions: Sequence[PredictionT], references: Sequence[ExampleT]) -> dict[str, Score]:
        """The task's scores."""


_PADDING = {"labels": IGNORE_INDEX, "pair_labels": IGNORE_INDEX, "document_ids": PADDING_DOCUMENT}


def fill(row: Mapping[str, Array], lengths: Mapping[str, int]) -> Row:
    """The row with every array padded at the right to its length; what is too long is an error of the program."""
    return {name: _padded(array, lengths[name] - len(array), name) for name, array in row.items()}


def stack(rows: Sequence[Mapping[str, Array]]) -> Batch:
    """A batch of rows of any lengths; arrays without a dimension are one number a row."""
    flat = {name for name, array in rows[0].items() if not array.ndim}
    lengths = {name: max(len(row[name]) for row in rows) for name in rows[0] if name not in flat}
    columns = [
        {name: row[name] for name in flat} | fill({name: row[name] for name in lengths}, lengths) for row in rows
    ]
    return {name: torch.from_numpy(np.stack([row[name] for row in columns])) for name in rows[0]}


def _padded(array: Array, missing: int, name: str) -> Array:
    if not missing:
        return array
    if name == "position_ids":
        return np.concatenate([array, np.arange(missing)])
    return np.concatenate([array, np.full(missing, _PADDING.get(name, 0), dtype=array.dtype)])
