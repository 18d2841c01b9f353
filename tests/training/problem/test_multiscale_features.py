from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.synthetic import market, past_volatility, series
from training.problem import multiscale_features as scales
from training.problem.leakage import rows_that_see_ahead
from training.problem.multiscale_features import Scales, quote_features
from training.problem.schemas import QUOTES_1
from training.problem.ticks import NS_PER_S, TickSeries

WINDOW_S = 300


def polls(count: int, seed: int = 0) -> TickSeries:
    """Mids about every 5 s, in two stretches."""
    random = np.random.default_rng(seed)
    time_ns = np.cumsum(random.uniform(4.5, 5.5, count) * NS_PER_S).astype(np.int64)
    _, mid = market(count, seed=seed)
    cut = count // 3
    return series((time_ns[:cut], mid[:cut]), (time_ns[cut:] + 900 * NS_PER_S, mid[cut:]))


TICKS = polls(1500)


def windows(ticks: TickSeries, window_s: int) -> list[slice]:
    """The ticks in (t - w, t] of each tick's own segment, found one by one."""
    found = []
    for span in ticks.spans():
        for i in range(span.start, span.stop):
            inside = [k for k in range(span.start, i + 1) if ticks.time_ns[k] > ticks.time_ns[i] - window_s * NS_PER_S]
            found.append(slice(inside[0], i + 1))
    return found


@pytest.fixture(scope="module")
def inside() -> list[slice]:
    return windows(TICKS, WINDOW_S)


@pytest.fixture(scope="module")
def returns() -> NDArray[np.float64]:
    """Of each tick over the one before; none into a segment."""
    out = np.zeros(len(TICKS))
    for span in TICKS.spans():
        out[span][1:] = np.diff(np.log(TICKS.mid[span]))
    return out


def test_each_column_is_what_its_window_says(inside: list[slice], returns: NDArray[np.float64]) -> None:
    computed = Scales(TICKS)
    log_mid, size = np.log(TICKS.mid), np.abs(returns)
    starts = np.isin(np.arange(len(TICKS)), [span.start for span in TICKS.spans()])
    neighbours = np.where(starts, 0.0, size * np.roll(size, 1))
    age = (TICKS.time_ns[:, None] - TICKS.time_ns[None, :]) / NS_PER_S
    expected = {
        "volatility": [np.sqrt(np.sum(returns[w] ** 2)) for w in inside],
        "bipower_volatility": [np.sqrt(np.pi / 2 * np.sum(neighbours[w])) for w in inside],
        "quarticity": [np.sum(returns[w] ** 4) ** 0.25 for w in inside],
        "max_abs_return": [np.max(size[w]) for w in inside],
        "range": [np.ptp(log_mid[w]) for w in inside],
        "downside_share": [
            np.sum(returns[w][returns[w] < 0] ** 2) / np.sum(returns[w] ** 2) if np.any(returns[w]) else 0.5
            for w in inside
        ],
    }
    for name, values in expected.items():
        assert getattr(computed, name)(WINDOW_S) == pytest.approx(values, rel=1e-7, abs=1e-12), name
    faded = [np.sqrt(np.sum(0.94 ** age[i][w] * returns[w] ** 2)) for i, w in enumerate(inside)]
    assert computed.ewma_volatility(WINDOW_S, 0.94) == pytest.approx(faded, rel=1e-6, abs=1e-12)
    levels = np.log(size + 1e-6)
    spread = [np.std(levels[w]) for w in inside]
    assert computed.deviation(levels, WINDOW_S, centre=-9.0) == pytest.approx(spread, abs=1e-6)


def test_a_return_is_over_the_mid_as_of_the_windows_start(inside: list[slice]) -> None:
    starts = [span.start for span in TICKS.spans() for _ in range(span.start, span.stop)]
    log_mid = np.log(TICKS.mid)
    expected = [
        log_mid[i] - log_mid[max(w.start - 1, start)] for i, (w, start) in enumerate(zip(inside, starts, strict=True))
    ]
    assert Scales(TICKS).returned(WINDOW_S) == pytest.approx(expected, abs=1e-15)


def test_volatility_is_that_of_the_labels_core() -> None:
    assert Scales(TICKS).volatility(60) == pytest.approx(past_volatility(TICKS, 60 * NS_PER_S), rel=1e-9)


def test_a_market_that_stands_still_has_no_volatility_at_all() -> None:
    time_ns, mid = market(2000, seed=1)
    mid[500:] = mid[500]
    computed = Scales(series((time_ns, mid)))
    for column in (computed.volatility(60), computed.bipower_volatility(60), computed.range(60)):
        assert np.all(column[700:] == 0.0)
    assert np.all(computed.downside_share(60)[700:] == 0.5)
    assert np.all(np.isfinite(quote_features(series((time_ns, mid)))[0]))


def test_rows_are_warm_an_hour_after_their_segment_began() -> None:
    features, warm = quote_features(TICKS)
    assert features.shape == (len(TICKS), len(QUOTES_1))
    for span in TICKS.spans():
        age = TICKS.time_ns[span] - TICKS.time_ns[span.start]
        assert np.array_equal(warm[span], age >= 3600 * NS_PER_S)


def test_a_warm_row_does_not_know_what_lies_beyond_its_longest_window() -> None:
    ticks = polls(2400, seed=2)
    features, warm = quote_features(ticks)
    row = int(np.flatnonzero(warm)[-1])
    since = ticks.time_ns[row] - 3700 * NS_PER_S
    later = ticks.time_ns >= since
    short = TickSeries(ticks.time_ns[later], ticks.mid[later], ticks.segment[later])
    assert quote_features(short)[0][-1] == pytest.approx(features[row], rel=1e-6, abs=1e-9)


def columns_of(count: int) -> NDArray[np.float64]:
    ticks = polls(1500)
    return quote_features(TickSeries(ticks.time_ns[:count], ticks.mid[:count], ticks.segment[:count]))[0]


def test_no_quote_feature_sees_ahead() -> None:
    assert rows_that_see_ahead(columns_of, 1500, (200, 600, 1100)) == []


def test_a_window_centred_on_its_tick_is_found() -> None:
    def centred(count: int) -> NDArray[np.float64]:
        column = Scales(polls(1500)).volatility(60)[:count]
        return np.column_stack([columns_of(count), np.convolve(column, np.ones(5) / 5, mode="same")])

    assert rows_that_see_ahead(centred, 1500, (600,)) == [(599, len(QUOTES_1))]


def test_time_of_day_is_a_turn() -> None:
    sine, cosine = scales.time_of_day(np.array([0, 6, 12, 18]) * 3600 * NS_PER_S)
    assert sine == pytest.approx([0, 1, 0, -1], abs=1e-12)
    assert cosine == pytest.approx([1, 0, -1, 0], abs=1e-12)
