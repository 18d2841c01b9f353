"""The estimators, against their definitions."""

import numpy as np
import pytest

from training.forecasting import fitting
from training.forecasting.form import LEVELS


def test_ridge_without_penalty_is_least_squares_with_weights() -> None:
    random = np.random.default_rng(0)
    units, y = random.normal(size=(200, 3)), random.normal(size=200)
    weights = random.uniform(0.5, 2, 200)
    root = np.sqrt(weights)
    expected = np.linalg.lstsq(np.column_stack([units, np.ones(200)]) * root[:, None], y * root, rcond=None)[0]
    assert fitting.ridge(units, y, weights, 0.0) == pytest.approx(expected, rel=1e-8)


def test_a_penalty_of_a_unit_halves_the_weight_of_a_single_unit() -> None:
    units = np.random.default_rng(0).normal(size=(500, 1)) * 7
    plain, half = (fitting.ridge(units, 3 * units[:, 0] + 1, np.ones(500), penalty) for penalty in (0.0, 1.0))
    assert plain == pytest.approx([3, 1])
    assert half[0] == pytest.approx(1.5)


def test_a_constant_unit_has_no_weight() -> None:
    units = np.column_stack([np.full(100, 4.0), np.arange(100.0)])
    assert fitting.ridge(units, np.arange(100.0) * 2, np.ones(100), 0.0) == pytest.approx([0, 2, 0], abs=1e-8)


def test_the_scale_is_the_mean_absolute_residual() -> None:
    random = np.random.default_rng(0)
    units = random.normal(size=(40_000, 1))
    residuals = np.exp(0.7 * units[:, 0] - 1) * random.normal(size=40_000)
    expected = [0.7, -1 + np.log(np.sqrt(2 / np.pi))]
    assert fitting.log_scale(units, residuals, np.ones(40_000), 0.0) == pytest.approx(expected, abs=0.02)


def test_weighted_quantiles_repeat_a_value_as_often_as_it_weighs() -> None:
    values = np.array([3.0, 1.0, 2.0])
    repeated = np.repeat(values, [1000, 3000, 2000])
    levels = np.array([0.2, 0.6, 0.95])
    weighted = fitting.weighted_quantiles(values, np.array([1.0, 3.0, 2.0]), np.array([0.25, 4 / 6, 11 / 12]))
    assert weighted == pytest.approx([1, 2, 3])
    assert fitting.weighted_quantiles(repeated, np.ones(6000), levels) == pytest.approx(np.quantile(repeated, levels))


def test_equal_quantiles_become_knots_a_small_distance_apart() -> None:
    scaled = np.concatenate([np.full(600, -0.2), np.zeros(400), np.full(300, 0.4), np.linspace(0.5, 3, 300)])
    knots = fitting.knots(scaled, np.ones(len(scaled)))
    distances = np.diff(knots)
    assert distances.min() == pytest.approx(fitting.MIN_KNOT_DISTANCE, rel=1e-6)
    assert np.count_nonzero(distances < 2 * fitting.MIN_KNOT_DISTANCE) > 15
    assert knots[[0, -1]] == pytest.approx([-0.2, 3], abs=0.05)
    assert knots[LEVELS == 0.5] == 0
