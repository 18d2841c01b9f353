from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.schema import CORE_1
from pipeline.archive import ReadOptions
from tests.training.problem.data.files import quotes_table, write_quotes
from training.fitting.forecast_experiment import Settings, _parts
from training.forecasting.bundle import SPIKE_QUANTILE
from training.forecasting.parts import FINAL
from training.problem.data import Dataset, load
from training.problem.forecast_rows import ForecastRows
from training.problem.target import NS_PER_S
from training.reporting.explore import explore
from training.reporting.explore.figures import (
    _size,
    default_spike_bps,
    memory,
    outcome_by_decile,
    rank_correlations,
    recorded_s,
    training_rows,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    table = quotes_table(12_000, seed=5)
    table["ts_utc"][6000:] += np.timedelta64(1, "D")
    path = write_quotes(tmp_path_factory.mktemp("quotes") / "q.parquet", table)
    return load([path], options=ReadOptions(product="BTC-USD"))


def rows(outcome_bps: list[float], step_s: int = 60) -> ForecastRows:
    count = len(outcome_bps)
    zeros = np.zeros(count, np.int64)
    return ForecastRows(
        schema=CORE_1,
        time_ns=np.arange(count) * step_s * NS_PER_S,
        features=np.zeros((count, len(CORE_1))),
        outcome_bps=np.array(outcome_bps),
        product=zeros,
        recording=zeros,
        products=("BTC-USD",),
        recordings=("made up",),
    )


def test_the_rows_and_the_spike_size_are_those_of_training(dataset: Dataset) -> None:
    settings = Settings(folds=2)
    train, _ = dict(_parts(dataset.rows, settings))[FINAL]
    explored = training_rows(dataset.rows, settings)
    assert np.array_equal(explored.time_ns, dataset.rows.time_ns[train])
    found = explore(dataset)
    assert found.rows == len(train)
    assert found.spike_bps == pytest.approx(np.quantile(dataset.rows.outcome_bps[train], SPIKE_QUANTILE), rel=1e-8)
    assert found.spike_bps == default_spike_bps(explored)
    assert [size.quantile for size in found.sizes] == [0.5, 0.75, 0.9, 0.95, 0.99]
    assert found.sizes[2].spike_bps == pytest.approx(found.spike_bps)
    assert explore(dataset, Settings(spike_bps=3.0)).spike_bps == 3.0


def test_periods_divide_the_rows(dataset: Dataset) -> None:
    found = explore(dataset)
    assert sum(each.rows for each in found.days) == sum(each.rows for each in found.hours_of_day) == found.rows
    rate = sum(each.rows * each.base_rate for each in found.days) / found.rows
    assert rate == pytest.approx(np.mean(training_rows(dataset.rows, Settings()).outcome_bps >= found.spike_bps))
    assert found.hours == pytest.approx(sum(each.hours for each in found.days), abs=0.01)


def test_an_alert_is_a_run_of_spikes_less_than_a_horizon_apart() -> None:
    made = rows([1, 9, 9, 1, 9, 1, 1, 9, 1, 1] * 20, step_s=30)
    size = _size(made, 0.7, 60)
    hours = recorded_s(made, 60) / 3600
    assert recorded_s(made, 60) == 199 * 30
    assert size.spike_bps == 9
    assert size.base_rate == 0.4
    assert size.alerts_per_hour * hours == pytest.approx(40)  # 9 9 . 9 is a run, and the last 9 another
    assert size.share_of_time * hours * 3600 == pytest.approx(20 * 90)


def test_memory_is_the_correlation_of_periods_that_do_not_overlap() -> None:
    random = np.random.default_rng(1)
    level, levels = 0.0, []
    for shock in random.normal(size=3000).tolist():
        level = 0.8 * level + shock
        levels.append(level)
    lags = {each.seconds: each for each in memory(rows(np.exp(levels).tolist()), 60)}
    assert lags[60].autocorrelation == pytest.approx(0.8, abs=0.05)
    assert lags[120].autocorrelation == pytest.approx(0.64, abs=0.07)
    assert (lags[60].pairs, lags[120].pairs) == (2999, 2998)
    assert memory(rows([1.0, 2.0] * 50), 60) == ()


def test_rank_correlations_are_spearman_s_and_0_with_a_constant() -> None:
    values = np.arange(50.0)
    matrix = rank_correlations(np.column_stack([values, np.exp(-values), np.ones(50)]))
    assert matrix[0].tolist() == pytest.approx([1, -1, 0])


def test_equal_values_share_a_tenth() -> None:
    tenths = outcome_by_decile(np.array([0.0] * 55 + list(range(1, 46))), np.arange(100.0))
    assert tenths[0] == 27.0
    assert tenths[1:5] == (None,) * 4
    assert tenths[9] is not None


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    short = load([write_quotes(tmp_path / "q.parquet", quotes_table(130))], options=ReadOptions(product="BTC-USD"))
    with pytest.raises(InputError, match=r"too little data: \d+ rows to explore, expected 100 or more"):
        explore(short)
