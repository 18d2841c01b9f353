"""Pictures are drawn from simulated forecasts, and hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from tests.training.judging.market import HAR, STEP_NS, STEPS, fit, market, of_test, split
from training.judging.alerts import CostCurve, alert_levels, cost_curve, sweep
from training.judging.comparison import groupings
from training.judging.episodes import Line
from training.judging.events import EventScores, event_scores, sizes_bps
from training.judging.scores import covered, pit_bounds, randomized_pit
from training.reporting import forecast_plots as plots
from training.reporting.forecast_plots import SizeScores

START_NS = 1_764_565_200 * 10**9
PNG = b"\x89PNG\r\n"


def drawn() -> dict[str, bytes]:
    """Every picture, of a fit to a simulated market."""
    given = market(1)
    train, test = split()
    model = fit(given.features, given.outcome_bps, train, test)
    har = fit(given.features[:, HAR], given.outcome_bps, train, test)
    outcome, time_ns = given.outcome_bps[test], START_NS + given.time_ns[test]
    bounds = pit_bounds(model, outcome, model.floor_bps)
    sizes = [SizeScores(size, event_scores(model, outcome, size)) for size in sizes_bps(given.outcome_bps[train])]
    days = groupings(time_ns, ["BTC-USD"] * len(test), outcome)[0]
    hour = slice(720, 1440)
    line, blocks = Line.of(np.zeros(len(test), np.int64), time_ns, STEPS * STEP_NS), of_test(given.blocks)
    curves = []
    for forecasts in (model, har):
        probability = forecasts.exceedance(sizes[2].size_bps)
        swept = sweep(line, sizes[2].scores.event, probability, alert_levels(probability), blocks)
        curves.append(cost_curve(swept, swept))
    return {
        "fan_chart": plots.fan_chart(time_ns[hour], model.quantiles_bps(plots.FAN_LEVELS)[hour], outcome[hour]),
        "pit": plots.pit_histogram(randomized_pit(*bounds, seed=1)),
        "reliability": plots.reliability(sizes),
        "coverage_by_day": plots.coverage_by_day(days, covered(*bounds, 0.8), covered(*bounds, 0.95)),
        "cost_curve": plots.cost_curve(*curves),
    }


def test_every_picture_is_a_png_and_repeats_to_the_byte() -> None:
    first, second = drawn(), drawn()
    assert all(picture.startswith(PNG) for picture in first.values())
    assert first == second
    assert len(set(first.values())) == 5


def test_reliability_bins_are_tenths_of_the_rows_by_probability() -> None:
    probability = np.arange(100)[::-1] / 100
    event = probability >= 0.85
    claimed, observed = plots.reliability_bins(EventScores(event, probability, probability, probability))
    assert claimed == pytest.approx(np.arange(10) / 10 + 0.045)
    assert observed == pytest.approx([0] * 8 + [0.5, 1.0])


def test_fewer_rows_than_bins_make_fewer_bins() -> None:
    few = np.array([0.1, 0.9])
    assert len(plots.reliability_bins(EventScores(few > 0.5, few, few, few))[0]) == 2


@pytest.mark.parametrize("count", [0, 6])
def test_reliability_takes_one_to_five_sizes(count: int) -> None:
    few = np.array([0.1, 0.9])
    with pytest.raises(InputError, match=f"expected 1 to 5 sizes, got {count}"):
        plots.reliability([SizeScores(1.0, EventScores(few > 0.5, few, few, few))] * count)


def test_a_cost_curve_without_spikes_is_drawn() -> None:
    ratios = np.array([0.1, 1.0])
    flat = CostCurve(ratios, ratios, np.zeros(2), ratios * 60, np.zeros(2), np.zeros(2))
    assert plots.cost_curve(flat, flat).startswith(PNG)
