"""Rows on their way to the inference server: in order, never waited for, counted when they are given up."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from common.errors import DeadlineError, OverloadedError, UnavailableError, VolcastError
from common.schema import CORE_1
from pipeline.stream.forecast import JOINED_ROWS, MAX_FRAMES_IN_FLIGHT, MIN_RETRY_S, Forecast, Forecaster, Owed, Rows
from tests.pipeline.stream.fakes import Clock, FakeStream, answer
from volcast.v1 import MissingReason, PredictResponse, StreamPredictResponse


def rows(count: int, first: int = 0, partition: int = 0) -> Rows:
    """Rows whose values name their offsets."""
    offsets = np.arange(first, first + count)
    none, floats = np.zeros(count, np.int64), np.zeros(count)
    values = np.zeros((count, len(CORE_1)))
    values[:, 0] = offsets + 1000 * partition
    codes = np.zeros(count, np.int32)
    return Rows(
        codes, codes + np.int32(partition), offsets, none, none, none, floats, floats, floats, values, none, offsets + 7
    )


class ManualStream(FakeStream):
    """Answers when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = True
        self.sent: list[tuple[int, Any]] = []

    def send_packed(
        self, frame_id: int, values: Any, row_count: int, schema_hash: str, model: Any, **query: Any
    ) -> None:
        super().send_packed(frame_id, values, row_count, schema_hash, model, **query)
        self.sent.append((frame_id, np.frombuffer(bytes(values), "<f8").reshape(row_count, -1)))

    def answer(self, number: int) -> None:
        frame_id, values = self.sent[number]
        response = PredictResponse(model_name="m", model_version="1", threshold=0.5, probabilities=answer(values))
        self.answers.append(StreamPredictResponse(frame_id=frame_id, response=response))


def forecaster(stream: FakeStream, limit_rows: int = 100_000) -> Forecaster:
    return Forecaster(stream, CORE_1.hash, limit_rows=limit_rows, timeout_s=1.0)


def offsets(settled: list[Forecast]) -> list[int]:
    return [int(offset) for one in settled for offset in one.rows.offset]


def test_frames_are_sent_before_earlier_ones_are_answered_and_settle_in_order(clock: Clock) -> None:
    stream = ManualStream()
    here = forecaster(stream)
    for first in (0, 10, 20):
        here.submit(rows(10, first))
    assert len(stream.sent) == MAX_FRAMES_IN_FLIGHT == 2
    assert here.is_full
    assert here.settle() == []
    stream.answer(0)
    settled = here.settle()
    assert offsets(settled) == list(range(10))
    assert settled[0].probabilities.tolist() == answer(rows(10).values)
    assert len(stream.sent) == 3  # the answer made room
    stream.answer(1)
    stream.answer(2)
    assert offsets(here.settle()) == list(range(10, 30))
    assert (here.backlog_rows, here.in_flight, here.is_full) == (0, 0, False)


def test_a_server_that_hangs_is_given_up_after_the_timeout_and_rows_are_sent_again(clock: Clock) -> None:
    stream = ManualStream()
    here = forecaster(stream)
    here.submit(rows(5))
    clock.now_s += 0.99
    assert here.settle() == []
    assert here.in_flight == 1
    clock.now_s += 0.01
    assert here.settle() == []
    assert (here.in_flight, here.backlog_rows) == (0, 5)
    clock.now_s += MIN_RETRY_S
    here.settle()
    assert [len(values) for _, values in stream.sent] == [5, 5]
    stream.answer(0)  # too late: the rows were sent again
    stream.answer(1)
    assert offsets(here.settle()) == list(range(5))


@pytest.mark.parametrize(
    "error", [UnavailableError("x"), DeadlineError("x"), OverloadedError("x", 0.1), VolcastError("x")]
)
def test_after_a_failure_all_frames_in_flight_are_sent_again_in_order(clock: Clock, error: VolcastError) -> None:
    stream = ManualStream()
    here = forecaster(stream)
    here.submit(rows(JOINED_ROWS))
    here.submit(rows(JOINED_ROWS, JOINED_ROWS))
    stream.answers.append(error)
    assert here.settle() == []
    clock.now_s += MIN_RETRY_S
    assert here.settle() == []
    assert here.in_flight == 1  # a single frame finds out whether the server is back
    stream.answer(2)
    settled = here.settle()
    stream.answer(3)
    settled += here.settle()
    assert offsets(settled) == list(range(2 * JOINED_ROWS))


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_the_first_row_that_is_not_settled_is_owed(clock: Clock, frames: int) -> None:
    here = forecaster(ManualStream())
    for number in range(frames):
        here.submit(rows(1000, 1000 + 1000 * number))
    assert here.backlog_rows == 1000 * frames
    assert here.first_owed() == {0: Owed(1000, 1007)}


def test_each_partition_owes_from_its_own_first_row(clock: Clock) -> None:
    here = forecaster(ManualStream())
    here.submit(rows(JOINED_ROWS, 50, partition=0))
    here.submit(rows(JOINED_ROWS, 7, partition=1))
    here.submit(rows(10, 5000, partition=0).followed_by(rows(3, 3, partition=2)))
    assert here.first_owed() == {0: Owed(50, 57), 1: Owed(7, 14), 2: Owed(3, 10)}


def test_rows_of_a_partition_that_moved_are_forgotten_wherever_they_are(clock: Clock) -> None:
    stream = ManualStream()
    here = forecaster(stream)
    here.submit(rows(5, 0, partition=0).followed_by(rows(5, 0, partition=1)))
    here.submit(rows(5, 10, partition=1))
    here.submit(rows(5, 10, partition=0).followed_by(rows(5, 20, partition=1)))
    here.drop({1})
    assert here.backlog_rows == 10
    assert here.first_owed() == {0: Owed(0, 7)}
    here.drop({1})
    assert here.backlog_rows == 10
    stream.answer(0)
    stream.answer(1)
    settled = here.settle()
    stream.answer(2)
    settled += here.settle()
    assert [(one.rows.partition.tolist(), one.rows.offset.tolist()) for one in settled] == [
        ([0] * 5, list(range(5))),
        ([0] * 5, list(range(10, 15))),
    ]
    assert settled[0].probabilities.tolist() == answer(rows(5).values)
    assert here.backlog_rows == 0


def test_a_partition_that_comes_back_is_not_answered_by_frames_of_its_first_stay(clock: Clock) -> None:
    stream = ManualStream()
    here = forecaster(stream)
    here.submit(rows(5))
    here.drop({0})
    here.submit(rows(5))  # read back by its new owner, which is this worker again
    stream.answer(0)
    stream.answer(1)
    assert offsets(here.settle()) == list(range(5))


def test_rows_that_fill_a_frame_exactly_are_joined_and_one_more_begins_another(clock: Clock) -> None:
    stream = FakeStream()
    stream.failure = lambda: UnavailableError("x")
    here = forecaster(stream)
    here.submit(rows(1, 0))
    here.settle()
    here.submit(rows(JOINED_ROWS - 2, 1))
    here.submit(rows(1, JOINED_ROWS - 1))
    here.submit(rows(1, JOINED_ROWS))
    stream.failure, stream.frames[:] = None, []
    clock.now_s += 1
    assert offsets(here.settle()) == list(range(JOINED_ROWS + 1))
    assert stream.frames == [JOINED_ROWS, 1]


def test_a_backlog_of_exactly_the_limit_is_kept_and_one_row_more_gives_up_the_oldest_that_waits(clock: Clock) -> None:
    stream = ManualStream()
    here = forecaster(stream, limit_rows=3 * 1024)
    for number in range(3):
        here.submit(rows(1024, 1024 * number))
    assert here.settle() == []
    here.submit(rows(1, 3072))
    assert here.settle() == []  # the rows that are given up have their turn behind those in flight
    assert here.first_owed() == {0: Owed(0, 7)}
    stream.answer(0)
    stream.answer(1)
    first, second, given_up = here.settle()
    assert offsets([first, second]) == list(range(2048))
    assert first.response is not None
    assert given_up.missing == MissingReason.MISSING_REASON_SERVER_UNAVAILABLE
    assert (offsets([given_up]), here.backlog_rows) == (list(range(2048, 3072)), 1)
    assert here.first_owed() == {0: Owed(3072, 3079)}
    assert [len(values) for _, values in stream.sent] == [1024, 1024, 1]


def test_after_frames_without_an_answer_the_oldest_rows_are_given_up(clock: Clock) -> None:
    stream = ManualStream()
    here = forecaster(stream, limit_rows=3000)
    for number in range(4):
        here.submit(rows(1024, 1024 * number))
    assert here.settle() == []
    clock.now_s += 1.0  # no answer in time: all rows wait again, and the oldest are given up
    assert offsets(here.settle()) == list(range(2048))
    assert here.backlog_rows == 2048


def test_partitions_that_are_given_away_take_their_rows_along(clock: Clock) -> None:
    stream = ManualStream()
    here = forecaster(stream, limit_rows=20)
    here.submit(rows(10))
    here.submit(rows(10, 10))
    here.submit(rows(5, 0, partition=1))
    assert here.settle() == []
    here.drop({1})
    assert here.backlog_rows == 20
    stream.answer(0)
    stream.answer(1)
    assert offsets(here.settle()) == list(range(20))


class SlowStream(FakeStream):
    """Computes two rows with each look for an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.computing: deque[tuple[float, StreamPredictResponse]] = deque()
        self.computed = 0.0

    def send_packed(
        self, frame_id: int, values: Any, row_count: int, schema_hash: str, model: Any, **query: Any
    ) -> None:
        super().send_packed(frame_id, values, row_count, schema_hash, model, **query)
        response = self.answers.pop()
        assert isinstance(response, StreamPredictResponse)
        self.computing.append((row_count, response))

    def poll(self, timeout_s: float) -> StreamPredictResponse | None:
        self.computed += 2
        if self.computing and self.computed >= self.computing[0][0]:
            self.computed = 0.0
            return self.computing.popleft()[1]
        return None


def test_a_server_that_is_too_slow_predicts_as_many_rows_as_it_can(clock: Clock) -> None:
    here = forecaster(SlowStream(), limit_rows=200)
    predicted, missing = 0, 0
    settled: list[Forecast] = []
    for step in range(300):
        here.submit(rows(10, 10 * step))
        settled += here.settle()
    predicted = sum(len(each.rows) for each in settled if each.response is not None)
    missing = sum(len(each.rows) for each in settled if each.response is None)
    assert predicted > 450  # of 600 that it can compute
    assert missing + predicted + here.backlog_rows == 3000
    assert offsets(settled) == list(range(missing + predicted))


def test_a_server_that_hangs_loses_its_call_and_gets_the_rows_again(clock: Clock) -> None:
    stream = ManualStream()
    here = forecaster(stream)
    here.submit(rows(3))
    stream.answer(0)  # too late: it arrives on the call that is closed
    late = stream.answers.popleft()
    clock.now_s += 1.0
    stream.answers.clear()
    assert here.settle() == []
    assert stream.closed == 1
    stream.answers.append(late)
    clock.now_s += MIN_RETRY_S
    assert here.settle() == []  # sent again; the late answer belongs to another frame
    stream.answer(1)
    assert offsets(here.settle()) == [0, 1, 2]
