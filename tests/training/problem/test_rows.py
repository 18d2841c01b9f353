from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from common.schema import CORE_1
from tests.training.synthetic import market, series
from training.problem.rows import Rows, build_rows
from training.problem.ticks import NS_PER_S, TickSeries


def build(ticks: TickSeries, product: list[int] | None = None, period_s: int = 1):  # type: ignore[no-untyped-def]
    count = len(ticks)
    codes = np.zeros(count, np.int64) if product is None else np.array(product)
    starts = {segment: ticks.time_ns[ticks.segment == segment][0] for segment in np.unique(ticks.segment)}
    first = np.array([starts[segment] for segment in ticks.segment])
    warm = ticks.time_ns - 60 * NS_PER_S >= first
    return build_rows(CORE_1, ticks, codes, np.zeros((count, 11)), warm, horizon_s=60, sample_period_s=period_s)


def test_each_tick_is_a_row_or_dropped_for_one_reason() -> None:
    time_ns, mid = market(600, seed=0, ticks_per_s=2)
    ticks = series((time_ns[:500], mid[:500]), (time_ns[500:] + 9 * NS_PER_S, mid[500:]))
    rows, dropped = build(ticks)
    assert dropped == {
        "not_warm": 240,
        "not_finite": 0,
        "label_crosses_gap": 120,
        "label_past_end": 120,
        "thinned": 360,
    }
    assert len(rows) + sum(dropped.values()) == len(ticks)


def test_a_row_needs_a_minute_on_both_sides_of_it_in_its_own_segment() -> None:
    time_ns, mid = market(400, seed=0)
    rows, _ = build(series((time_ns[:200], mid[:200]), (time_ns[200:], mid[200:])))
    for start, end in ((0, 199), (200, 399)):
        inside = rows.time_ns[(rows.time_ns >= time_ns[start]) & (rows.time_ns <= time_ns[end])]
        assert inside[0] == time_ns[start] + 60 * NS_PER_S
        assert inside[-1] == time_ns[end] - 60 * NS_PER_S


def test_a_segment_shorter_than_window_and_horizon_gives_no_row() -> None:
    rows, dropped = build(series(market(110, seed=0)))
    assert len(rows) == 0
    assert dropped["label_past_end"] == 50


def test_rows_of_two_products_come_in_time_order_each_with_its_own_label() -> None:
    time_ns, mid = market(300, seed=1)
    calm = np.full(300, 50.0)
    rows, _ = build(series((time_ns, mid), (time_ns, calm)), product=[0] * 300 + [1] * 300)
    assert np.all(np.diff(rows.time_ns) >= 0)
    assert np.all(rows.future_volatility[rows.product == 1] == 0)
    assert np.all(rows.future_volatility[rows.product == 0] > 0)


def test_without_thinning_every_usable_tick_is_a_row() -> None:
    rows, dropped = build(series(market(300, seed=0, ticks_per_s=4)), period_s=0)
    assert dropped["thinned"] == 0
    assert len(rows) == 300 * 4 - dropped["not_warm"] - dropped["label_past_end"]


def test_a_row_with_a_feature_that_is_no_number_is_dropped_and_counted() -> None:
    ticks = series(market(300, seed=0))
    features = np.zeros((300, 11))
    features[100, 3], features[110, 5] = np.nan, np.inf
    zeros = np.zeros(300, np.int64)
    rows, dropped = build_rows(CORE_1, ticks, zeros, features, np.ones(300, np.bool_), horizon_s=60, sample_period_s=1)
    assert dropped["not_finite"] == 2
    assert not np.isin(ticks.time_ns[[100, 110]], rows.time_ns).any()


def test_features_are_found_by_name_and_a_name_that_is_none_is_refused() -> None:
    features = np.arange(22.0).reshape(2, 11)
    zeros = np.zeros(2, np.int64)
    rows = Rows(CORE_1, np.array([1, 2]), zeros, features, np.zeros(2))
    assert rows.column("midprice").tolist() == [1.0, 12.0]
    assert rows.columns(["volatility", "price"]).tolist() == [[6.0, 0.0], [17.0, 11.0]]
    with pytest.raises(InputError, match="schema core/1: no feature 'volatility_300s'"):
        rows.column("volatility_300s")


@pytest.mark.parametrize(("width", "times"), [(10, [1, 2]), (11, [2, 1]), (11, [1, 2, 3])])
def test_rows_of_another_width_or_out_of_order_cannot_be_made(width: int, times: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected|order"):
        Rows(CORE_1, np.array(times), np.zeros(2, np.int64), np.zeros((2, width)), np.zeros(2))
