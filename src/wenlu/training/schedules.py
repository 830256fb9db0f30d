"""Learning-rate schedules: what share of the peak rate a step takes. Pure functions of the step's number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from wenlu.core.errors import SettingsError
from wenlu.core.log import Notice
from wenlu.core.settings import refuse_changed, refuse_outside
from wenlu.training.duration import Duration, Pace

ScheduleName = Literal["wsd", "cosine", "linear", "constant"]
_WHOLE_RUN = 100.0  # percent


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
