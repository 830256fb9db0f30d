"""The bootstrap against cases with a known answer."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from wenlu.metrics.significance import paired_difference, ratio_interval, signature


def test_interval_of_a_mean_agrees_with_the_normal_one() -> None:
    """With denominators 1 the ratio is a mean: mean ± 1.96 standard errors."""
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    interval = ratio_interval(values.tolist(), [1.0] * 400)
    assert interval is not None
    error = statistics.pstdev(values) / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_intervals_hold_the_true_value_as_often_as_they_say() -> None:
    """200 samples of 60 documents: 95 % +- 4 standard deviations of a binomial."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        sizes = random.integers(50, 400, size=60)
        nats = sizes * (2.0 + random.normal(0, 0.3, size=60))
        interval = ratio_interval(nats.tolist(), sizes.tolist(), resamples=400)
        assert interval is not None
        held += interval.low <= 2.0 <= interval.high
    assert 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200) <= held / 200 <= 1


def test_long_documents_weigh_more() -> None:
    interval = ratio_interval([10.0, 30.0] * 50, [10.0, 10.0] * 50)
    weighted = ratio_interval([10.0, 300.0] * 50, [10.0, 100.0] * 50)
    assert interval is not None and weighted is not None
    assert interval.low < 2 < interval.high
    assert weighted.low < 310 / 110 < weighted.high


def test_equal_documents_leave_no_doubt() -> None:
    interval = ratio_interval([2.0] * 30, [4.0] * 30)
    assert interval is not None
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_one_document_has_no_interval() -> None:
    assert ratio_interval([1.0], [2.0]) is None
    difference = paired_difference([3.0], [1.0], [2.0])
    assert (difference.value, difference.interval, difference.p_value) == (1.0, None, None)


def test_a_small_but_steady_difference_is_found() -> None:
    """The pairing is what finds it: the documents differ 100 times more than the systems."""
    random = np.random.default_rng(2)
    sizes = random.integers(100, 1000, size=50)
    first = sizes * random.normal(2.0, 1.0, size=50)
    second = first + sizes * random.normal(0.01, 0.01, size=50)
    difference = paired_difference(second.tolist(), first.tolist(), sizes.tolist())
    assert difference.interval is not None and difference.p_value is not None
    assert 0 < difference.interval.low < difference.value < difference.interval.high
    assert difference.p_value < 0.01
    reverse = paired_difference(first.tolist(), second.tolist(), sizes.tolist())
    assert reverse.value == pytest.approx(-difference.value)
    assert reverse.p_value == difference.p_value


def test_no_difference_is_rarely_called_one() -> None:
    """100 pairs of equal systems: about 5 p-values below 0.05, at most 14 (4 standard deviations)."""
    random = np.random.default_rng(3)
    small = 0
    for _ in range(100):
        first, second = random.normal(0, 1, size=(2, 80))
        p_value = paired_difference(first.tolist(), second.tolist(), [1.0] * 80, resamples=400).p_value
        assert p_value is not None
        small += p_value < 0.05
    assert small <= 14


def test_identical_systems_have_p_one() -> None:
    difference = paired_difference([1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [1.0, 1.0, 2.0])
    assert (difference.value, difference.p_value) == (0.0, 1.0)


def test_the_seed_decides_and_is_in_the_signature() -> None:
    values = np.random.default_rng(4).normal(size=30).tolist()
    first, again, other = (ratio_interval(values, [1.0] * 30, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert signature(seed=7) == "bootstrap:percentile|unit:document|level:0.95|resamples:2000|seed:7"


def test_many_documents_are_resampled_in_bounded_pieces() -> None:
    values = np.random.default_rng(5).normal(size=300_000)
    interval = ratio_interval(values.tolist(), [1.0] * len(values), resamples=20)
    assert interval is not None
    assert interval.low < interval.high
