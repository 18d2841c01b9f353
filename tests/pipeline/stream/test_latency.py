"""Quantiles of latencies in constant memory, beside NumPy's of all values."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.stream.latency import LatencyHistogram


@pytest.mark.parametrize("median_ns", [3e2, 5e5, 2e9])
@pytest.mark.parametrize("q", [0.01, 0.5, 0.99])
def test_quantiles_are_those_of_all_values_within_a_bucket(median_ns: float, q: float) -> None:
    values = (median_ns * np.random.default_rng(1).lognormal(0, 1, 20_000)).astype(np.int64)
    histogram = LatencyHistogram()
    for part in np.array_split(values, 7):
        histogram.add(part)
    assert histogram.quantile_ns(q) == pytest.approx(np.quantile(values, q), rel=0.025)
    assert histogram.count == 20_000
    assert histogram.sum_ns == values.sum()


def test_nothing_counted_is_no_number() -> None:
    histogram = LatencyHistogram()
    histogram.add(np.zeros(0, np.int64))
    assert np.isnan(histogram.quantile_ns(0.5))
    assert histogram.as_ms() == {"p50": None, "p99": None}


def test_clocks_that_disagree_and_absurd_durations_are_counted() -> None:
    histogram = LatencyHistogram()
    histogram.add(np.array([-5, 0, 2**62], np.int64))
    assert histogram.count == 3
    assert histogram.quantile_ns(0.5) < 2


def test_cumulative_buckets_count_what_lies_below_each_limit() -> None:
    histogram = LatencyHistogram()
    histogram.add(np.array([500_000, 1_500_000, 1_500_000, 40_000_000], np.int64))
    assert histogram.below([1e6, 2e6, 1e9]) == [1, 3, 4]
    assert histogram.as_ms()["p50"] == pytest.approx(1.5, rel=0.03)
