"""Which tokens a masked language model must predict, and what it sees in their place.

Devlin et al. 2019, section 3.1 and appendix A.1 (rates, 80/10/10); their whole word masking; Cui et al. 2021, "Pre-
Training With Whole Word Masking for Chinese BERT"; Joshi et al. 2020, "SpanBERT", section 3.1 (spans).
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.settings import changed, refuse_outside, unused_setting
from wenlu.data.packing import IGNORE_INDEX
from wenlu.data.store import Int64Array
from wenlu.tasks._base import TaskSettings
from wenlu.tasks._vocabulary import BoolArray, Vocabulary

Floats = npt.NDArray[np.float64]
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

    name: str = "masked_lm"
    unit: Unit = "token"
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    span_stop: float = 0.2
    span_limit: int = 10

    def __post_init__(self) -> None:
        bounds = {
            ">= 1": ("chunk_rows", "span_limit"),
            "0 < x < 1": ("mask_rate", "span_stop"),
            "0 <= x <= 1": ("mask_share", "random_share"),
        }
        refuse_outside("training.range", "task", self, bounds)
        if self.mask_share + self.random_share > 1 + 1e-9:
            share, setting = self.mask_share + self.random_share, "task.mask_share + task.random_share"
            raise SettingsError("training.range", setting=setting, value=share, bounds="<= 1")
        if self.unit != "span":
            for key, value in changed(self, "task", ["span_stop", "span_limit"]).items():
                because = Notice("training.because", {"setting": "task.unit", "value": self.unit})
                raise unused_setting(key, value, because=because)
        if self.unit == "chinese_word" and importlib.util.find_spec("rjieba") is None:
            raise SettingsError("tasks.no_rjieba", setting="task.unit", value=self.unit)


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
    chosen, group = _choose(ids, documents, settings, vocabulary, generator)
    chosen &= ~vocabulary.is_special[ids]
    draws = generator.random(max(len(ids), int(group.max(initial=-1)) + 1))  # spans between documents have numbers, too
    if settings.unit == "span":
        draws = draws[group]
    shown = ids.copy()
    shown[chosen & (draws < settings.mask_share)] = mask_id
    other = chosen & (draws >= settings.mask_share) & (draws < settings.mask_share + settings.random_share)
    shown[other] = vocabulary.ordinary[generator.integers(len(vocabulary.ordinary), size=len(ids))[other]]
    return shown, np.where(chosen, ids, IGNORE_INDEX)


def _choose(
    ids: Int64Array,
    documents: Int64Array,
    settings: MaskSettings,
    vocabulary: Vocabulary,
    generator: np.random.Generator,
) -> tuple[BoolArray, Int64Array]:
    """Which tokens are chosen, and a number that those have in common which were chosen together."""
    if settings.unit == "token":
        units = np.arange(len(ids))
    else:
        units = vocabulary.chinese_words(ids) if settings.unit == "chinese_word" else vocabulary.words(ids)
    if settings.unit != "span":
        return (generator.random(len(ids)) < settings.mask_rate)[units], units
    # Words get places with a gap before each document, in which spans may begin as they do inside one: so every word,
    # the first of a document too, is as likely as any other to be in a span, and no span reaches into the next.
    gap = settings.span_limit - 1
    pieces = np.cumsum(np.diff(documents, prepend=documents[:1] - 1) != 0)
    places = units + gap * pieces
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
