"""What tasks have alike whose examples are plain texts, and objectives that make rows of their own of a corpus.

What a row draws depends on (seed, number of the row in the run) and on nothing else: not on the rows before it, nor on
the thread that makes it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from wenlu.core.errors import DataError
from wenlu.core.reproducibility import derive_seed, numpy_generator
from wenlu.data.linting import Finding
from wenlu.data.packing import IGNORE_INDEX, PackedWindows, PieceWindows
from wenlu.data.store import Int64Array, TokenStore
from wenlu.metrics.score import Score
from wenlu.models.config import Head
from wenlu.models.roles import Architecture
from wenlu.models.transformer import Transformer
from wenlu.tasks import _targets
from wenlu.tasks._base import Batch, Carried, CorpusObjective, Loss, Row, Skip, Task, TaskSettings, Term, fill, stack
from wenlu.tasks._heads import with_ids
from wenlu.tasks._targets import Guesses
from wenlu.tasks._vocabulary import Vocabulary
from wenlu.tokenization.tokenizer import Tokenizer

Windows = PackedWindows | PieceWindows
Make = Callable[[int, np.random.Generator], Row]


class TextTask(Task[str, Any, Guesses, list[Guesses]]):
    """A language model is its own head, and reads documents; see ``tasks/_base.py`` for what each method means."""

    settings: TaskSettings = TaskSettings()
    term: ClassVar[str] = "cross_entropy"
    what = counted = "tokens"
    """Targets, and those of them that accuracy counts."""

    def __init__(self, settings: TaskSettings | None = None) -> None:
        self.settings = settings or self.settings

    def check(self, rows: Sequence[str]) -> Iterator[Finding]:
        """Only an empty document is wrong."""
        for number, row in enumerate(rows, start=1):
            if not row.strip():
                yield Finding(DataError("tasks.empty_document", where=number), fatal=False)

    @abstractmethod
    def hidden(self, module: nn.Module, batch: Batch, carried: Carried | None = None) -> Tensor:
        """The states (B, S, D) at the labels."""

    def is_text(self, batch: Batch) -> Tensor | None:
        """Which labels accuracy counts; None: all of them."""
        return None

    def counts(self, batch: Batch) -> dict[str, int]:
        """The number of labels that are not ignored."""
        return {self.term: int((batch["labels"] != IGNORE_INDEX).sum())}

    def loss(self, module: nn.Module, batch: Batch, *, carried: Carried | None = None) -> Loss:
        """One term: the sum of -ln p over the targets."""
        return {self.term: self.of_targets(module, self.hidden(module, batch, carried), batch)}

    def of_targets(self, module: nn.Module, hidden_BSD: Tensor, batch: Batch) -> Term:
        """The term of the loss."""
        return _targets.cross_entropy(module, hidden_BSD, batch["labels"], chunk_rows=self.settings.chunk_rows)

    @torch.no_grad()
    def predict(self, module: nn.Module, batch: Batch) -> list[Guesses]:
        """What the model makes of each target."""
        return self.guesses(module, self.hidden(module, batch), batch)

    def guesses(self, module: nn.Module, hidden_BSD: Tensor, batch: Batch) -> list[Guesses]:
        """The same of the states."""
        labels, is_text, chunk_rows = batch["labels"], self.is_text(batch), self.settings.chunk_rows
        return _targets.guesses(module, hidden_BSD, labels, chunk_rows=chunk_rows, is_text=is_text)

    def merge(self, parts: Sequence[Guesses]) -> list[Guesses]:
        """The guesses of a document."""
        return list(parts)

    def metrics(self, predictions: Sequence[list[Guesses]], references: Sequence[str]) -> dict[str, Score]:
        """The scores of all documents."""
        return self.scores([part for parts in predictions for part in parts])

    def scores(self, parts: Sequence[Guesses]) -> dict[str, Score]:
        """The scores of guesses, with their definitions and counts."""
        return _targets.scores(parts, what=self.what, counted=self.counted)


@dataclass(frozen=True)
class Features:
    """One document without any mark, and the tables of its vocabulary."""

    input_ids: list[int]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class DrawnRows:
    """One epoch: ``make`` turns a window, by its number, into a row. Implements ``wenlu.data.loader.Epoch``."""

    windows: Windows
    make: Make
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.windows)

    def row(self, number: int) -> Row:
        """The row at this place of the epoch."""
        drawn = self.epoch * len(self.windows) + number
        return self.make(number, numpy_generator(self.seed, "tasks.row", drawn))

    def documents(self, number: int) -> list[list[int]]:
        """The documents of the one row."""
        return self.windows.documents(number)


class CorpusTask(TextTask, CorpusObjective):
    """A task whose rows are made of a corpus, each drawn from a generator of its own."""

    heads: frozenset[Head] = frozenset()

    @abstractmethod
    def windows(
        self, store: TokenStore, vocabulary: Vocabulary, sequence_length: int, **order: Any
    ) -> tuple[Windows, Make]:
        """The windows of an epoch in this ``order``, and how one becomes a row; a token that is missing is missed."""

    @abstractmethod
    def of_document(self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        """The row of one document."""

    def epoch(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        *,
        sequence_length: int,
        seed: int,
        epoch: int,
        shuffle: bool = True,
    ) -> DrawnRows:
        """Rows of this length; see ``CorpusObjective``."""
        order = {"seed": seed, "epoch": epoch, "shuffle": shuffle}
        return DrawnRows(*self.windows(store, Vocabulary.of(tokenizer), sequence_length, **order), seed, epoch)

    def encode(self, example: str, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The document's tokens."""
        ids = tokenizer.encode(example)
        return [Features(ids, Vocabulary.of(tokenizer))] if ids else Skip("empty")

    def collate(self, features: Sequence[Features], generator: torch.Generator) -> Batch:
        """A row a document, padded on the right; what it draws depends on its ids, not on the order of the rows."""
        seed, rows = int(torch.randint(1 << 62, (), generator=generator)), []
        for one in features:
            draws = numpy_generator(derive_seed(seed, ",".join(map(str, one.input_ids))), "tasks.row")
            rows.append(self.of_document(np.array(one.input_ids), one.vocabulary, draws))
        return stack(rows)


@dataclass(frozen=True)
class Lengths:
    """What a window of so many tokens becomes: columns of the encoder and of the decoder."""

    tokens: int
    inputs: int
    targets: int


class Corruption(CorpusTask):
    """A task for encoder-decoders: a damaged text goes in, a text comes out; subclasses say how it is damaged.

    A row is a window of the corpus as it stands, in which documents follow each other, as in the models' own
    pre-training; its damage has a length that is known beforehand, so that only the last window of an epoch is padded.
    """

    architecture: Architecture = "encoder_decoder"

    @abstractmethod
    def lengths(self, sequence_length: int) -> Lengths:
        """The lengths of rows of at most ``sequence_length`` columns, the same for every row."""

    @abstractmethod
    def corrupt(
        self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator
    ) -> tuple[Int64Array, Int64Array]:
        """The damaged text, and the text to be given for it; both with all their marks."""

    @abstractmethod
    def start(self, vocabulary: Vocabulary) -> int:
        """The token with which the decoder begins."""

    def equip(self, model: nn.Module, tokenizer: Tokenizer, *, seed: int) -> nn.Module:
        """A language model is its own head; it must know with which token its decoder begins."""
        start = self.start(Vocabulary.of(tokenizer))
        return with_ids(model, pad_token_id=tokenizer.pad_id, decoder_start_token_id=start)

    def windows(
        self, store: TokenStore, vocabulary: Vocabulary, sequence_length: int, **order: Any
    ) -> tuple[PackedWindows, Make]:
        """Rows of input_ids, attention_mask, decoder_input_ids, labels, and which of these are text."""
        lengths = self.lengths(sequence_length)
        columns = {"input_ids": lengths.inputs, "attention_mask": lengths.inputs}
        columns |= dict.fromkeys(("decoder_input_ids", "labels", "is_text"), lengths.targets)
        trial = np.full(lengths.tokens, vocabulary.end_id, dtype=np.int64)
        self._row(trial, vocabulary, np.random.default_rng(0))
        windows = PackedWindows(store, sequence_length=lengths.tokens, **order)

        def make(number: int, generator: np.random.Generator) -> Row:
            tokens = windows.window(number).labels
            return fill(self._row(tokens[tokens != IGNORE_INDEX], vocabulary, generator), columns)

        return windows, make

    def of_document(self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        """The document with its end token, damaged."""
        return self._row(np.append(ids, vocabulary.end_id), vocabulary, generator)

    def is_text(self, batch: Batch) -> Tensor:
        """Not sentinels and ends."""
        return batch["is_text"]

    def hidden(self, module: nn.Module, batch: Batch, carried: Carried | None = None) -> Tensor:
        """The decoder's hidden states (B, T, D)."""
        model, mask = cast(Transformer, module), batch["attention_mask"].bool()
        seen = None if bool(mask.all()) else mask
        memory = model.encode(batch["input_ids"], mask=seen)
        return model.hidden(batch["decoder_input_ids"], memory=memory, memory_mask=seen)

    def _row(self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        inputs, targets = self.corrupt(ids, vocabulary, generator)
        before = np.concatenate([[self.start(vocabulary)], targets[:-1]], dtype=np.int64)
        is_text = (~vocabulary.is_special[targets]).astype(np.int64)
        row = {"input_ids": inputs, "attention_mask": np.ones(len(inputs), dtype=np.int64)}
        return row | {"decoder_input_ids": before, "labels": targets, "is_text": is_text}
