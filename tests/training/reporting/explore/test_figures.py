from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.errors import InputError
from tests.training.problem.data.files import quotes_table, write_quotes
from tests.training.synthetic import market, series
from training.problem.data import Dataset, load
from training.problem.labels import spike_threshold
from training.reporting.explore import Exploration, explore
from training.reporting.explore.figures import (
    autocorrelation,
    deciles,
    development_rows,
    rank_correlations,
    ranks,
    roc_auc,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Fourteen hours of quotes with a silence of two days in the middle."""
    table = quotes_table(10_000, seed=5)
    table["ts_utc"][6000:] += np.timedelta64(2, "D")
    return load([write_quotes(tmp_path_factory.mktemp("quotes") / "q.parquet", table)])


@pytest.fixture(scope="module")
def exploration(dataset: Dataset) -> Exploration:
    return explore(dataset, quantile=0.9)


def test_the_rows_that_judge_are_not_looked_at(dataset: Dataset, exploration: Exploration) -> None:
    seen = development_rows(dataset, 0.2)
    judging = dataset.rows.time_ns[int(0.8 * len(dataset.rows)) :]
    assert seen.time_ns[-1] + 60 * 10**9 < judging[0] - 3600 * 10**9
    assert exploration.rows + exploration.rows_left_out == len(dataset.rows)
    changed = dataset.rows.future_volatility.copy()
    changed[-len(judging) :] *= 100
    other = explore(replace(dataset, rows=replace(dataset.rows, future_volatility=changed)))
    assert other == exploration


def test_all_rows_are_looked_at_where_none_are_to_judge(dataset: Dataset) -> None:
    assert explore(dataset, final_share=0.0).rows_left_out == 0


def test_the_threshold_is_the_quantile_of_the_explored_rows(dataset: Dataset, exploration: Exploration) -> None:
    volatility = development_rows(dataset, 0.2).future_volatility
    assert exploration.threshold == spike_threshold(volatility, 0.9)
    assert exploration.base_rate == pytest.approx(0.1, abs=0.001)
    assert exploration.volatility_percentiles[90] == pytest.approx(exploration.threshold, rel=1e-8)


def test_days_and_hours_hold_all_rows_and_average_to_the_base_rate(exploration: Exploration) -> None:
    for parts in (
        [(day.rows, day.spike_rate) for day in exploration.days],
        [(hour.rows, hour.spike_rate or 0.0) for hour in exploration.hours_of_day],
    ):
        assert sum(rows for rows, _ in parts) == exploration.rows
        assert sum(rows * rate for rows, rate in parts) / exploration.rows == pytest.approx(exploration.base_rate)
    assert [day.day for day in exploration.days] == ["2021-05-03", "2021-05-05"]


def test_recorded_time_leaves_silences_out(exploration: Exploration) -> None:
    """8.3 and 5.6 h of quotes, less an hour to get warm in each and a minute of horizon, less what judges."""
    assert exploration.hours == pytest.approx(exploration.rows * 5 / 3600, rel=0.01)
    assert exploration.hours < 10


def test_a_higher_threshold_costs_fewer_and_shorter_alerts(exploration: Exploration) -> None:
    shares = [cost.share_of_time for cost in exploration.thresholds]
    assert shares == sorted(shares, reverse=True)
    assert all(cost.alerts_per_hour > 0 for cost in exploration.thresholds)


def test_an_alert_ends_where_no_spike_comes_for_a_horizon(dataset: Dataset) -> None:
    rows = dataset.rows.take(np.arange(1000))
    volatility = np.zeros(1000)
    volatility[[100, 101, 105, 500, 900]] = 1.0  # 5 s apart: the first three are one alert
    made = replace(dataset, rows=replace(rows, future_volatility=volatility))
    cost = next(one for one in explore(made, final_share=0.0, quantile=0.995).thresholds if one.quantile == 0.995)
    hours = 999 * 5 / 3600
    assert cost.alerts_per_hour == pytest.approx(3 / hours, rel=0.02)
    assert cost.seconds_per_alert == pytest.approx(25 / 3)


def test_clustered_volatility_remembers_and_returns_do_not() -> None:
    ticks = series(market(40_000, seed=2))
    lags = autocorrelation(ticks, 60, int(ticks.time_ns[-1]))
    assert lags[0].seconds == 60
    assert lags[0].volatility > 0.5
    assert abs(lags[0].returns) < 0.2
    assert all(lag.pairs >= 200 for lag in lags)


def test_autocorrelation_of_a_short_series_is_none() -> None:
    ticks = series(market(600, seed=2))
    assert autocorrelation(ticks, 60, int(ticks.time_ns[-1])) == []


def test_deciles_hold_equal_values_together() -> None:
    values = np.repeat([1.0, 2.0], [800, 200])
    y = np.repeat([0, 1], [800, 200]).astype(np.int8)
    edges, rates = deciles(values, y)
    assert edges == [1.0] * 8 + [pytest.approx(2.0)] or edges[:7] == [1.0] * 7
    assert [rate for rate in rates if rate is not None] == [0.0, 1.0]


def test_roc_auc_and_ranks_are_as_scikit_learn_and_spearman_have_them() -> None:
    random = np.random.default_rng(0)
    score = random.integers(0, 20, 500).astype(np.float64)
    y = (score + random.normal(scale=8, size=500) > 12).astype(np.int8)
    assert roc_auc(score, y) == pytest.approx(roc_auc_score(y, score))
    assert roc_auc(score, np.zeros(500, np.int8)) is None
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    matrix = rank_correlations(np.column_stack([score, np.exp(score), -score, np.ones(500)]))
    assert matrix[0] == pytest.approx([1.0, 1.0, -1.0, 0.0])


def test_a_signed_feature_is_scored_by_its_size(exploration: Exploration) -> None:
    by_size = {feature.name for feature in exploration.features if feature.by_size}
    assert by_size == {"return_5s", "return_60s", "return_300s", "return_3600s"}


def test_too_few_rows_to_say_anything_are_refused(dataset: Dataset) -> None:
    few = replace(dataset, rows=dataset.rows.take(np.arange(99)))
    with pytest.raises(InputError, match="too little data: 99 rows to explore, expected 100 or more"):
        explore(few, final_share=0.0)


def test_constant_and_single_class_data_are_explored_all_the_same(tmp_path: Path) -> None:
    table = quotes_table(2000)
    table["bid"][:], table["ask"][:] = 99.0, 101.0
    still = explore(load([write_quotes(tmp_path / "q.parquet", table)]), final_share=0.0)
    assert (still.threshold, still.base_rate) == (0.0, 1.0)
    assert {feature.roc_auc for feature in still.features} == {None}
    assert still.lags == []


def test_a_threshold_of_zero_is_noted(dataset: Dataset) -> None:
    lively = dataset.rows.future_volatility.copy()
    lively[np.arange(len(lively)) % 20 > 0] = 0.0
    still = explore(replace(dataset, rows=replace(dataset.rows, future_volatility=lively)))
    assert still.threshold == 0.0
    assert still.notes[-1].startswith("the mid does not move in the 60 s after 95% of the rows: the threshold is 0")
    assert not explore(dataset).notes
