"""Fitting the weights of a mixture."""

from __future__ import annotations

import numpy as np
import pytest

from wenlu.evaluation.mixing import fit_weights


def loss_of(weights: np.ndarray, log_probs: list[np.ndarray]) -> float:
    return -float(np.log(weights @ np.exp(np.stack(log_probs))).mean())


def test_the_weight_is_the_best_of_all() -> None:
    generator = np.random.default_rng(0)
    log_probs = [np.log(generator.uniform(1e-4, 1, size=500)) for _ in range(2)]
    fitted = fit_weights(log_probs)
    grid = {weight: loss_of(np.array([weight, 1 - weight]), log_probs) for weight in np.linspace(0, 1, 1001)}
    best = min(grid, key=lambda weight: grid[weight])
    assert fitted.weights[0] == pytest.approx(best, abs=2e-3)
    assert fitted.loss == pytest.approx(grid[best], abs=1e-6)
    assert fitted.loss < min(fitted.component_losses)
    assert sum(fitted.weights) == pytest.approx(1, abs=1e-12)


def test_the_share_of_each_source_is_found_again() -> None:
    generator = np.random.default_rng(1)
    first, second = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.1, 0.8])
    tokens = generator.choice(3, size=20_000, p=0.25 * first + 0.75 * second)
    fitted = fit_weights([np.log(first[tokens]), np.log(second[tokens])])
    assert fitted.weights[0] == pytest.approx(0.25, abs=0.02)
    assert fitted.tokens == 20_000


def test_a_useless_component_gets_nothing_and_tiny_probabilities_do_no_harm() -> None:
    good = np.full(100, -2000.0)
    fitted = fit_weights([good, good - 50])
    assert fitted.weights[0] == pytest.approx(1, abs=1e-4)
    assert fitted.loss == pytest.approx(2000, abs=1e-2)


def test_three_components() -> None:
    generator = np.random.default_rng(2)
    log_probs = [np.log(generator.uniform(1e-3, 1, size=400)) for _ in range(3)]
    fitted = fit_weights(log_probs)
    for _ in range(200):
        other = generator.dirichlet([1, 1, 1])
        assert fitted.loss <= loss_of(other, log_probs) + 1e-6
