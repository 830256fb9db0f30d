"""Durations and learning-rate schedules against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from wenlu.core.errors import SettingsError
from wenlu.training.optimizers import OptimizerSettings
from wenlu.training.schedules import Duration, Pace, Schedule, ScheduleSettings
from wenlu.training.settings import TrainSettings

PACE = Pace(tokens_per_step=2048, steps_per_epoch=100.5, total_steps=1000, seconds_per_step=0.25)


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ("500", 500),
        ("500 steps", 500),
        ("1 step", 1),
        ("2 epochs", 201),
        ("0.5 epochs", 51),
        ("10k tokens", 5),
        ("1M tokens", 489),
        ("3m", 720),
        ("90s", 360),
        ("1h30m", 21600),
        ("1m 30s", 360),
        ("2 min", 480),
        ("100ms", 1),
        ("5%", 50),
        ("0.01%", 1),
    ],
)
def test_duration_in_steps(written: str, steps: int) -> None:
    assert Duration.parse(written, setting="x").steps(PACE) == steps


@pytest.mark.parametrize(
    "written", ["", "soon", "0 steps", "-3m", "3 parsecs", "3m of it", "1e3 steps", "m", "10K tokens"]
)
def test_unreadable_duration_names_the_setting(written: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Duration.parse(written, setting="train.budget")
    assert caught.value.id == "training.duration"
    assert "train.budget" in str(caught.value)


def test_a_share_is_no_budget() -> None:
    with pytest.raises(SettingsError, match=r"train\.budget"):
        TrainSettings(budget="5%")


def schedule(name: str, **given: object) -> Schedule:
    settings = ScheduleSettings(name=name, **given)  # type: ignore[arg-type]
    return Schedule.of(settings, pace=Pace(tokens_per_step=1, steps_per_epoch=1, total_steps=10))


def test_wsd_by_hand() -> None:
    found = [schedule("wsd", warmup="2 steps", decay="4 steps").factor(index) for index in range(11)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


def test_linear_by_hand() -> None:
    found = [schedule("linear", warmup="2 steps", final=0.5).factor(index) for index in range(11)]
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[6] == pytest.approx(0.75)
    assert found[10] == pytest.approx(0.5)


def test_cosine_by_hand() -> None:
    found = [schedule("cosine", warmup="0", final=0.1).factor(index) for index in range(11)]
    assert found[0] == 1
    assert found[5] == pytest.approx(0.55)
    assert found[2] == pytest.approx(0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * 0.2)))
    assert found[10] == pytest.approx(0.1)


def test_constant_by_hand() -> None:
    found = [schedule("constant", warmup="1 step").factor(index) for index in range(11)]
    assert found == [0.5] + [1.0] * 10


@pytest.mark.parametrize("name", ["wsd", "linear", "cosine", "constant"])
def test_every_step_of_a_run_moves_the_weights(name: str) -> None:
    for total in (1, 2, 3, 7, 100):
        pace = Pace(tokens_per_step=1, steps_per_epoch=1, total_steps=total)
        made = Schedule.of(ScheduleSettings(name=name), pace=pace)  # type: ignore[arg-type]
        assert all(0 < made.factor(index) <= 1 for index in range(total))


def test_a_setting_that_no_schedule_reads_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"schedule\.decay"):
        ScheduleSettings(name="cosine", decay="10%")
    with pytest.raises(SettingsError, match=r"schedule\.final"):
        ScheduleSettings(name="constant", final=0.1)


@pytest.mark.parametrize(
    ("made", "values"),
    [
        (TrainSettings, {"clip": math.nan}),
        (OptimizerSettings, {"learning_rate": math.nan}),
        (OptimizerSettings, {"learning_rate": 0.0}),
        (OptimizerSettings, {"name": "muon", "momentum_warmup_steps": -1}),
        (OptimizerSettings, {"name": "muon", "newton_schulz_steps": 0}),
    ],
)
def test_numbers_that_would_spoil_the_weights_are_refused(made: type, values: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        made(**values)
    assert caught.value.id == "training.range"
    assert list(values)[-1] in str(caught.value)


def test_a_warm_up_is_not_a_time() -> None:
    with pytest.raises(SettingsError, match=r"schedule\.warmup"):
        ScheduleSettings(warmup="3s")


@pytest.mark.parametrize("name", ["threads", "num_workers"])
def test_a_number_of_threads_that_would_crash_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"train.{name}"):
        TrainSettings(**{name: 100_000})  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["warmup", "decay"])
def test_no_part_of_a_run_is_longer_than_the_run(setting: str) -> None:
    ScheduleSettings(**{setting: "100%"})  # type: ignore[arg-type]
    with pytest.raises(SettingsError) as caught:
        ScheduleSettings(**{setting: "200%"})  # type: ignore[arg-type]
    assert caught.value.id == "training.range"
    assert caught.value.values["value"] == "200%"
