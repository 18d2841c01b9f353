from __future__ import annotations

import numpy as np
import pytest

from tests.training.synthetic import market, series
from training.problem.ticks import TickSeries


def test_spans_are_the_segments_in_order() -> None:
    time_ns, mid = market(10, seed=0)
    ticks = series((time_ns[:4], mid[:4]), (time_ns[4:], mid[4:]))
    assert list(ticks.spans()) == [slice(0, 4), slice(4, 10)]


def test_an_empty_series_has_no_span() -> None:
    assert list(TickSeries(np.array([], np.int64), np.array([]), np.array([], np.int64)).spans()) == []


def test_a_return_never_reaches_over_a_segment_border() -> None:
    ticks = TickSeries(np.array([0, 1, 2, 3]), np.array([1.0, 1.0, 9.0, 9.0]), np.array([0, 0, 1, 1]))
    assert [ticks.squared_returns(span).tolist() for span in ticks.spans()] == [[0, 0], [0, 0]]


def test_time_that_jumps_back_inside_a_segment_is_refused() -> None:
    with pytest.raises(ValueError, match="time order"):
        TickSeries(np.array([2, 1]), np.ones(2), np.zeros(2, np.int64))


def test_a_segment_in_two_places_is_refused() -> None:
    with pytest.raises(ValueError, match="stand together"):
        TickSeries(np.array([1, 2, 3]), np.ones(3), np.array([0, 1, 0]))
