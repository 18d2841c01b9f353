from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.bundle import read_bundle
from common.errors import InputError
from common.schema import CORE_1
from tests.processes import ROOT
from training.drift.stretches import recent_files, rows_of_features, since, stretch, train_and_test
from training.drift.summary import OUTCOME, PROBABILITY
from training.fitting.forecast_experiment import Settings
from training.problem.forecast_rows import ForecastRows, pooled


def rows(count: int = 1000) -> ForecastRows:
    features = np.random.default_rng(1).lognormal(size=(count, len(CORE_1)))
    return rows_of_features(CORE_1, np.arange(count) * 10**9, ["BTC-USD", "ETH-USD"] * (count // 2), features)


def test_features_and_the_bundle_s_probabilities_are_columns() -> None:
    found = stretch("live", rows(), read_bundle(ROOT / "models" / "volatility" / "1"))
    assert set(found.columns) == {*CORE_1.names, PROBABILITY}
    assert np.all((found.columns[PROBABILITY] >= 0) & (found.columns[PROBABILITY] <= 1))


def test_outcomes_are_a_column_if_they_are_known() -> None:
    known = rows()
    known.outcome_bps[:] = 1.0
    assert OUTCOME in stretch("reference", known).columns
    with pytest.raises(InputError, match="live: no usable row"):
        stretch("live", rows(0))


def test_the_parts_are_apart_by_window_and_horizon() -> None:
    settings = Settings()
    train, test = train_and_test(rows(), settings)
    assert len(test) == 200
    assert test.time_ns[0] - train.time_ns[-1] > settings.split_rules(train).embargo_ns


def test_every_recording_has_a_final_part() -> None:
    two = pooled([rows(), rows()])
    _, test = train_and_test(two, Settings())
    assert np.bincount(test.recording).tolist() == [200, 200]


def test_live_rows_come_in_any_order_and_are_put_in_order_of_time() -> None:
    values = np.arange(2.0 * len(CORE_1)).reshape(2, len(CORE_1))
    found = rows_of_features(CORE_1, np.array([7, 3]), ["ETH-USD", "BTC-USD"], values)
    assert found.time_ns.tolist() == [3, 7]
    assert found.features[:, 0].tolist() == [len(CORE_1), 0]
    assert found.product.tolist() == [0, 1]


def test_the_last_span_is_counted_from_the_newest_row() -> None:
    assert len(since(rows(), 10)) == 10
    assert len(since(rows(0), 10)) == 0


def test_recent_files_are_those_whose_rows_may_reach_into_the_span(tmp_path: Path) -> None:
    names = [f"features_20251201T{hour:02}0000Z.parquet" for hour in range(6)]
    for name in (*names, "features_20251201T050000Z-2.parquet", ".features_x.unfinished"):
        (tmp_path / name).touch()
    assert [path.name for path in recent_files(tmp_path, 5400)] == [
        *names[3:5],
        "features_20251201T050000Z-2.parquet",
        names[5],
    ]
    assert len(recent_files(tmp_path, 10**6)) == 7
    assert recent_files(tmp_path / "nothing", 60) == []
