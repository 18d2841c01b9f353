"""The worker while the inference server is away, slow or refuses: rows wait in order, and none is given up silently."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from common.errors import DeadlineError, OverloadedError, RequestError, UnavailableError, VolcastError
from pipeline.stream.forecast import JOINED_ROWS, MAX_RETRY_S, MIN_RETRY_S
from tests.pipeline.stream.fakes import TOPICS, Bench, Clock, cut, messages_of, outcome
from tests.pipeline.stream.ticks import market
from volcast.v1 import MissingReason, Prediction


class Failures:
    """Ways in which an inference server does not answer, each the client's own error."""

    ALL = (
        lambda: UnavailableError("away"),
        lambda: DeadlineError("no answer within 1 s"),
        lambda: OverloadedError("queue is full", 0.1),
        lambda: VolcastError("INTERNAL"),
    )


@pytest.mark.parametrize("failure", Failures.ALL)
def test_rows_wait_in_order_for_a_server_that_is_away_and_features_go_on(failure: Any, clock: Clock) -> None:
    ticks = market(1500)
    reference = Bench([messages_of(ticks)]).run()
    batches = cut(messages_of(ticks), [100])
    bench = Bench()
    for number, batch in enumerate(batches):
        bench.stream.failure = failure if 6 <= number < 12 else None
        bench.feed(batch)
        clock.now_s += MIN_RETRY_S / 2
    assert bench.worker.totals.features == 1500
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    assert bench.forecaster.backlog_rows == 0
    assert outcome(bench)[TOPICS.predictions] == outcome(reference)[TOPICS.predictions]
    assert bench.stream.rows_answered == bench.worker.totals.predictions  # none asked for again once answered


def test_while_the_server_is_away_it_is_not_asked_for_every_tick(clock: Clock) -> None:
    bench = Bench()
    ticks = market(1500)
    bench.feed(messages_of(ticks[:1000]))
    asked = len(bench.stream.frames)
    bench.stream.failure = lambda: UnavailableError("away")
    for message in messages_of(ticks)[1000:1100]:
        bench.feed([message])
    assert len(bench.stream.frames) == asked + 1
    clock.now_s += MIN_RETRY_S
    bench.feed(messages_of(ticks)[1100:1101])
    assert len(bench.stream.frames) == asked + 2
    for _ in range(40):  # the wait doubles, up to its limit
        clock.now_s += MAX_RETRY_S
        bench.worker.step(0.1)
    assert len(bench.stream.frames) == asked + 42


def test_a_backlog_of_single_rows_takes_few_frames(clock: Clock) -> None:
    bench = Bench()
    messages = messages_of(market(3500))
    bench.feed(messages[:1000])
    bench.stream.failure = lambda: UnavailableError("away")
    for message in messages[1000:]:
        bench.feed([message])
    asked = len(bench.stream.frames)
    bench.stream.failure = None
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    frames = bench.stream.frames[asked:]
    assert sum(frames) == 2500
    assert len(frames) == 1 + 2500 // JOINED_ROWS
    assert bench.worker.stages.predict.count == bench.worker.totals.predictions
    for values in bench.delivery.sent[TOPICS.predictions].values():
        order = [Prediction.FromString(value).sequence_num for value in values]
        assert order == sorted(set(order))


def test_over_the_limit_the_oldest_are_marked_missing_with_the_reason(clock: Clock) -> None:
    limit_rows = JOINED_ROWS  # rows are given up in joined frames: a smaller limit may leave none
    bench = Bench(limit_rows=limit_rows)
    bench.stream.failure = lambda: UnavailableError("away")
    for batch in cut(messages_of(market(3000)), [250]):
        bench.feed(batch)
    warm = [row for row in bench.delivery.features() if row.warm]
    missing = bench.delivery.predictions()
    assert 0 < bench.forecaster.backlog_rows <= limit_rows
    assert len(missing) + bench.forecaster.backlog_rows == len(warm)
    assert {one.missing_reason for one in missing} == {MissingReason.MISSING_REASON_SERVER_UNAVAILABLE}
    assert bench.worker.totals.missing == {"server_unavailable": len(missing)}
    assert bench.worker.stats()["missing"] == len(missing)
    assert not any(one.HasField("probability") for one in missing)
    bench.stream.failure = None
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    answered = Counter((one.product_id, one.sequence_num) for one in bench.delivery.predictions())
    assert answered == Counter((row.product_id, row.sequence_num) for row in warm)
    given_up, kept = {one.sequence_num for one in missing}, bench.delivery.predictions()
    assert max(given_up) < min(one.sequence_num for one in kept if not one.missing_reason)


def test_refused_rows_are_marked_missing_and_the_next_are_asked_for() -> None:
    bench = Bench()
    messages = messages_of(market(1500))
    bench.feed(messages[:1000])
    answered = bench.worker.totals.predictions
    bench.stream.failure = lambda: RequestError.of("packed.values", "too many rows")
    bench.feed(messages[1000:1200])
    bench.stream.failure = None
    bench.feed(messages[1200:])
    reasons = Counter(one.missing_reason for one in bench.delivery.predictions())
    assert reasons == {
        MissingReason.MISSING_REASON_UNSPECIFIED: answered + 300,
        MissingReason.MISSING_REASON_REFUSED: 200,
    }
    assert bench.worker.totals.missing == {"refused": 200}


@pytest.mark.parametrize("rows", [0, 1, 199])
def test_an_answer_of_another_length_is_no_answer(rows: int) -> None:
    bench = Bench()
    messages = messages_of(market(1200))
    bench.feed(messages[:1000])
    bench.stream.answer_rows = rows
    bench.feed(messages[1000:])
    assert bench.worker.totals.missing == {"refused": 200}


def test_a_prediction_that_is_missing_still_says_which_row_it_was(clock: Clock) -> None:
    bench = Bench(limit_rows=0)
    bench.stream.failure = lambda: UnavailableError("away")
    ticks = market(1000)
    bench.feed(messages_of(ticks))
    expected = {(row.product_id, row.event_time_ns, row.sequence_num) for row in bench.delivery.features() if row.warm}
    got = [(one.product_id, one.event_time_ns, one.sequence_num) for one in bench.delivery.predictions()]
    assert sorted(got) == sorted(expected)
    assert all(isinstance(one, Prediction) and one.latency_ns > 0 for one in bench.delivery.predictions())
