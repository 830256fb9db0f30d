"""When a curve crosses a level: against curves whose crossing is known."""

from __future__ import annotations

import math

import pytest

from wenlu.evaluation.ladder import CurvePoint, Forecast, crossing


def falling(gain: float, *, end: int = 100) -> list[CurvePoint]:
    """Bits per byte that fall by the share ``gain`` at every doubling of the seconds: 4 bits after 5 seconds."""
    return [CurvePoint(seconds, 4 * (1 - gain) ** math.log2(seconds / 5)) for seconds in range(5, end + 1, 5)]


def test_a_curve_that_falls_by_a_power_crosses_where_it_must() -> None:
    curve = falling(0.06)
    target = curve[-1].bits_per_byte * 0.94**2  # two doublings further
    forecast = crossing(curve, target)
    assert forecast.gain_per_doubling == pytest.approx(0.06)
    assert forecast.seconds == pytest.approx(400)


def test_the_level_is_that_of_the_end_which_a_longer_run_reaches_too() -> None:
    curve = falling(0.06)
    target = curve[-1].bits_per_byte * 0.94**2
    annealed = [*curve[:-1], CurvePoint(100, curve[-1].bits_per_byte * 0.94)]  # one doubling ahead
    assert crossing(annealed, target).seconds == pytest.approx(200)


def test_a_curve_below_the_target_has_passed() -> None:
    assert crossing(falling(0.06), 10.0).seconds == 0


@pytest.mark.parametrize("curve", [[], falling(0.06)[:3], falling(-0.1), falling(0.0)])
def test_no_trend_no_forecast(curve: list[CurvePoint]) -> None:
    assert crossing(curve, 0.5) == Forecast(0.5, None, None)
