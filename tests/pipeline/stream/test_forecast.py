"""A backlog of rows while the inference server is away."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UnavailableError
from common.schema import CORE_1
from pipeline.stream.forecast import JOINED_ROWS, Forecaster, Rows
from tests.pipeline.stream.fakes import FakeStream


def rows(count: int, first_offsets: dict[int, int]) -> Rows:
    none = np.zeros(count, np.int64)
    values = np.zeros((count, len(CORE_1)))
    return Rows(np.zeros(count, np.int32), none, none, none, values, none, none, first_offsets)


@pytest.fixture
def stream() -> FakeStream:
    stream = FakeStream()
    stream.failure = lambda: UnavailableError("away")
    return stream


@pytest.fixture
def forecaster(stream: FakeStream) -> Forecaster:
    return Forecaster(stream, CORE_1.hash, limit_rows=100_000, timeout_s=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("batches", [1, 2, 3, 7])
def test_a_commit_waits_for_the_oldest_row_of_a_backlog_of_several_frames(forecaster: Forecaster, batches: int) -> None:
    for number in range(batches):
        forecaster.submit(rows(1000, {0: 1000 + 1000 * number}))
    assert forecaster.backlog_rows == 1000 * batches
    assert forecaster.first_waiting_offsets() == {0: 1000}


def test_each_partition_waits_for_its_own_oldest_row(forecaster: Forecaster) -> None:
    forecaster.submit(rows(JOINED_ROWS, {0: 50}))
    forecaster.submit(rows(JOINED_ROWS, {1: 7}))
    forecaster.submit(rows(JOINED_ROWS, {0: 80, 1: 9, 2: 3}))
    assert forecaster.first_waiting_offsets() == {0: 50, 1: 7, 2: 3}


def test_rows_that_fill_a_frame_exactly_are_joined_and_one_more_begins_another(
    stream: FakeStream, forecaster: Forecaster
) -> None:
    forecaster.submit(rows(JOINED_ROWS - 1, {0: 0}))
    forecaster.submit(rows(1, {0: JOINED_ROWS - 1}))
    forecaster.submit(rows(1, {0: JOINED_ROWS}))
    stream.failure, stream.frames[:] = None, []
    forecaster._retry_at_s = 0.0
    assert [len(settled.rows) for settled in forecaster.settle()] == [JOINED_ROWS, 1]
    assert stream.frames == [JOINED_ROWS, 1]


def test_a_backlog_of_exactly_the_limit_is_kept_and_one_row_more_gives_up_the_oldest(stream: FakeStream) -> None:
    forecaster = Forecaster(stream, CORE_1.hash, limit_rows=2048, timeout_s=1.0)  # type: ignore[arg-type]
    assert forecaster.submit(rows(1024, {0: 0})) == forecaster.submit(rows(1024, {0: 1024})) == []
    (given_up,) = forecaster.submit(rows(1, {0: 2048}))
    assert (len(given_up.rows), forecaster.backlog_rows) == (1024, 1025)
    assert forecaster.first_waiting_offsets() == {0: 1024}
