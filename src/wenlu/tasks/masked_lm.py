"""Masked language modelling: predict tokens that are hidden from what stands around them (Devlin et al. 2019).

A row holds as many pieces of documents as fit, each ``[CLS] piece [SEP]`` in isolation, so that nothing is padding.
What is masked is drawn anew every time a row is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from wenlu.data.packing import PieceWindows
from wenlu.data.store import Int64Array, TokenStore
from wenlu.models.config import Head
from wenlu.tasks import _targets
from wenlu.tasks._base import IGNORE_INDEX, Architecture, Batch, Carried, Encoder, Loss, Score, Skip, Term
from wenlu.tasks._heads import with_heads, with_ids
from wenlu.tasks._masking import MaskSettings, mask
from wenlu.tasks._rows import DrawnRows, Row, fill, row_generators, stack
from wenlu.tasks._targets import Guesses
from wenlu.tasks._texts import GuessingTask
from wenlu.tasks._vocabulary import MASK, SEPARATOR, START, Vocabulary
from wenlu.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Features:
    """One document without any mark, and the tables of its vocabulary."""

    input_ids: list[int]
    vocabulary: Vocabulary


class MaskedLM(GuessingTask):
    """The task; see ``tasks/_base.py`` for what each method means."""

    architecture: Architecture = "encoder"
    heads: frozenset[Head] = frozenset()

    def __init__(self, settings: MaskSettings | None = None) -> None:
        self.settings = settings or MaskSettings()

    def special_tokens(self) -> tuple[str, ...]:
        """The mask, and the marks around a piece."""
        return MASK[0], START[0], SEPARATOR[0]

    def equip(self, model: nn.Module, tokenizer: Tokenizer, *, seed: int) -> nn.Module:
        """The head for words, and those of the task; padding has its id."""
        model = with_heads(model, self.heads | {"language_model"}, seed=seed)
        return with_ids(model, pad_token_id=tokenizer.pad_id)

    def epoch(
        self,
        store: TokenStore,
        tokenizer: Tokenizer,
        *,
        sequence_length: int,
        seed: int,
        epoch: int,
        shuffle: bool = True,
    ) -> DrawnRows[PieceWindows]:
        """Rows of input_ids, labels, position_ids and document_ids."""
        vocabulary = Vocabulary.of(tokenizer)
        self._marks(vocabulary)

        def make(windows: PieceWindows, number: int, generator: np.random.Generator) -> Row:
            texts = [store.read(piece.first, piece.stop) for piece in windows.pieces(number)]
            row = self._row(texts, vocabulary, generator)
            return fill(row, dict.fromkeys(row, sequence_length))

        windows = PieceWindows(store, sequence_length=sequence_length, marks=2, seed=seed, epoch=epoch, shuffle=shuffle)
        return DrawnRows(windows, make, seed=seed, epoch=epoch)

    def encode(self, example: str, tokenizer: Tokenizer) -> list[Features] | Skip:
        """The document's tokens."""
        ids = tokenizer.encode(example)
        return [Features(ids, Vocabulary.of(tokenizer))] if ids else Skip("empty")

    def collate(self, features: Sequence[Features], generator: torch.Generator) -> Batch:
        """A row a document, padded on the right; padding is a document of its own and no target."""
        generators = row_generators([one.input_ids for one in features], generator)
        return stack(
            [
                self._row([np.array(one.input_ids)], one.vocabulary, draws)
                for one, draws in zip(features, generators, strict=True)
            ]
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        """The number of masked tokens, changed or not."""
        return {"masked_lm": int((batch["labels"] != IGNORE_INDEX).sum())}

    def loss(self, module: nn.Module, batch: Batch, *, carried: Carried | None = None) -> Loss:
        """One term, ``masked_lm``: the sum of -ln p over the masked tokens."""
        return {"masked_lm": self._masked(module, hidden_states(module, batch), batch)}

    @torch.no_grad()
    def predict(self, module: nn.Module, batch: Batch) -> list[Guesses]:
        """What the model makes of the masked tokens."""
        return self._guesses(module, hidden_states(module, batch), batch)

    def scores(self, parts: Sequence[Guesses]) -> dict[str, Score]:
        """Accuracy counts hidden tokens only: of those chosen, some stay as they are, and need only be repeated."""
        return _targets.scores(parts, what="masked tokens", counted="masked tokens that are not shown as they are")

    def _masked(self, module: nn.Module, hidden_BSD: torch.Tensor, batch: Batch) -> Term:
        logits, chunk_rows = cast(Encoder, module).logits, self.settings.chunk_rows
        return _targets.cross_entropy(module, logits, hidden_BSD, batch["labels"], chunk_rows=chunk_rows)

    def _guesses(self, module: nn.Module, hidden_BSD: torch.Tensor, batch: Batch) -> list[Guesses]:
        logits, chunk_rows = cast(Encoder, module).logits, self.settings.chunk_rows
        is_hidden = batch["input_ids"] != batch["labels"]
        return _targets.guesses(logits, hidden_BSD, batch["labels"], chunk_rows=chunk_rows, is_text=is_hidden)

    def _marks(self, vocabulary: Vocabulary) -> tuple[int, int, int]:
        """The ids of the mask, the start and the separator."""
        return vocabulary.mark(MASK), vocabulary.mark(START), vocabulary.mark(SEPARATOR)

    def _row(self, texts: Sequence[Int64Array], vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        """The pieces in one row, each between its marks."""
        _, start, separator = self._marks(vocabulary)
        row = joined([np.concatenate([[start], text, [separator]]) for text in texts])
        return row | self._hide(row["input_ids"], row["document_ids"], vocabulary, generator)

    def _hide(
        self, ids: Int64Array, documents: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator
    ) -> Row:
        mask_id = vocabulary.mark(MASK)
        shown, labels = mask(
            ids, documents, settings=self.settings, vocabulary=vocabulary, mask_id=mask_id, generator=generator
        )
        return {"input_ids": shown, "labels": labels}


def joined(pieces: Sequence[Int64Array]) -> Row:
    """Pieces one behind another, each a document whose positions count from 0."""
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ids = np.concatenate([*pieces, np.zeros(0, dtype=np.int64)])
    positions = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return {"input_ids": ids, "position_ids": positions, "document_ids": np.repeat(np.arange(len(pieces)), lengths)}


def hidden_states(module: nn.Module, batch: Batch) -> torch.Tensor:
    """Hidden states (B, S, D) of rows of isolated pieces, with segments where the batch has them."""
    return cast(Encoder, module).hidden(
        batch["input_ids"],
        positions=batch["position_ids"],
        segments=batch.get("segment_ids"),
        document_ids=batch["document_ids"],
    )


SETTINGS = MaskSettings


def create(settings: MaskSettings) -> MaskedLM:
    """The task with these settings."""
    return MaskedLM(settings)
