"""Denoising: give back a text whose sentences are out of order and whose spans are each one mask (Lewis et al. 2020).

BART draws the lengths of spans from a Poisson distribution until enough tokens are masked; here the numbers of masked
tokens and of spans are fixed, so that rows have one length, and the lengths are Poisson's under this condition, which
is a multinomial distribution. A span of length 0 is a mask between two tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wenlu.core.errors import SettingsError
from wenlu.data.store import Int64Array
from wenlu.tasks._base import TaskSettings
from wenlu.tasks._corpus import Corruption, Lengths
from wenlu.tasks._vocabulary import MARKS, SEPARATOR, Vocabulary


@dataclass(frozen=True)
class DenoisingSettings(TaskSettings):
    """The ``[task]`` table: the share ``mask_rate`` of the tokens goes, in spans of ``mean_span`` tokens on average.

    ``permute_rate`` is the share of windows in which the sentences of each document are put into a random order.
    """

    bounds: ClassVar = {">= 1": ("mean_span",), "0 <= x < 1": ("mask_rate",), "0 <= x <= 1": ("permute_rate",)}

    name: str = "denoising"
    mask_rate: float = 0.3
    mean_span: float = 3.0
    permute_rate: float = 1.0


class Denoising(Corruption):
    """The task; see ``tasks/_base.py`` for what each method means."""

    settings: DenoisingSettings = DenoisingSettings()
    what, counted = "tokens of the text and its marks", "tokens of the text"

    def special_tokens(self) -> tuple[str, ...]:
        """The mask, and the marks around a text."""
        return tuple(names[0] for names in MARKS)

    def start(self, vocabulary: Vocabulary) -> int:
        """BART's decoder begins with the separator."""
        return vocabulary.mark(SEPARATOR)

    def lengths(self, sequence_length: int) -> Lengths:
        """The decoder's row has the full length."""
        tokens = sequence_length - 2
        if tokens < 1:
            raise SettingsError("tasks.window", length=sequence_length)
        masked, spans = self._numbers(tokens)
        return Lengths(tokens, tokens - masked + spans + 2, sequence_length)

    def corrupt(
        self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator
    ) -> tuple[Int64Array, Int64Array]:
        """The sentences in a random order with masks for spans, and the text; both between their marks."""
        mask, start, separator = map(vocabulary.mark, MARKS)
        moved = self._permuted(ids, vocabulary, generator)
        masked, spans = self._numbers(len(ids))
        lengths = generator.multinomial(masked, np.full(spans, 1 / spans)) if spans else np.zeros(0, dtype=np.int64)
        left = len(ids) - masked
        gaps = np.sort(generator.choice(left + 1, spans, replace=False))  # tokens that are left before each span
        gone = np.zeros(len(ids), dtype=np.bool_)
        starts = gaps + np.cumsum(lengths) - lengths
        gone[np.repeat(starts, lengths) + np.arange(masked) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = True
        damaged = np.insert(moved[~gone], gaps, mask)
        return np.concatenate([[start], damaged, [separator]]), np.concatenate([[start], ids, [separator]])

    def _numbers(self, tokens: int) -> tuple[int, int]:
        """How many tokens go, and in how many spans."""
        masked = round(tokens * self.settings.mask_rate)
        return masked, min(max(1, round(masked / self.settings.mean_span)), tokens - masked + 1) if masked else 0

    def _permuted(self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator) -> Int64Array:
        """The tokens with the sentences of each document in a random order; its end token stays behind them."""
        draw = generator.random()
        if draw >= self.settings.permute_rate:
            return ids
        is_end = ids == vocabulary.end_id
        last = vocabulary.ends_sentence[ids] | is_end
        sentence = np.cumsum(last) - last
        sentence += np.cumsum(is_end)  # an end token is a sentence by itself
        document = np.cumsum(is_end) - is_end
        keys = generator.random(int(sentence[-1]) + 1)[sentence]
        keys[is_end] = 2.0
        return ids[np.lexsort((np.arange(len(ids)), keys, document))]


SETTINGS = DenoisingSettings
create = Denoising
