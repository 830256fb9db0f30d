"""Span corruption: give the spans that were cut out of a text, each after its sentinel (Raffel et al. 2020, 3.1.4).

    in      Thank you <extra_id_0> me to your party <extra_id_1> week .
    out     <extra_id_0> for inviting <extra_id_1> last

The numbers and places of spans are those of ``random_spans_noise_mask`` and ``random_spans_helper`` in T5's own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wenlu.core.errors import SettingsError
from wenlu.data.store import Int64Array
from wenlu.tasks._base import TaskSettings
from wenlu.tasks._corpus import Corruption, Lengths
from wenlu.tasks._vocabulary import Vocabulary


@dataclass(frozen=True)
class SpanSettings(TaskSettings):
    """The ``[task]`` table: the share ``noise_density`` of the tokens is cut out, in spans of ``mean_span`` on average.

    ``num_sentinels`` is how many sentinels a tokenizer gets that is trained for this; a row may not need more.
    """

    bounds: ClassVar = {">= 1": ("mean_span",), "0 < x < 1": ("noise_density",), "1 <= x <= 10000": ("num_sentinels",)}

    name: str = "span_corruption"
    noise_density: float = 0.15
    mean_span: float = 3.0
    num_sentinels: int = 100


class SpanCorruption(Corruption):
    """The task; see ``tasks/_base.py`` for what each method means."""

    settings: SpanSettings = SpanSettings()
    what, counted = "tokens of spans, sentinels and ends", "tokens of spans"

    def special_tokens(self) -> tuple[str, ...]:
        """The sentinels."""
        return tuple(sentinel(number) for number in range(self.settings.num_sentinels))

    def start(self, vocabulary: Vocabulary) -> int:
        """T5's decoder begins with the padding token."""
        return vocabulary.pad_id

    def lengths(self, sequence_length: int) -> Lengths:
        """The longest window that fits when its spans are cut out.

        Raises:
            SettingsError: ``tasks.window`` when no token does.
        """
        tokens = sequence_length
        while tokens and self._of(tokens).inputs > sequence_length:
            tokens -= 1
        while self._of(tokens + 1).inputs <= sequence_length:
            tokens += 1
        if not tokens:
            raise SettingsError("tasks.window", length=sequence_length)
        return self._of(tokens)

    def corrupt(
        self, ids: Int64Array, vocabulary: Vocabulary, generator: np.random.Generator
    ) -> tuple[Int64Array, Int64Array]:
        """What is left with sentinels in the gaps, and the spans behind their sentinels."""
        noise, spans = self._numbers(len(ids))
        sentinels = np.array([vocabulary.mark([sentinel(number)]) for number in range(spans)], dtype=np.int64)
        kept_lengths = _segments(len(ids) - noise, spans, generator)
        cut_lengths = _segments(noise, spans, generator)
        cut = np.repeat(np.tile([False, True], spans), np.stack([kept_lengths, cut_lengths], axis=1).ravel())
        end = vocabulary.end_id
        inputs = np.insert(ids[~cut], np.cumsum(kept_lengths), sentinels)
        targets = np.insert(ids[cut], np.cumsum(cut_lengths) - cut_lengths, sentinels)
        return np.append(inputs, end), np.append(targets, end)

    def _of(self, tokens: int) -> Lengths:
        noise, spans = self._numbers(tokens)
        return Lengths(tokens, tokens - noise + spans + 1, noise + spans + 1)

    def _numbers(self, tokens: int) -> tuple[int, int]:
        """How many tokens are cut out, in how many spans."""
        noise = max(1, min(round(tokens * self.settings.noise_density), tokens - 1))
        return noise, max(1, min(round(noise / self.settings.mean_span), tokens - noise))


def sentinel(number: int) -> str:
    """The sentinel with this number, by T5's name."""
    return f"<extra_id_{number}>"


def _segments(items: int, segments: int, generator: np.random.Generator) -> Int64Array:
    """The lengths, none of them 0, of items cut into segments at random; all cuts are equally likely."""
    if items < segments:  # one token: nothing is left of it
        return np.array([items] * segments, dtype=np.int64)
    cuts = generator.choice(items - 1, segments - 1, replace=False) + 1 if segments > 1 else np.zeros(0, dtype=np.int64)
    borders: Int64Array = np.sort(np.concatenate([cuts, [0, items]]))
    return borders[1:] - borders[:-1]


SETTINGS = SpanSettings
create = SpanCorruption
