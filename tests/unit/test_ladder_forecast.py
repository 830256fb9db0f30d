"""When a curve crosses a level: against curves whose crossing is known."""

from __future__ import annotations

import math

import pytest

from wenlu.evaluation.ladder import CurvePoint, Forecast, crossing


def falling(gain: float, *, start: float = 4.0, end: int = 100) -> list[CurvePoint]:
    """Bits per byte that fall by ``gain`` at every doubling of the seconds."""
    return [CurvePoint(seconds, start - gain * math.log2(seconds)) for seconds in range(5, end + 1, 5)]


def test_a_curve_that_falls_evenly_crosses_where_it_must() -> None:
    curve = falling(0.25)
    target = curve[-1].bits_per_byte - 0.5  # two doublings further
    forecast = crossing(curve, target)
    assert forecast.gain_per_doubling == pytest.approx(0.25)
    assert forecast.seconds == pytest.approx(400)


def test_the_level_is_that_of_the_end_which_a_longer_run_reaches_too() -> None:
    curve = falling(0.25)
    annealed = [*curve[:-1], CurvePoint(100, curve[-1].bits_per_byte - 0.25)]
    target = curve[-1].bits_per_byte - 0.5
    assert crossing(annealed, target).seconds == pytest.approx(200)


def test_a_curve_below_the_target_has_passed() -> None:
    assert crossing(falling(0.25), 10.0).seconds == 0


@pytest.mark.parametrize("curve", [[], falling(0.25)[:3], falling(-0.1), falling(0.0)])
def test_no_trend_no_forecast(curve: list[CurvePoint]) -> None:
    assert crossing(curve, -5.0) == Forecast(-5.0, None, None)
