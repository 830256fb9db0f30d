"""How long something lasts, in the unit that is handy: steps, epochs, tokens, time, or a share of the run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from wenlu.core.errors import SettingsError

Unit = Literal["steps", "epochs", "tokens", "seconds", "percent"]

_UNITS: dict[str, tuple[Unit, float]] = {
    **dict.fromkeys(("step", "steps"), ("steps", 1)),
    **dict.fromkeys(("epoch", "epochs"), ("epochs", 1)),
    **dict.fromkeys(("token", "tokens"), ("tokens", 1)),
    "ms": ("seconds", 0.001),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("seconds", 1)),
    **dict.fromkeys(("m", "min", "minute", "minutes"), ("seconds", 60)),
    **dict.fromkeys(("h", "hour", "hours"), ("seconds", 3600)),
    "%": ("percent", 1),
}
_MULTIPLES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_TIME_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*(h|m|s)")
_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<multiple>[kMGB]?)\s*(?P<unit>[a-z%]*)")


@dataclass(frozen=True)
class Pace:
    """What one step of a run is worth in the other units; ``seconds_per_step`` is None until it was measured."""

    tokens_per_step: float
    steps_per_epoch: float
    total_steps: int | None = None
    seconds_per_step: float | None = None


@dataclass(frozen=True)
class Duration:
    """A length of training: ``500 steps``, ``2 epochs``, ``10M tokens``, ``3m``, ``1h30m``, or ``5%`` of the run."""

    value: float
    unit: Unit

    @classmethod
    def parse(cls, written: str, *, setting: str) -> Duration:
        """Read a duration; a bare number is a number of steps.

        Raises:
            SettingsError: ``training.duration`` when it cannot be read or is not above zero.
        """
        parsed = _parse(written.strip())
        if parsed is None or not parsed.value > 0:
            raise SettingsError("training.duration", setting=setting, value=written)
        return parsed

    def steps(self, pace: Pace) -> int:
        """The number of steps this lasts, at least 1; rounded up, but time is rounded down."""
        if self.unit == "steps":
            exact = self.value
        elif self.unit == "epochs":
            exact = math.ceil(self.value * pace.steps_per_epoch - 1e-9)
        elif self.unit == "tokens":
            exact = math.ceil(self.value / pace.tokens_per_step - 1e-9)
        elif self.unit == "percent":
            assert pace.total_steps is not None, "a share of the run needs the run's length"
            exact = math.ceil(self.value / 100 * pace.total_steps - 1e-9)
        else:
            assert pace.seconds_per_step is not None, "a time needs a measured speed"
            exact = self.value / pace.seconds_per_step
        return max(1, int(exact + 1e-9))

    def __str__(self) -> str:
        if self.unit == "percent":
            return f"{self.value:g}%"
        return f"{self.value:g} {self.unit}"


def _parse(written: str) -> Duration | None:
    matched = _QUANTITY.fullmatch(written)
    if matched is not None:
        number, multiple, unit = float(matched["number"]), matched["multiple"], matched["unit"] or "steps"
        if unit in _UNITS:
            name, factor = _UNITS[unit]
            return Duration(number * _MULTIPLES[multiple] * factor, name)
    parts = _TIME_PARTS.findall(written)
    if len(parts) > 1 and not _TIME_PARTS.sub("", written).strip():
        return Duration(sum(float(number) * _UNITS[unit][1] for number, unit in parts), "seconds")
    return None
