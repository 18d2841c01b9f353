"""Alerts at every level: counts by hand, budgets, lead times, costs."""

import numpy as np
import pytest

from common.errors import InputError
from training.judging.alerts import (
    ALWAYS,
    COST_RATIOS,
    LEAD_QUANTILES,
    NEVER,
    Sweep,
    _within,
    alert_levels,
    caught_difference,
    caught_share,
    cheapest_level,
    cost_curve,
    cost_per_hour,
    operation,
    sweep,
)
from training.judging.blocks import DECISION_RESAMPLES, Blocks
from training.judging.episodes import Line

SECOND_NS = 10**9
HORIZON_NS = 60 * SECOND_NS


def market(hours: int, seed: int, skill: float) -> tuple[Line, np.ndarray, np.ndarray, Blocks]:
    """A row every 5 s; spikes of two minutes follow a probability that knows of them, more with more skill."""
    random = np.random.default_rng(seed)
    time_ns = np.arange(hours * 720, dtype=np.int64) * 5 * SECOND_NS
    event = np.zeros(len(time_ns), np.bool_)
    for start in random.choice(hours * 9, hours, replace=False) * 80:
        event[start : start + 24] = True
    noise = np.repeat(random.normal(size=hours * 30), 24)
    probability = 1 / (1 + np.exp(-(skill * event + noise)))
    line = Line.of(np.zeros(len(time_ns), np.int64), time_ns, HORIZON_NS)
    return line, event, probability, Blocks.of(time_ns, 3600 * SECOND_NS)


def swept(given: tuple[Line, np.ndarray, np.ndarray, Blocks]) -> Sweep:
    line, event, probability, blocks = given
    return sweep(line, event, probability, alert_levels(probability, 60), blocks)


def by_hand() -> tuple[Line, np.ndarray, np.ndarray, Blocks]:
    """Twenty rows a minute apart, in two blocks; spikes at rows 3 to 4 and 12."""
    time_ns = np.arange(20, dtype=np.int64) * HORIZON_NS
    event = np.zeros(20, np.bool_)
    event[[3, 4, 12]] = True
    probability = np.full(20, 0.1)
    probability[3], probability[8], probability[12], probability[16] = 0.9, 0.8, 0.7, 0.6
    line = Line.of(np.zeros(20, np.int64), time_ns, HORIZON_NS)
    return line, event, probability, Blocks(np.repeat([0, 1], 10), 2)


def test_counts_are_those_by_hand() -> None:
    line, event, probability, blocks = by_hand()
    given = sweep(line, event, probability, np.array([0.6, 0.7, 0.8, 0.9, NEVER]), blocks)
    assert given.alarms.tolist() == [[2, 2], [2, 1], [2, 0], [1, 0], [0, 0]]
    assert given.false_alarms.tolist() == [[1, 1], [1, 0], [1, 0], [0, 0], [0, 0]]
    assert given.caught.tolist() == [[1, 1], [1, 1], [1, 0], [1, 0], [0, 0]]
    assert given.episodes.tolist() == [1, 1]
    assert given.hours == pytest.approx([10 / 60, 10 / 60])


def test_an_episode_seen_before_the_alert_is_not_caught_in_advance() -> None:
    line, event, probability, blocks = by_hand()
    event[3:6] = True
    probability[3], probability[5] = 0.1, 0.9  # two minutes after the episode began
    given = sweep(line, event, probability, np.array([0.85]), blocks)
    assert (given.caught.sum(), given.alarms.sum(), given.false_alarms.sum()) == (0, 1, 0)


def test_rows_may_come_in_any_order() -> None:
    line, event, probability, blocks = market(4, 1, 2.0)
    order = np.random.default_rng(2).permutation(len(event))
    time_ns = np.arange(len(event), dtype=np.int64) * 5 * SECOND_NS
    shuffled = Line.of(np.zeros(len(event), np.int64), time_ns[order], HORIZON_NS)
    levels = alert_levels(probability, 20)
    given = sweep(shuffled, event[order], probability[order], levels, Blocks(blocks.of_row[order], blocks.count))
    expected = sweep(line, event, probability, levels, blocks)
    assert (given.alarms == expected.alarms).all()
    assert (given.caught == expected.caught).all()
    assert (given.episodes == expected.episodes).all()
    assert given.hours == pytest.approx(expected.hours)


def test_levels_reach_from_always_to_never() -> None:
    given = alert_levels(np.linspace(0.1, 0.9, 1000), 50)
    assert (given[0], given[-1], given[-2]) == (ALWAYS, NEVER, 0.9)
    assert given[1] == 0.1
    assert (np.diff(given) > 0).all()


def budget_level(given: Sweep, false_per_hour: float) -> float:
    """The lowest level whose false alarms, and those of every higher level, stay within the budget."""
    return float(given.levels[_within(given, np.ones((1, len(given.hours))), false_per_hour)[0]])


def test_the_budget_level_is_the_lowest_within_the_budget() -> None:
    given = swept(market(40, 3, 2.0))
    level = budget_level(given, 1.0)
    rates = given.false_alarms.sum(axis=1) / given.hours.sum()
    place = int(np.flatnonzero(given.levels == level)[0])
    assert (rates[place:] <= 1.0).all()
    assert rates[place - 1] > 1.0


def test_a_budget_is_reached_inclusive_and_higher_levels_count_too() -> None:
    hours, counts = np.array([1.0]), np.array([[1.0], [2.0], [1.0], [0.0]])
    given = Sweep(np.array([0.0, 0.2, 0.5, NEVER]), counts, counts, counts, np.array([3.0]), hours)
    assert budget_level(given, 1.0) == 0.5  # 0.0 is within the budget again, 0.2 is not
    assert budget_level(given, 2.0) == 0.0
    assert budget_level(given, 0.5) == NEVER


def test_operation_counts_shares_rates_and_lead_times() -> None:
    line, event, probability, _ = by_hand()
    given = operation(line, event, probability, 0.6)
    assert (given.episodes, given.caught_share) == (2, 1.0)
    assert (given.alarms_per_hour, given.false_alarms_per_hour) == pytest.approx((12, 6))
    assert given.lead_s == pytest.approx([60.0] * len(LEAD_QUANTILES))
    nothing = operation(line, event, probability, NEVER)
    assert (nothing.caught_share, nothing.alarms_per_hour, nothing.lead_s) == (0.0, 0.0, ())
    assert np.isnan(operation(line, np.zeros(20, np.bool_), probability, 0.6).caught_share)


def test_lead_times_are_quantiles_of_the_caught_episodes() -> None:
    time_ns = np.arange(0, 1200, 5, dtype=np.int64) * SECOND_NS
    event, probability = np.zeros(240, np.bool_), np.zeros(240)
    event[40:52], event[120:150] = True, True
    probability[42], probability[140] = 0.9, 0.9  # 10 s and 100 s after the episode began
    line = Line.of(np.zeros(240, np.int64), time_ns, HORIZON_NS)
    given = operation(line, event, probability, 0.5)
    assert given.lead_s == pytest.approx(np.quantile([50, -40], LEAD_QUANTILES))
    assert given.caught_share == 0.5


def test_the_share_caught_is_that_at_the_budget_level() -> None:
    data = market(60, 5, 2.0)
    given = swept(data)
    share = caught_share(given, 1.0, data[3], 1)
    assert share.point == operation(*data[:3], budget_level(given, 1.0)).caught_share
    assert share.low is not None
    assert share.high is not None
    assert share.low < share.point < share.high
    assert share.blocks == np.count_nonzero(given.episodes)


def test_more_skill_catches_more_at_the_same_budget() -> None:
    skilled, blind = market(80, 6, 2.5), market(80, 6, 0.0)
    given = caught_difference(swept(skilled), swept(blind), 1.0, skilled[3], 1)
    assert given.lies_above(0)
    same = caught_difference(swept(blind), swept(blind), 1.0, blind[3], 1)
    assert (same.point, same.low, same.high) == (0, 0, 0)  # both see the same draws


def test_ratios_of_costs_end_where_an_alarm_costs_as_much_as_a_spike_is_worth() -> None:
    assert COST_RATIOS[[0, -1]] == pytest.approx([0.005, 1.0])


def test_each_draw_chooses_its_level_anew() -> None:
    """With the level of all rows, some draws would exceed the budget."""
    data = market(60, 5, 2.0)
    given = swept(data)
    draws = data[3].draws(DECISION_RESAMPLES, 1)
    place = int(np.flatnonzero(given.levels == budget_level(given, 1.0))[0])
    fixed = (draws @ given.caught[place]) / (draws @ given.episodes)
    chosen = caught_share(given, 1.0, data[3], 1)
    assert chosen.high is not None
    assert chosen.low is not None
    assert chosen.high - chosen.low > np.quantile(fixed, 0.975) - np.quantile(fixed, 0.025)


def test_cost_is_that_of_alarms_less_the_caught() -> None:
    line, event, probability, blocks = by_hand()
    given = sweep(line, event, probability, np.array([ALWAYS, 0.6, 0.7, 0.9, NEVER]), blocks)
    assert cost_per_hour(given, 0.25)[1:] * (20 / 60) == pytest.approx([4 / 4 - 2, 3 / 4 - 2, 1 / 4 - 1, 0])
    assert cheapest_level(given, 0.25) == 0.7
    assert cheapest_level(given, 5.0) == NEVER
    assert cheapest_level(given, 1.0) == NEVER  # an alarm at 0.9 costs as much as it is worth


def test_the_cost_curve_judges_levels_on_other_rows_than_it_chooses_on() -> None:
    chosen_on, data = market(60, 7, 2.0), market(60, 8, 2.0)
    levels = alert_levels(chosen_on[2], 60)
    validation, scored = (sweep(*given[:3], levels, given[3]) for given in (chosen_on, data))
    ratios = np.array([0.01, 0.1, 0.5])
    given = cost_curve(validation, scored, ratios)
    for place, ratio in enumerate(ratios):
        assert given.levels[place] == cheapest_level(validation, ratio)
        at = int(np.flatnonzero(levels == given.levels[place])[0])
        assert given.cost[place] == cost_per_hour(scored, ratio)[at]
        assert given.cost[place] >= cost_per_hour(scored, ratio).min()
    assert (given.never == 0).all()
    # Always: an alarm a minute at most, and every episode caught.
    rate = scored.episodes.sum() / scored.hours.sum()
    assert given.always == pytest.approx(scored.alarms[0].sum() / scored.hours.sum() * ratios - rate)
    assert given.perfect == pytest.approx((ratios - 1) * rate)
    assert (given.perfect <= given.cost).all()


def test_perfect_alerts_are_silent_if_they_do_not_pay() -> None:
    given = swept(market(4, 7, 2.0))
    assert cost_curve(given, given, np.array([2.0])).perfect[0] == 0


def test_a_skilled_model_is_cheaper_than_always_and_never() -> None:
    given = swept(market(80, 9, 3.0))
    curve = cost_curve(given, given, np.array([0.2]))
    assert curve.cost[0] < min(curve.always[0], curve.never[0])


def test_sweeps_over_other_levels_are_refused() -> None:
    data = market(4, 7, 2.0)
    other = sweep(*data[:3], np.array([ALWAYS, 0.3, NEVER]), data[3])
    with pytest.raises(InputError, match="same alert levels"):
        cost_curve(swept(data), other)
