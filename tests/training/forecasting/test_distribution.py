"""A location and a scale of log volatility, with the residual's distribution through knots."""

import numpy as np
import pytest

from training.forecasting.distribution import LocationScale

LEVELS = np.array([0.01, 0.25, 0.5, 0.75, 0.99])
KNOTS = np.array([-3.0, -0.7, 0.1, 0.8, 3.5])


def forecasts(location: list[float], scale: list[float], floor_bps: float = 0.05) -> LocationScale:
    return LocationScale(np.array(location), np.array(scale), LEVELS, KNOTS, floor_bps)


def test_a_quantile_is_the_location_plus_the_scaled_knot() -> None:
    given = forecasts([0.0, 1.0], [1.0, 0.5]).quantiles_bps(np.array([0.25, 0.5]))
    assert given == pytest.approx(np.exp([[-0.7, 0.1], [1 - 0.35, 1 + 0.05]]))


def test_between_knots_quantiles_are_linear_in_the_logarithm() -> None:
    (given,) = forecasts([0.0], [1.0]).quantiles_bps(np.array([0.375]))[0]
    assert given == pytest.approx(np.exp((-0.7 + 0.1) / 2))


def test_the_exceedance_of_a_quantile_is_one_minus_its_level() -> None:
    rows = forecasts([0.0, 1.0, 2.0], [1.0, 0.5, 2.0], floor_bps=1e-6)
    for level in (0.02, 0.1, 0.3, 0.5, 0.9, 0.985):
        quantile = rows.quantiles_bps(np.array([level]))[:, 0]
        assert rows.exceedance(quantile) == pytest.approx(np.full(3, 1 - level))


def test_quantiles_stay_within_the_knots() -> None:
    rows = forecasts([0.0], [1.0])
    assert rows.quantiles_bps(np.array([1e-6, 1 - 1e-6]))[0] == pytest.approx([0.05, np.exp(3.5)])
    assert forecasts([0.0], [1.0], 0.01).quantiles_bps(np.array([1e-6]))[0, 0] == pytest.approx(np.exp(-3.0))


def test_beyond_the_knots_no_size_is_certain_or_impossible() -> None:
    rows = forecasts([0.0], [2.0], floor_bps=1e-9)
    beyond = rows.exceedance(np.exp(2.0 * (3.5 + 3.0)))[0]
    assert beyond == pytest.approx(0.01 * 0.9)
    assert rows.exceedance(np.exp(2.0 * (-3.0 - 3.0)))[0] == pytest.approx(1 - 0.01 * 0.9)
    assert rows.exceedance(np.exp(2.0 * 33.5 + 1))[0] == 0.0


def test_volatility_is_at_least_the_floor() -> None:
    rows = forecasts([-9.0], [1.0], floor_bps=0.05)
    assert rows.exceedance(0.05)[0] == 1.0
    assert rows.exceedance(0.0500001)[0] < 0.02
    assert rows.median_bps()[0] == 0.05


def test_quantiles_are_at_most_the_ceiling() -> None:
    assert forecasts([900.0], [1.0]).quantiles_bps(LEVELS) == pytest.approx(np.full((1, 5), 1e6))


def test_a_size_for_each_row_is_that_rows_size() -> None:
    rows = forecasts([0.0, 1.0], [1.0, 0.5])
    both = rows.exceedance(np.array([1.0, 4.0]))
    assert both == pytest.approx([rows.exceedance(1.0)[0], rows.exceedance(4.0)[1]])


def test_the_median_is_the_quantile_at_a_half() -> None:
    rows = forecasts([0.0, 1.0], [1.0, 0.5])
    assert rows.median_bps() == pytest.approx(np.exp([0.1, 1.05]))
