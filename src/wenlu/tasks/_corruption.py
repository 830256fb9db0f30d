"""What the objectives of encoder-decoders share: a damaged text goes in, a text comes out, token by token.

A row is a window of the corpus as it stands, in which documents follow each other, as in the models' own pre-training;
its damage has a length that is known beforehand, so that only the last window of an epoch is padded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from wenlu.data.packing import PackedWindows
from wenlu.data.store import Int64Array, TokenStore
from wenlu.models.config import Head
from wenlu.tasks import _targets
from wenlu.tasks._base import (
    IGNORE_INDEX,
    Architecture,
    Batch,
    Carried,
    EncoderDecoder,
    Loss,
    Score,
    Skip,
    TaskSettings,
)
from wenlu.tasks._heads import with_ids
from wenlu.tasks._rows import DrawnRows, Row, fill, row_generators, stack
from wenlu.tasks._targets import Guesses
from wenlu.tasks._texts import GuessingTask
from wenlu.tasks._vocabulary import Vocabulary
from wenlu.tokenization.tokenizer import Tokenizer

SettingsT = TypeVar("SettingsT", bound=TaskSettings)


@dataclass(frozen=True)
class Features:
    """One document with its end token, and the tables of its vocabulary."""

    input_ids: list[int]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Lengths:
    """What a window of so many tokens becomes: columns of the encoder and of the decoder."""

    tokens: int
    inputs: int
    targets: int


class Corruption(GuessingTask, Generic[SettingsT]):
    """A task for encoder-decoders: subclasses say how a text is damaged; see ``tasks/_base.py`` for the methods."""

    architecture: Architecture = "encoder_decoder"
    heads: frozenset[Head] = frozenset()
    what = counted = "tokens"

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings

    @abstractmethod
    def special_tokens(self) -> tuple[str, ...]:
        """What a tokenizer that is trained for it needs besides its own special tokens."""

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

    def epoch(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        *,
        sequence_length: int,
        seed: int,
        epoch: int,
        shuffle: bool = True,
    ) -> DrawnRows[PackedWindows]:
        """Rows of input_ids, attention_mask, decoder_input_ids, labels, and which of these are text."""
        vocabulary, lengths = Vocabulary.of(tokenizer), self.lengths(sequence_length)
        columns = {"input_ids": lengths.inputs, "attention_mask": lengths.inputs}
        columns |= dict.fromkeys(("decoder_input_ids", "labels", "is_text"), lengths.targets)

        def make(windows: PackedWindows, number: int, generator: np.random.Generator) -> Row:
            tokens = windows.window(number).labels
            return fill(self._row(tokens[tokens != IGNORE_INDEX], vocabulary, generator), columns)

        trial = np.full(lengths.tokens, vocabulary.end_id, dtype=np.int64)
        self._row(trial, vocabulary, np.random.default_rng(0))  # a token that is missing is missed now
        windows = PackedWindows(store, sequence_length=lengths.tokens, seed=seed, epoch=epoch, shuffle=shuffle)
        return DrawnRows(windows, make, seed=seed, epoch=epoch)

    def encode(self, example: str, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The document's tokens and the end token."""
        ids = tokenizer.encode(example)
        return [Features([*ids, tokenizer.end_id], Vocabulary.of(tokenizer))] if ids else Skip("empty")

    def collate(self, features: Sequence[Features], generator: torch.Generator) -> Batch:
        """A row a document, padded on the right."""
        generators = row_generators([one.input_ids for one in features], generator)
        pairs = zip(features, generators, strict=True)
        return stack([self._row(np.array(one.input_ids), one.vocabulary, draws) for one, draws in pairs])

    def counts(self, batch: Batch) -> dict[str, int]:
        """The number of tokens that the decoder must give."""
        return {"cross_entropy": int((batch["labels"] != IGNORE_INDEX).sum())}

    def loss(self, module: nn.Module, batch: Batch, *, carried: Carried | None = None) -> Loss:
        """One term, ``cross_entropy``: the sum of -ln p over what the decoder must give."""
        logits, chunk_rows = cast(EncoderDecoder, module).logits, self.settings.chunk_rows
        hidden_BSD, labels_BS = self._hidden(module, batch), batch["labels"]
        return {"cross_entropy": _targets.cross_entropy(module, logits, hidden_BSD, labels_BS, chunk_rows=chunk_rows)}

    @torch.no_grad()
    def predict(self, module: nn.Module, batch: Batch) -> list[Guesses]:
        """What the model makes of each token when it is given those before."""
        logits, hidden = cast(EncoderDecoder, module).logits, self._hidden(module, batch)
        labels, is_text, chunk_rows = batch["labels"], batch["is_text"], self.settings.chunk_rows
        return _targets.guesses(logits, hidden, labels, chunk_rows=chunk_rows, is_text=is_text)

    def scores(self, parts: Sequence[Guesses]) -> dict[str, Score]:
        """The same of parts."""
        return _targets.scores(parts, what=self.what, counted=self.counted)

    def _hidden(self, module: nn.Module, batch: Batch) -> Tensor:
        """The decoder's hidden states (B, T, D)."""
        model, mask = cast(EncoderDecoder, module), batch["attention_mask"].bool()
        seen = None if bool(mask.all()) else mask
        memory = model.encode(batch["input_ids"], mask=seen)
        return model.hidden(batch["decoder_input_ids"], memory=memory, memory_mask=seen)

    def _row(self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        inputs, targets = self.corrupt(ids, vocabulary, generator)
        before = np.concatenate([[self.start(vocabulary)], targets[:-1]], dtype=np.int64)
        seen = np.ones(len(inputs), dtype=np.int64)
        is_text = (~vocabulary.is_special[targets]).astype(np.int64)
        row = {"input_ids": inputs, "attention_mask": seen}
        return row | {"decoder_input_ids": before, "labels": targets, "is_text": is_text}
