from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.bundle import Bins, DriftReference
from common.errors import BundleError
from pipeline.drift import (
    BUCKET_NS,
    BUCKETS,
    LARGE_PSI,
    MODERATE_PSI,
    WINDOWS_NS,
    DriftCounts,
    MissingCounts,
    RollingCounts,
    Thinning,
    bins_of,
    psi,
    psi_between,
    reference_of,
)

HOUR_NS, DAY_NS = WINDOWS_NS["1h"], WINDOWS_NS["24h"]
NAMES = ("calm", "skewed")
START_NS = 1_764_565_200 * 10**9


def market(rows: int, seed: int, *, scale: float = 1.0) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    return np.column_stack([random.normal(size=rows), scale * random.lognormal(size=rows)])


def reference(threshold: float = 0.8) -> DriftReference:
    return reference_of(NAMES, market(20_000, 1), np.random.default_rng(2).beta(1, 4, 20_000), threshold)


def seconds(rows: int, start_ns: int = START_NS) -> NDArray[np.int64]:
    return start_ns + np.arange(rows) * 10**9


def test_the_index_is_that_of_its_formula() -> None:
    expected, actual = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    by_hand = (0.2 - 0.5) * math.log(0.2 / 0.5) + 0.0 + (0.5 - 0.2) * math.log(0.5 / 0.2)
    assert psi(expected, actual) == pytest.approx(by_hand, rel=1e-12)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_index_is_zero_of_itself_never_negative_and_the_same_both_ways(counts: list[int], random: object) -> None:
    p = np.array(counts) + 1.0
    q = p[::-1].copy()
    p, q = p / p.sum(), q / q.sum()
    assert psi(p, p) == 0
    assert psi(p, q) >= 0
    assert psi(p, q) == pytest.approx(float(psi(q, p)), rel=1e-12)


def test_an_empty_bin_is_far_and_not_infinite_and_nothing_at_all_is_not_known() -> None:
    assert LARGE_PSI < psi(np.array([0.5, 0.5]), np.array([1.0, 0.0])) < 10
    assert np.isnan(psi(np.array([0.5, 0.5]), np.zeros(2)))


def test_bins_hold_a_tenth_each_of_what_they_were_made_from() -> None:
    spread = bins_of(np.random.default_rng(3).lognormal(size=10_000))
    assert len(spread.edges) == 9
    np.testing.assert_allclose(spread.fractions, 0.1, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "edges", "fractions"),
    [
        ([], 0, (1.0,)),
        ([math.nan, math.inf], 0, (1.0,)),
        ([7.0, 7.0, 7.0], 2, (0.0, 1.0, 0.0)),
        ([0.0] * 99 + [1.0], 2, (0.0, 0.99, 0.01)),
        ([0.0, 1.0] * 50, 4, (0.0, 0.5, 0.0, 0.5, 0.0)),
    ],
)
def test_bins_of_few_values_are_few(values: list[float], edges: int, fractions: tuple[float, ...]) -> None:
    spread = bins_of(np.array(values))
    assert len(spread.edges) == edges
    assert spread.fractions == pytest.approx(fractions)


def test_values_apart_by_next_to_nothing_share_a_bin() -> None:
    random = np.random.default_rng(4)
    price = 90_000 + 500 * random.random(5000)
    cents = np.where(random.random(5000) < 0.8, 1, random.integers(2, 50, 5000))
    narrow = 0.01 * cents / price
    assert psi_between(narrow, narrow * (90_000 / 91_000)) < MODERATE_PSI
    assert psi_between(narrow, 3 * narrow) > LARGE_PSI


def test_of_nothing_no_index_is_known() -> None:
    some, none = np.ones(3), np.array([np.nan])
    assert np.isnan(psi_between(some, none))
    assert np.isnan(psi_between(none, some))


def test_a_constant_that_moves_is_seen_on_either_side() -> None:
    counts = DriftCounts(reference_of(("constant",), np.full((100, 1), 7.0), np.full(100, 0.1), 0.5), ("constant",))
    for moved in (6.9, 7.1):
        counts.add(seconds(100), np.full((100, 1), moved), np.full(100, 0.1), 0.5)
        assert counts.drift(DAY_NS).features["constant"] > LARGE_PSI


def test_the_same_market_has_not_drifted_and_another_has() -> None:
    counts = DriftCounts(reference(), NAMES)
    counts.add(seconds(3000), market(3000, 5, scale=2.0), np.random.default_rng(6).beta(1, 4, 3000), 0.8)
    drift = counts.drift(DAY_NS)
    assert drift.rows == 3000
    assert drift.features["calm"] < MODERATE_PSI / 5
    assert drift.features["skewed"] > LARGE_PSI
    assert drift.probability < MODERATE_PSI / 5


def test_the_rate_of_positives_is_that_of_the_threshold_each_row_came_with() -> None:
    counts = DriftCounts(reference(), NAMES)
    counts.add(seconds(4), market(4, 1), np.array([0.1, 0.5, 0.6, 0.9]), 0.5)
    counts.add(seconds(4), market(4, 1), np.array([0.1, 0.5, 0.6, 0.9]), 0.9)
    assert counts.drift(HOUR_NS).positive_rate == 4 / 8


def test_live_counts_are_those_of_a_histogram_however_rows_are_cut_into_batches() -> None:
    values, probability = market(500, 7), np.random.default_rng(8).random(500)
    whole, pieces = DriftCounts(reference(), NAMES), DriftCounts(reference(), NAMES)
    whole.add(seconds(500), values, probability, 0.8)
    for start in range(0, 500, 7):
        of = slice(start, start + 7)
        pieces.add(seconds(500)[of], values[of], probability[of], 0.8)
    assert whole.drift(DAY_NS) == pieces.drift(DAY_NS)
    spread = whole.reference.features["skewed"]
    edges = [-np.inf, *spread.edges, np.inf]
    counted = np.array([np.count_nonzero((values[:, 1] >= a) & (values[:, 1] < b)) for a, b in pairwise(edges)])
    assert whole.drift(DAY_NS).features["skewed"] == pytest.approx(
        float(psi(np.array(spread.fractions), counted / 500))
    )


def test_a_value_that_is_no_number_is_in_no_bin() -> None:
    counts = DriftCounts(reference(), NAMES)
    rows = market(2, 1)
    rows[0, 0] = np.nan
    counts.add(seconds(2), rows, np.array([0.5, np.nan]), 0.8)
    drift = counts.drift(DAY_NS)
    assert drift.rows == 1
    assert set(drift.features) == set(NAMES)


def test_without_rows_nothing_is_known() -> None:
    drift = DriftCounts(reference(), NAMES).drift(DAY_NS)
    assert drift.rows == 0
    assert all(math.isnan(one) for one in (*drift.features.values(), drift.probability, drift.positive_rate))


@pytest.mark.parametrize(
    ("names", "bins", "message"),
    [(("unheard_of",), Bins((0.0,), (0.5, 0.5)), "no bins of unheard_of"), (("calm",), Bins((0.0,), (1.0,)), "calm")],
)
def test_a_reference_that_does_not_fit_is_refused(names: tuple[str, ...], bins: Bins, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        DriftCounts(DriftReference(1, {"calm": bins}, Bins((0.5,), (0.5, 0.5)), 0.1, {}), names)


@given(st.lists(st.integers(0, 3 * BUCKETS), min_size=1, max_size=40), st.integers(1, BUCKETS))
def test_sums_over_a_window_are_those_of_its_buckets(steps: list[int], window: int) -> None:
    rolling, numbers, now = RollingCounts(1), [], 10**6
    for step in steps:
        now += step
        numbers.append(now)
        rolling.add(np.array([now * BUCKET_NS + 17]), np.zeros((1, 1), np.int64))
    assert rolling.total(window * BUCKET_NS)[0] == sum(now - number < window for number in numbers)


def test_an_older_recording_starts_the_count_anew() -> None:
    rolling = RollingCounts(1)
    for time_ns in (START_NS, START_NS - 2 * DAY_NS):
        rolling.add(np.full(3, time_ns), np.zeros((3, 1), np.int64))
    assert rolling.total(DAY_NS)[0] == 3


def test_a_row_a_second_and_product_is_taken_however_they_are_cut() -> None:
    time_ns = START_NS + np.arange(0, 5 * 10**9, 3 * 10**8)
    product = (np.arange(len(time_ns)) % 2).astype(np.int32)
    whole = Thinning().first_of_each(product, time_ns)
    thinning = Thinning()
    pieces = [thinning.first_of_each(product[i : i + 3], time_ns[i : i + 3]) for i in range(0, len(time_ns), 3)]
    assert np.array_equal(whole, np.concatenate(pieces))
    taken = list(zip(product[whole].tolist(), (time_ns[whole] // 10**9).tolist(), strict=True))
    assert len(taken) == len(set(taken)) == 10


def test_missing_rates_are_those_of_the_window() -> None:
    counts = MissingCounts(2)
    assert all(np.isnan(counts.rates(DAY_NS)[1]))
    rows = market(4, 1)
    rows[0] = np.nan
    rows[1, 1] = np.inf
    counts.add(seconds(4), rows)
    assert counts.rates(DAY_NS)[0] == 4
    assert counts.rates(DAY_NS)[1].tolist() == [0.25, 0.5]
    counts.add(seconds(1, START_NS + 2 * HOUR_NS), market(1, 1))
    assert counts.rates(HOUR_NS)[1].tolist() == [0.0, 0.0]
