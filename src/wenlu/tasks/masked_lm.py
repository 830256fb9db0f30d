"""Masked language modelling: predict tokens that are hidden from what stands around them (Devlin et al. 2019).

A row holds as many pieces of documents as fit, each ``[CLS] piece [SEP]`` in isolation, so that nothing is padding.
What is masked is drawn anew every time a row is made: section 3.1 and appendix A.1 (rates, 80/10/10), and the authors'
whole word masking; Cui et al. 2021, "Pre-Training With Whole Word Masking for Chinese BERT"; Joshi et al. 2020,
"SpanBERT", section 3.1 (spans).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
from torch import Tensor, nn

from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.settings import refuse_changed
from wenlu.data.packing import Piece, PieceWindows
from wenlu.data.store import Int64Array, TokenStore
from wenlu.metrics.significance import Floats
from wenlu.models.transformer import Transformer
from wenlu.tasks._base import IGNORE_INDEX, Architecture, Batch, Carried, Row, TaskSettings, fill
from wenlu.tasks._corpus import CorpusTask, Make
from wenlu.tasks._heads import with_heads, with_ids
from wenlu.tasks._vocabulary import MARKS, MASK, BoolArray, Vocabulary
from wenlu.tokenization.tokenizer import Tokenizer

Unit = Literal["token", "word", "chinese_word", "span"]


@dataclass(frozen=True)
class MaskSettings(TaskSettings):
    """The part of the ``[task]`` table that says what is masked.

    Every ``unit`` is chosen with the probability ``mask_rate``, so that this share of all tokens is: single tokens;
    whole words, as spaces and letters show them (an ideograph is one); with ``chinese_word`` jieba cuts ideographs into
    words; or spans of words. A span's length is drawn from a geometric distribution with the parameter ``span_stop``,
    cut off at ``span_limit`` words, which has a mean of 3.8 words as it stands. Of the chosen tokens the share
    ``mask_share`` is shown as the mask, ``random_share`` as another token, the rest as it is; of a span, all alike.
    """

    bounds: ClassVar = {
        ">= 1": ["span_limit"],
        "0 < x < 1": ["mask_rate", "span_stop"],
        "0 <= x <= 1": ["mask_share", "random_share"],
    }

    name: str = "masked_lm"
    unit: Unit = "token"
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    span_stop: float = 0.2
    span_limit: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_share + self.random_share > 1 + 1e-9:
            share, setting = self.mask_share + self.random_share, "task.mask_share + task.random_share"
            raise SettingsError("training.range", setting=setting, value=share, bounds="<= 1")
        if self.unit != "span":
            because = Notice("training.because", {"setting": "task.unit", "value": self.unit})
            refuse_changed(self, "task", ["span_stop", "span_limit"], because=because)
        if self.unit == "chinese_word" and importlib.util.find_spec("rjieba") is None:
            raise SettingsError("tasks.no_rjieba", setting="task.unit", value=self.unit)


class MaskedLM(CorpusTask):
    """The task; see ``tasks/_base.py`` for what each method means.

    Accuracy counts hidden tokens only: of those chosen, some stay as they are, and need only be repeated.
    """

    architecture: Architecture = "encoder"
    settings: MaskSettings = MaskSettings()
    term: ClassVar[str] = "masked_lm"
    what, counted = "masked tokens", "masked tokens that are not shown as they are"
    marks: ClassVar[int] = 2
    """Special tokens around a piece."""

    def special_tokens(self) -> tuple[str, ...]:
        """The mask, and the marks around a piece."""
        return tuple(names[0] for names in MARKS)

    def equip(self, model: nn.Module, tokenizer: Tokenizer, *, seed: int) -> nn.Module:
        """The head for words, and those of the task; padding has its id."""
        model = with_heads(model, self.heads | {"language_model"}, seed=seed)
        return with_ids(model, pad_token_id=tokenizer.pad_id)

    def windows(
        self, store: TokenStore, vocabulary: Vocabulary, sequence_length: int, **order: Any
    ) -> tuple[PieceWindows, Make]:
        """Rows of input_ids, labels, position_ids and document_ids."""
        for names in MARKS:
            vocabulary.mark(names)
        part = self.of_piece(store, vocabulary)
        windows = PieceWindows(store, sequence_length=sequence_length, marks=self.marks, **order)

        def make(number: int, generator: np.random.Generator) -> Row:
            row = self.row([part(piece, generator) for piece in windows.pieces(number)], vocabulary, generator)
            return fill(row, dict.fromkeys(row, sequence_length))

        return windows, make

    def of_piece(self, store: TokenStore, vocabulary: Vocabulary) -> Callable[[Piece, np.random.Generator], Any]:
        """How a piece of the store becomes a part of a row; as it stands, by its text alone."""
        return lambda piece, generator: self.part(store.read(piece.first, piece.stop), vocabulary, generator)

    def part(self, text: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator) -> Any:
        """How a text becomes a part of a row."""
        return text

    def row(self, parts: Sequence[Any], vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        """The pieces in one row, each between its marks."""
        _, start, separator = map(vocabulary.mark, MARKS)
        pieces = [np.concatenate([[start], text, [separator]]) for text in parts]
        return self.hide(joined(pieces), vocabulary, generator)

    def of_document(self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        """A row of one piece; padding is a document of its own and no target."""
        return self.row([self.part(ids, vocabulary, generator)], vocabulary, generator)

    def hide(self, row: Row, vocabulary: Vocabulary, generator: np.random.Generator) -> Row:
        """The row as the model sees it, and the labels."""
        ids, documents, mask_id = row["input_ids"], row["document_ids"], vocabulary.mark(MASK)
        shown, labels = mask(
            ids, documents, settings=self.settings, vocabulary=vocabulary, mask_id=mask_id, generator=generator
        )
        return row | {"input_ids": shown, "labels": labels}

    def hidden(self, module: nn.Module, batch: Batch, carried: Carried | None = None) -> Tensor:
        """Hidden states (B, S, D) of rows of isolated pieces, with segments where the batch has them."""
        places, segments, documents = batch["position_ids"], batch.get("segment_ids"), batch["document_ids"]
        model = cast(Transformer, module)
        return model.hidden(batch["input_ids"], positions=places, segments=segments, document_ids=documents)

    def is_text(self, batch: Batch) -> Tensor:
        """Not tokens that are shown as they are."""
        return batch["input_ids"] != batch["labels"]


def joined(pieces: Sequence[Int64Array]) -> Row:
    """Pieces one behind another, each a document whose positions count from 0."""
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ids = np.concatenate([*pieces, np.zeros(0, dtype=np.int64)])
    positions = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return {"input_ids": ids, "position_ids": positions, "document_ids": np.repeat(np.arange(len(pieces)), lengths)}


def mask(
    ids: Int64Array,
    documents: Int64Array,
    *,
    settings: MaskSettings,
    vocabulary: Vocabulary,
    mask_id: int,
    generator: np.random.Generator,
) -> tuple[Int64Array, Int64Array]:
    """The ids as the model sees them, and the labels; special tokens are never chosen.

    ``documents`` say which tokens stand together: no span goes from one to another.
    """
    if settings.unit == "token":
        group = np.arange(len(ids))
    else:
        group = vocabulary.chinese_words(ids) if settings.unit == "chinese_word" else vocabulary.words(ids)
    if settings.unit == "span":
        chosen, group = _spans(group, documents, settings, generator)
    else:
        chosen = (generator.random(len(ids)) < settings.mask_rate)[group]
    chosen &= ~vocabulary.is_special[ids]
    draws = generator.random(max(len(ids), int(group.max(initial=-1)) + 1))  # spans between documents have numbers, too
    if settings.unit == "span":
        draws = draws[group]
    shown = ids.copy()
    shown[chosen & (draws < settings.mask_share)] = mask_id
    other = chosen & (draws >= settings.mask_share) & (draws < settings.mask_share + settings.random_share)
    shown[other] = vocabulary.ordinary[generator.integers(len(vocabulary.ordinary), size=len(ids))[other]]
    return shown, np.where(chosen, ids, IGNORE_INDEX)


def _spans(
    words: Int64Array, documents: Int64Array, settings: MaskSettings, generator: np.random.Generator
) -> tuple[BoolArray, Int64Array]:
    """Which tokens are chosen, and a number that those have in common which were chosen together."""
    # Words get places with a gap before each document, in which spans may begin as they do inside one: so every word,
    # the first of a document too, is as likely as any other to be in a span, and no span reaches into the next.
    gap = settings.span_limit - 1
    pieces = np.cumsum(np.diff(documents, prepend=documents[:1] - 1) != 0)
    places = words + gap * pieces
    size = int(places[-1]) + 1 if len(places) else 0
    stop, limit = settings.span_stop, settings.span_limit
    starts = np.flatnonzero(generator.random(size) < _start_rate(settings.mask_rate, stop, limit))
    lengths = 1 + np.searchsorted(_lengths(stop, limit)[:-1], generator.random(len(starts)), side="right")
    change = np.zeros(size + settings.span_limit + 1, dtype=np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + lengths, -1)
    inside = np.cumsum(change)[:size] > 0
    runs = np.cumsum(np.diff(inside, prepend=False) & inside)
    return inside[places], runs[places]


@functools.cache
def _lengths(stop: float, limit: int) -> Floats:
    """P(length <= 1), ..., P(length <= limit) of a geometric distribution that is cut off and scaled to 1."""
    shares = stop * (1 - stop) ** np.arange(limit)
    return np.cumsum(shares / shares.sum())


@functools.cache
def _start_rate(mask_rate: float, stop: float, limit: int) -> float:
    """The probability with which a span begins at a word so that a word is in one with the probability of the mask.

    A word is in none when no span of more than k words began k words before it: the product of 1 - q P(length > k).
    """
    longer = 1 - np.concatenate([np.zeros(1), _lengths(stop, limit)[:-1]])
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - np.prod(1 - middle * longer) < mask_rate else (low, middle)
    return (low + high) / 2


SETTINGS = MaskSettings
create = MaskedLM
