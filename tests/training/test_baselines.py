from __future__ import annotations

import numpy as np
import pytest

from tests.training.synthetic import market, series
from training.baselines import EWMA_DECAY, HAR_WINDOWS_S, ewma_volatility, har_volatilities
from training.ticks import NS_PER_S, TickSeries


def test_ewma_weighs_each_squared_return_by_its_age() -> None:
    random = np.random.default_rng(0)
    time_ns = np.cumsum(random.integers(0, 3 * NS_PER_S, size=50))
    mid = np.exp(np.cumsum(random.normal(scale=1e-4, size=50)))
    squares = np.diff(np.log(mid), prepend=np.log(mid[0])) ** 2
    result = ewma_volatility(series((time_ns, mid)))
    for row in range(50):
        ages_s = (time_ns[row] - time_ns[: row + 1]) / NS_PER_S
        assert result[row] == pytest.approx(np.sqrt(np.sum(EWMA_DECAY**ages_s * squares[: row + 1])), rel=1e-12)


def test_ewma_starts_anew_after_a_gap() -> None:
    time_ns, mid = market(60, seed=0)
    alone = ewma_volatility(series((time_ns[30:], mid[30:])))
    after_gap = ewma_volatility(series((time_ns[:30], mid[:30]), (time_ns[30:], mid[30:])))[30:]
    assert np.array_equal(alone, after_gap)


def test_har_windows_hold_each_other() -> None:
    har = har_volatilities(series(market(300, seed=0)))
    assert har.shape == (300, len(HAR_WINDOWS_S))
    assert np.all(np.diff(har, axis=1) >= 0)


def test_a_shock_leaves_the_short_window_first() -> None:
    mid = np.full(200, 100.0)
    mid[100:] = 101.0
    har = har_volatilities(TickSeries(np.arange(200) * NS_PER_S, mid, np.zeros(200, np.int64)))
    assert [np.count_nonzero(har[:, column]) for column in range(3)] == [5, 30, 60]
