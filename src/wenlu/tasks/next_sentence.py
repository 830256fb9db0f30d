"""BERT's mixture: masked tokens, and whether the second part of a pair follows the first (Devlin et al. 2019, 3.1).

A row holds as many pairs ``[CLS] A [SEP] B [SEP]`` as fit, each in isolation. A and B are a piece of a document cut in
two where a sentence begins. Where B does not follow, ``next_sentence`` puts text from somewhere else in its place: from
the same source, which is the file and the language that a document came from, so that neither topic nor language gives
the answer away; ``sentence_order`` exchanges the two (Lan et al. 2020, section 3.1).

Nor may the form of B give it away. Both kinds of B begin inside their documents, by one rule where a sentence does, or
neither does; have the length that both could have; and end wherever they end, but not with their document. Parts that
are exchanged begin and end with whole sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wenlu.core.errors import DataError
from wenlu.data.packing import Piece
from wenlu.data.store import Int64Array, TokenStore
from wenlu.models.config import Head
from wenlu.models.transformer import Transformer
from wenlu.tasks import _targets
from wenlu.tasks._base import IGNORE_INDEX, Batch, Carried, Loss, Row, Score, Term
from wenlu.tasks._targets import Guesses, guessed
from wenlu.tasks._vocabulary import MARKS, Vocabulary
from wenlu.tasks.masked_lm import MaskedLM, MaskSettings, joined

IS_NEXT, IS_OTHER = 0, 1
"""Labels of a pair, those of the published models."""

_LEAST = 8  # tokens of a part
_CANDIDATES = 4  # places that are looked at for a B of another place
_LOOKED = 64  # tokens in which a sentence's beginning is looked for, from a place that is drawn


@dataclass(frozen=True)
class PairSettings(MaskSettings):
    """The ``[task]`` table: what ``masked_lm`` has, and the kind of pairs.

    ``negative_rate`` of the pairs do not follow; the loss of pairs counts ``pair_weight`` times.
    """

    bounds: ClassVar = {"0 < x < 1": ("negative_rate",), "> 0": ("pair_weight",)}

    name: str = "next_sentence"
    pairs: Literal["next_sentence", "sentence_order"] = "next_sentence"
    negative_rate: float = 0.5
    pair_weight: float = 1.0


class NextSentence(MaskedLM):
    """The task; see ``tasks/_base.py`` for what each method means."""

    heads: frozenset[Head] = frozenset({"pooler", "pair"})
    settings: PairSettings = PairSettings()
    marks: ClassVar[int] = 3

    def of_piece(self, store: TokenStore, vocabulary: Vocabulary) -> Callable[[Piece, np.random.Generator], Pair]:
        """How a piece becomes a pair.

        Raises:
            DataError: ``tasks.no_sources`` for a store that does not say which files its documents came from.
        """
        if self.settings.pairs == "sentence_order":
            return super().of_piece(store, vocabulary)
        sources = Sources(store)
        return lambda piece, generator: self._pair(piece, sources, vocabulary, generator)

    def counts(self, batch: Batch) -> dict[str, int]:
        """The numbers of masked tokens and of pairs."""
        return super().counts(batch) | {"next_sentence": int((batch["pair_labels"] != IGNORE_INDEX).sum())}

    def loss(self, module: nn.Module, batch: Batch, *, carried: Carried | None = None) -> Loss:
        """Two terms: ``masked_lm``, and ``next_sentence``, the sum of -ln p over the pairs."""
        hidden_BSD = self.hidden(module, batch)
        logits_N2, labels_N = _pair_logits(module, hidden_BSD, batch["pair_labels"])
        total = F.cross_entropy(logits_N2.float(), labels_N, reduction="sum")
        pairs = Term(total, len(labels_N), self.settings.pair_weight)
        return {self.term: self.of_targets(module, hidden_BSD, batch), "next_sentence": pairs}

    @torch.no_grad()
    def predict(self, module: nn.Module, batch: Batch) -> list[Guesses]:
        """What the model makes of the masked tokens and of the pairs."""
        hidden_BSD, parts = self.hidden(module, batch), []
        for row, part in enumerate(self.guesses(module, hidden_BSD, batch)):
            found = _pair_logits(module, hidden_BSD[row : row + 1], batch["pair_labels"][row : row + 1])
            parts.append(replace(part, pairs=guessed([found], torch.ones_like(found[1]))))
        return parts

    def scores(self, parts: Sequence[Guesses]) -> dict[str, Score]:
        """Those of the masked tokens, and loss and accuracy of the pairs, where there are pairs."""
        found, pairs = super().scores(parts), [part.pairs for part in parts if part.pairs and len(part.pairs.labels)]
        if not pairs:
            return found
        kind = "pairs, other parts from the same file and language"
        if self.settings.pairs == "sentence_order":
            kind = "pairs, in order or exchanged"
        of_pairs = _targets.scores(pairs, what=kind)
        accuracy = replace(of_pairs["accuracy"], definition=f"share of {kind}, that are told apart")
        return found | {"pair_loss": of_pairs["loss"], "pair_accuracy": accuracy}

    def part(self, text: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator) -> Pair:
        """Two parts of whole sentences, in order or exchanged; one part where there are not two."""
        ends = np.flatnonzero(vocabulary.ends_sentence[text]) + 1
        if len(ends) < 3:
            return text, text[:0], IGNORE_INDEX
        cut = ends[1:-1][np.argmin(np.abs(ends[1:-1] - _place(text, generator)))]
        first, second = text[ends[0] : cut], text[cut : ends[-1]]
        if generator.random() < self.settings.negative_rate:
            return second, first, IS_OTHER
        return first, second, IS_NEXT

    def row(self, parts: Sequence[Pair], vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        """Rows as of ``masked_lm``, with segment_ids, and pair_labels at the start of each pair."""
        _, start, separator = map(vocabulary.mark, MARKS)
        none = np.zeros(0, dtype=np.int64)  # a short row may hold nothing but what stands for marks
        pieces, segments, labels = [], [none], [none]
        for first, second, label in parts:
            ids = [np.array([start]), first, np.array([separator]), second, np.array([separator])]
            whole = np.concatenate(ids if len(second) else ids[:3])
            pieces.append(whole)
            segments.append((np.arange(len(whole)) >= len(first) + 2).astype(np.int64))
            labels.append(np.append(label, np.full(len(whole) - 1, IGNORE_INDEX)))
        row = joined(pieces)
        row |= {"segment_ids": np.concatenate(segments), "pair_labels": np.concatenate(labels)}
        return self.hide(row, vocabulary, generator)

    def _pair(self, piece: Piece, sources: Sources, vocabulary: Vocabulary, generator: np.random.Generator) -> Pair:
        text = sources.store.read(piece.first, piece.stop)
        cut, is_sentence = _beginning(text, _place(text, generator), vocabulary)
        most = len(text) - cut
        other, other_is_sentence = sources.text(piece, most + 1, vocabulary, generator)
        is_other = generator.random() < self.settings.negative_rate
        length = min(most, len(other))
        if piece.last or len(other) <= most:  # a B that ends with its document would be known by it
            length -= int(generator.integers(1, max(2, length // 4)))
        is_short = not is_sentence and len(text) <= 2 * _LOOKED
        if min(cut, length) < _LEAST or is_sentence != other_is_sentence or is_short:
            return text, text[:0], IGNORE_INDEX
        second = other if is_other else text[cut:]
        return text[:cut], second[:length], IS_OTHER if is_other else IS_NEXT


Pair = tuple[Int64Array, Int64Array, int]
"""The two parts and the label; an empty second part is no pair."""


class Sources:
    """Where the text of a pair may come from: the documents of one file in one language are a source."""

    def __init__(self, store: TokenStore) -> None:
        if store.files is None:
            raise DataError("tasks.no_sources")
        keys = store.files.astype(np.int64) * len(store.language_names) + store.languages
        self.store = store
        self._order: Int64Array = np.argsort(keys, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum((np.diff(store.bounds) - 1)[self._order])])
        _, first, inverse = np.unique(keys[self._order], return_index=True, return_inverse=True)
        stops = np.append(first[1:], len(keys))
        self._range = np.empty((len(keys), 2), dtype=np.int64)  # of a document: its source's tokens, in the order
        self._range[self._order] = np.stack([self._starts[first], self._starts[stops]], axis=1)[inverse]

    def text(
        self, piece: Piece, most: int, vocabulary: Vocabulary, generator: np.random.Generator
    ) -> tuple[Int64Array, bool]:
        """At most ``most`` tokens from inside another place of the piece's source, and whether a sentence begins there.

        Every token is as likely to be near; of some places that which has most text behind it is taken. Empty where
        the source has no other text.
        """
        low, high = self._range[piece.document].tolist()
        places = generator.integers(low, high, size=_CANDIDATES)
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        documents = self._order[numbers]
        starts, ends = self.store.bounds[documents], self.store.bounds[documents + 1] - 1
        latest = np.maximum(ends - most, (starts + ends) // 2)
        begins = np.maximum(np.minimum(starts + places - self._starts[numbers], latest), starts + _LEAST)
        lows, stops = np.maximum(begins - _LOOKED, starts + _LEAST - 1), np.minimum(begins + _LOOKED + most, ends)
        apart = ((lows >= piece.stop) | (stops <= piece.first)) & (begins < stops)
        best = int(np.argmax(np.where(apart, stops - begins, 0)))
        if not apart[best]:
            return np.zeros(0, dtype=np.int64), False
        text = self.store.read(int(lows[best]), int(stops[best]))
        begin, is_sentence = _beginning(text, int(begins[best] - lows[best]), vocabulary)
        return text[begin:][:most], is_sentence


def _place(text: Int64Array, generator: np.random.Generator) -> int:
    """Somewhere in the middle half of a text."""
    return int(generator.integers(len(text) // 4, max(len(text) * 3 // 4, len(text) // 4 + 1)))


def _beginning(text: Int64Array, place: int, vocabulary: Vocabulary) -> tuple[int, bool]:
    """Where the sentence nearest to a place begins inside a text, and True; the place and False if none is near."""
    low, high = max(place - _LOOKED, 0), min(place + _LOOKED, len(text) - 1)
    sentences = low + 1 + np.flatnonzero(vocabulary.ends_sentence[text[low:high]])
    if not len(sentences):
        return place, False
    return int(sentences[np.argmin(np.abs(sentences - place))]), True


def _pair_logits(module: nn.Module, hidden_BSD: Tensor, labels_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, 2) and labels (N) of the pairs, from the states of their first tokens."""
    at = labels_BS != IGNORE_INDEX
    return cast(Transformer, module).head.judge("pair", hidden_BSD[at][:, None]), labels_BS[at]


SETTINGS = PairSettings
create = NextSentence
