"""How long something lasts, in the unit that is handy; and learning-rate schedules, whose parts last so.

Units are steps, epochs, tokens, time, or a share of the run. A schedule gives the share of the peak rate that a step
takes: pure functions of the step's number.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.settings import refuse_changed, refuse_outside

ScheduleName = Literal["wsd", "cosine", "linear", "constant"]
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
_WHOLE_RUN = 100.0  # percent


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
        matched, parts = _QUANTITY.fullmatch(written.strip()), _TIME_PARTS.findall(written)
        value = 0.0
        unit: Unit = "steps"
        if matched is not None and (matched["unit"] or unit) in _UNITS:
            unit, factor = _UNITS[matched["unit"] or unit]
            value = float(matched["number"]) * _MULTIPLES[matched["multiple"]] * factor
        elif len(parts) > 1 and not _TIME_PARTS.sub("", written).strip():
            unit, value = "seconds", sum(float(number) * _UNITS[part][1] for number, part in parts)
        if not value > 0:
            raise SettingsError("training.duration", setting=setting, value=written)
        return cls(value, unit)

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
        return f"{self.value:g}%" if self.unit == "percent" else f"{self.value:g} {self.unit}"


class Every:
    """Whether something is due after a step: by the number of steps, or by the time since it was done last."""

    def __init__(self, written: str, setting: str, pace: Pace) -> None:
        duration = Duration.parse(written, setting=setting)
        self._seconds = duration.value if duration.unit == "seconds" else None
        self._steps = 0 if self._seconds is not None else duration.steps(pace)
        self._last = time.monotonic()

    def falls_on(self, step: int) -> bool:
        """Whether it is due after this step in every life of the run."""
        return self._seconds is None and step % self._steps == 0

    def due(self, step: int) -> bool:
        """Whether it is due now."""
        if self._seconds is None:
            return self.falls_on(step)
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


@dataclass(frozen=True)
class ScheduleSettings:
    """The ``[schedule]`` table: a linear warm-up, then one of four shapes.

    ``wsd`` holds the peak and decays linearly over the last ``decay`` of the run (warm-up, stable, decay: Hu et al.
    2024, MiniCPM, section 4); ``cosine`` and ``linear`` decay over everything after the warm-up; ``constant`` never
    does. Decay ends at ``final`` times the peak.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: ScheduleName = "wsd"
    warmup: str = "2%"
    decay: str = "50%"
    final: float = 0.0

    def __post_init__(self) -> None:
        for key in ("warmup", "decay"):
            written = getattr(self, key)
            if written == "0":
                continue
            length = Duration.parse(written, setting=f"schedule.{key}")
            if length.unit == "seconds":
                units = "steps, epochs, tokens, %"
                raise SettingsError("training.duration_unit", setting=f"schedule.{key}", value=written, units=units)
            if length.unit == "percent" and length.value > _WHOLE_RUN:
                raise SettingsError("training.range", setting=f"schedule.{key}", value=written, bounds="<= 100%")
        refuse_outside("training.range", "schedule", self, {"0 <= x <= 1": ("final",)})
        unread = {"wsd": (), "constant": ("decay", "final")}.get(self.name, ("decay",))
        because = Notice("training.because", {"setting": "schedule.name", "value": self.name})
        refuse_changed(self, "schedule", unread, because=because)


@dataclass(frozen=True)
class Schedule:
    """A schedule whose lengths are known in steps."""

    name: ScheduleName
    steps: int
    warmup_steps: int
    decay_steps: int
    final: float

    @classmethod
    def of(cls, settings: ScheduleSettings, *, pace: Pace) -> Schedule:
        """Resolve the lengths; ``pace.total_steps`` must be known."""
        assert pace.total_steps is not None
        total = pace.total_steps
        warmup = _length(settings.warmup, "schedule.warmup", pace)
        decay = _length(settings.decay, "schedule.decay", pace)
        warmup = min(warmup, total)
        return cls(settings.name, total, warmup, min(decay, total - warmup), settings.final)

    def factor(self, index: int) -> float:
        """The share of the peak rate for the step with this index: in (0, 1], and ``final`` at the end of the decay.

        Warm-up: (i + 1) / (warmup + 1), so that the first step already learns. The decay counts the steps left, so that
        the last step of the run still moves the weights (factor 1 / decay_steps for a linear decay to 0).
        """
        if index < self.warmup_steps:
            return (index + 1) / (self.warmup_steps + 1)
        if self.name == "constant":
            return 1.0
        length = self.decay_steps if self.name == "wsd" else self.steps - self.warmup_steps
        left = min(max(self.steps - index, 0), length)
        share = left / length if length else 1.0
        if self.name == "cosine":
            share = 0.5 - 0.5 * math.cos(math.pi * share)
        return self.final + (1.0 - self.final) * share


def _length(written: str, setting: str, pace: Pace) -> int:
    return 0 if written == "0" else Duration.parse(written, setting=setting).steps(pace)
