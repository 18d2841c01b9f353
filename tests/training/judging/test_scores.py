"""Scores of rows against closed forms, integrals and simulation."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest, norm

from common.errors import InputError
from training.judging.scores import (
    CRPS_LEVELS,
    LEVELS_AT_ONCE,
    PINBALL_LEVELS,
    covered,
    crps_log,
    pinball,
    pit_bounds,
    qlike,
    randomized_pit,
    row_scores,
)

from .normal import FLOOR_BPS, LogNormal, crps_of_normal, lively


def still(rows: int) -> LogNormal:
    """Two fifths of the probability is at the floor."""
    scale = np.full(rows, 0.7)
    return LogNormal(np.log(FLOOR_BPS) - norm.ppf(0.4) * scale, scale)


def test_crps_on_log_volatility_is_that_of_a_normal_distribution() -> None:
    forecasts = lively(500, 1)
    outcome = forecasts.outcomes_bps(2)
    exact = crps_of_normal(np.log(outcome), forecasts.location, forecasts.scale)
    given = crps_log(forecasts, outcome)
    assert given == pytest.approx(exact, rel=0.02, abs=0.001)
    assert given.mean() == pytest.approx(exact.mean(), rel=0.001)


def test_crps_in_bps_is_the_integral_of_the_squared_error_of_the_distribution_function() -> None:
    forecasts = LogNormal(np.array([0.5]), np.array([0.4]))
    outcome = np.array([2.5])

    def squared_error(size: float) -> float:
        return float((1 - forecasts.exceedance(size)[0] - (size >= outcome[0])) ** 2)

    exact = quad(squared_error, 1e-3, 30, points=[outcome[0]], limit=200)[0]
    assert row_scores(forecasts, outcome, FLOOR_BPS).crps_bps[0] == pytest.approx(exact, rel=0.005)


def test_crps_with_a_mass_at_the_floor_is_the_integral_of_the_squared_error() -> None:
    forecasts, log_outcome = still(1), np.log(0.09)

    def squared_error(log_size: float) -> float:
        return float((1 - forecasts.exceedance(np.exp(log_size))[0] - (log_size >= log_outcome)) ** 2)

    exact = quad(squared_error, np.log(FLOOR_BPS) + 1e-12, 3, points=[log_outcome], limit=200)[0]
    assert crps_log(forecasts, np.exp([log_outcome]))[0] == pytest.approx(exact, rel=0.005)


def test_row_scores_hold_the_crps_of_the_short_way() -> None:
    forecasts = lively(50, 3)
    outcome = forecasts.outcomes_bps(4)
    assert (row_scores(forecasts, outcome, FLOOR_BPS).crps_log == crps_log(forecasts, outcome)).all()


def test_levels_are_asked_for_a_few_at_a_time() -> None:
    widths = []

    class Counted(LogNormal):
        def quantiles_bps(self, levels: np.ndarray) -> np.ndarray:
            widths.append(len(levels))
            return LogNormal.quantiles_bps(self, levels)

    crps_log(Counted(np.zeros(3), np.ones(3)), np.ones(3))
    assert max(widths) == LEVELS_AT_ONCE
    assert sum(widths) == len(CRPS_LEVELS)


def test_crps_levels_are_the_middles_of_a_hundred_equal_parts() -> None:
    assert CRPS_LEVELS[[0, 1, -1]] == pytest.approx([0.005, 0.015, 0.995])


def test_pinball_costs_the_level_above_and_the_rest_below() -> None:
    given = pinball(np.array([3.0, 3.0]), np.array([[1.0, 4.0], [3.0, 3.0]]), np.array([0.1, 0.9]))
    assert given == pytest.approx(np.array([[0.1 * 2, 0.1 * 1], [0, 0]]))


def test_pinball_levels_are_the_median_and_the_ends_of_the_intervals() -> None:
    ends = [half + side * coverage / 2 for coverage in (0.5, 0.8, 0.95) for half, side in ((0.5, -1), (0.5, 1))]
    assert pytest.approx(sorted([0.5, *ends])) == PINBALL_LEVELS
    given = row_scores(lively(3, 1), np.full(3, 2.0), FLOOR_BPS).pinball_log
    assert given.shape == (3, len(PINBALL_LEVELS))


def test_pinball_of_row_scores_is_on_log_volatility() -> None:
    forecasts = LogNormal(np.array([0.0]), np.array([1.0]))
    given = row_scores(forecasts, np.array([np.e**2]), FLOOR_BPS, np.array([0.5])).pinball_log
    assert given == pytest.approx(np.array([[0.5 * 2]]))


def test_qlike_is_zero_only_if_the_variance_is_met() -> None:
    assert qlike(np.array([4.0, 8.0, 2.0]), np.full(3, 4.0)) == pytest.approx([0, 1 - np.log(2), np.log(2) - 0.5])


def test_qlike_takes_the_mean_of_the_variance() -> None:
    """exp(2 mu + 2 s^2) is the mean of the squared log-normal volatility."""
    forecasts = LogNormal(np.array([0.3]), np.array([0.2]))
    outcome = np.array([1.5])
    exact = qlike(outcome**2, np.exp(2 * forecasts.location + 2 * forecasts.scale**2))
    assert row_scores(forecasts, outcome, FLOOR_BPS).qlike == pytest.approx(exact, abs=5e-4)


def test_pit_is_uniform_if_outcomes_follow_the_forecasts() -> None:
    for forecasts in (lively(4000, 6), still(4000)):
        outcome = forecasts.outcomes_bps(7)
        pit = randomized_pit(*pit_bounds(forecasts, outcome, FLOOR_BPS), seed=8)
        assert kstest(pit, "uniform").pvalue > 0.01


def test_pit_of_a_low_forecast_is_high() -> None:
    forecasts = lively(2000, 6)
    low = LogNormal(forecasts.location - 1, forecasts.scale)
    pit = randomized_pit(*pit_bounds(low, forecasts.outcomes_bps(7), FLOOR_BPS), seed=8)
    assert pit.mean() > 0.8


def test_pit_bounds_part_only_at_the_floor() -> None:
    low, high = pit_bounds(still(3), np.array([FLOOR_BPS, np.nextafter(FLOOR_BPS, 1), 1.0]), FLOOR_BPS)
    assert low[0] == 0
    assert high[0] == pytest.approx(0.4)
    assert (low[1:] == high[1:]).all()


def test_pit_draws_are_those_of_the_seed() -> None:
    low, high = np.zeros(5), np.ones(5)
    assert (randomized_pit(low, high, 1) == randomized_pit(low, high, 1)).all()
    assert (randomized_pit(low, high, 1) != randomized_pit(low, high, 2)).all()


def test_an_interval_covers_what_lies_between_its_quantiles() -> None:
    forecasts = lively(3000, 9)
    outcome = forecasts.outcomes_bps(10)
    bounds = pit_bounds(forecasts, outcome, FLOOR_BPS)
    for coverage in (0.5, 0.8, 0.95):
        ends = forecasts.quantiles_bps(np.array([(1 - coverage) / 2, (1 + coverage) / 2]))
        inside = (ends[:, 0] <= outcome) & (outcome <= ends[:, 1])
        assert (covered(*bounds, coverage) == inside).all()
        assert covered(*bounds, coverage).mean() == pytest.approx(coverage, abs=0.03)


def test_coverage_of_a_calibrated_forecast_is_as_claimed_where_the_market_stands_still() -> None:
    forecasts = still(20_000)
    bounds = pit_bounds(forecasts, forecasts.outcomes_bps(11), FLOOR_BPS)
    for coverage in (0.5, 0.8, 0.95):
        assert covered(*bounds, coverage).mean() == pytest.approx(coverage, abs=0.012)


def test_the_ends_of_an_interval_belong_to_it() -> None:
    ends = np.array([0.25, 0.75, np.nextafter(0.25, 0), np.nextafter(0.75, 1)])
    assert covered(ends, ends, 0.5).tolist() == [1, 1, 0, 0]


def test_the_mass_at_the_floor_counts_by_its_share_within_the_interval() -> None:
    low, high = np.zeros(3), np.array([0.2, 0.5, 1.0])
    assert covered(low, high, 0.5) == pytest.approx([0, 0.5, 0.5])


@pytest.mark.parametrize("outcome", [np.nan, np.inf, np.nextafter(FLOOR_BPS, 0)])
def test_outcomes_below_the_floor_or_not_finite_are_refused(outcome: float) -> None:
    with pytest.raises(InputError, match=r"at least the floor, 0\.05 bps"):
        row_scores(lively(1, 1), np.array([outcome]), FLOOR_BPS)


def test_an_outcome_at_the_floor_is_scored() -> None:
    assert np.isfinite(row_scores(lively(1, 1), np.array([FLOOR_BPS]), FLOOR_BPS).crps_log[0])
