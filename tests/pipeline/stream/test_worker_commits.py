"""What the worker commits, and when: rebalances, aborted transactions, the Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition

from common.errors import UnavailableError
from pipeline.features.columns import TickColumns
from pipeline.features.table import compute_features
from pipeline.records import encode
from pipeline.stream.forecast import MAX_RETRY_S
from pipeline.stream.marker import from_metadata
from pipeline.stream.transactions import AbortedError
from tests.pipeline.stream.fakes import TOPICS, Bench, Clock, FakeMessage, cut, messages_of
from tests.pipeline.stream.ticks import market


class ListWriter:
    """A FeatureWriter that keeps what it was given."""

    def __init__(self) -> None:
        self.products: list[str] = []
        self.sequences: list[int] = []
        self.values: list[Any] = []
        self.looks = 0

    def write(self, product_ids: Sequence[str], ticks: TickColumns, values: Any, warm: Any) -> None:
        assert len(product_ids) == len(ticks.event_time_ns) == len(values) == len(warm)
        self.products += product_ids
        self.sequences += ticks.sequence_num.tolist()
        self.values.append(values)

    def roll_if_due(self) -> None:
        self.looks += 1


def test_every_feature_row_is_kept_before_its_offset_is_committed() -> None:
    writer = ListWriter()
    ticks = market(600)
    Bench(cut(messages_of([*ticks[:300], ticks[0], *ticks[300:]]), [7]), writer=writer).run()
    assert writer.products == [tick.product_id for tick in ticks]
    assert writer.sequences == [tick.sequence_num for tick in ticks]
    assert np.concatenate(writer.values).tobytes() == compute_features(ticks).rows.values.tobytes()


def test_a_quiet_feed_still_gives_the_parquet_file_its_end() -> None:
    writer = ListWriter()
    bench = Bench([messages_of(market(10))], writer=writer).run()
    looks = writer.looks
    bench.worker.commit()
    assert writer.looks > looks


def test_a_message_from_before_a_rebalance_does_not_come_ahead_of_earlier_ones() -> None:
    messages = messages_of(market(600))
    bench = Bench([messages[:300]])
    bench.worker.step(0.1)
    bench.worker.commit()
    consume = bench.consumer.consume

    def taken_and_given_back(limit: int, timeout_s: float) -> list[FakeMessage]:
        """The group takes all partitions and gives them back after the first message of a batch."""
        if timeout_s:
            return consume(limit, timeout_s)
        bench.worker.on_lost(bench.consumer, [TopicPartition(TOPICS.raw, number) for number in range(4)])  # type: ignore[arg-type]
        bench.assign(0, 1, 2, 3)
        bench.consumer.consume = consume  # type: ignore[method-assign]
        bench.consumer.batches = [messages[300:]]
        return consume(limit, timeout_s)

    bench.consumer.consume = taken_and_given_back  # type: ignore[method-assign]
    bench.consumer.batches = [messages[320:340]]
    bench.run()
    assert not bench.worker.totals.records.late
    assert bench.worker.totals.features == 600


def warm_rows(bench: Bench) -> Counter[tuple[int, int]]:
    return Counter((row.source_partition, row.source_offset) for row in bench.delivery.features() if row.warm)


def predicted_rows(bench: Bench) -> Counter[tuple[int, int]]:
    return Counter((one.source_partition, one.source_offset) for one in bench.delivery.predictions())


def test_a_commit_waits_for_no_answer_and_says_from_where_on_predictions_are_owed(clock: Clock) -> None:
    bench = Bench()
    messages = messages_of(market(2000))
    bench.feed(messages[:1000])
    bench.stream.failure = lambda: UnavailableError("away")
    for batch in cut(messages[1000:], [100]):
        bench.feed(batch)
    assert bench.delivery.offsets[0] == 2000
    marker = from_metadata(bench.delivery.metadata[0])
    assert marker is not None
    assert marker.owed_from == 1000
    bench.stream.failure = None
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    settled = from_metadata(bench.delivery.metadata[0])
    assert settled is not None
    assert settled.owed_from is None
    assert predicted_rows(bench) == warm_rows(bench)


def test_a_hanging_server_holds_a_step_no_longer_than_until_the_next_commit(clock: Clock) -> None:
    bench = Bench(commit_interval_s=0.1)
    waits: list[float] = []
    poll = bench.stream.poll

    def watch(timeout_s: float) -> Any:
        waits.append(timeout_s)
        return poll(timeout_s)

    bench.stream.poll = watch  # type: ignore[method-assign]
    bench.stream.hangs = True
    bench.feed(messages_of(market(1500)))
    assert waits
    assert max(waits) <= 0.1 + 1e-9
    clock.now_s += 0.1
    bench.worker.step(0.1)
    assert bench.delivery.offsets[0] == 1500


def test_an_aborted_transaction_is_done_again_from_what_is_committed(clock: Clock) -> None:
    messages = messages_of(market(1500))
    bench = Bench(commit_interval_s=10.0)
    bench.feed(messages[:700])
    bench.worker.commit()
    features, predictions = len(bench.delivery.features()), len(bench.delivery.predictions())
    bench.feed(messages[700:])
    bench.delivery.failure = AbortedError("fenced")
    clock.now_s += 10.0
    bench.worker.step(0.1)
    bench.worker.step(0.1)
    assert bench.state.asked[-1] == [0, 1, 2, 3]
    assert bench.delivery.aborts > 0
    assert (len(bench.delivery.features()), len(bench.delivery.predictions())) == (features, predictions)
    assert bench.worker.totals.features == 700
    assert bench.worker.totals.consumed == 700
    assert bench.forecaster.backlog_rows == 0


def test_a_commit_that_kafka_refuses_for_good_ends_the_worker(clock: Clock) -> None:
    bench = Bench()
    bench.delivery.failure = UnavailableError("kafka: offsets cannot be committed")
    with pytest.raises(UnavailableError, match=r"^kafka: offsets cannot be committed"):
        bench.feed(messages_of(market(10)))


def test_a_commit_with_nothing_new_is_not_sent() -> None:
    bench = Bench([messages_of(market(10))]).run()
    commits = bench.delivery.commits
    bench.worker.commit()
    bench.worker.step(0.0)
    assert bench.delivery.commits == commits


def test_what_is_in_hand_is_committed_before_partitions_are_given_up() -> None:
    bench = Bench(commit_interval_s=100.0)
    left, right = market(800), market(800, seed=6)
    bench.feed([FakeMessage(encode(tick), n, 0) for n, tick in enumerate(left)])
    bench.feed([FakeMessage(encode(tick), n, 1) for n, tick in enumerate(right)])
    bench.revoke(1)
    assert bench.delivery.offsets == {0: 800, 1: 800, 2: 0, 3: 0}
    assert predicted_rows(bench) == warm_rows(bench)


def test_a_rebalance_leaves_the_partitions_that_stay_alone() -> None:
    ticks = market(1500)
    bench = Bench()
    bench.feed([FakeMessage(encode(tick), n, 0) for n, tick in enumerate(ticks[:1000])])
    bench.revoke(1, 2)
    bench.assign(2)
    bench.feed([FakeMessage(encode(tick), n + 1000, 0) for n, tick in enumerate(ticks[1000:])])
    offline = compute_features(ticks).rows
    got = {(row.product_id, row.sequence_num): np.array(row.values).tobytes() for row in bench.delivery.features()}
    assert got == {
        (product, int(offline.sequence_num[i])): offline.values[i].tobytes()
        for i, product in enumerate(offline.product_ids)
    }
    assert 1 not in bench.consumer.assigned


def test_rows_of_a_partition_that_was_given_up_are_predicted_by_its_new_owner_alone(clock: Clock) -> None:
    bench = Bench()
    bench.stream.failure = lambda: UnavailableError("away")
    bench.feed([FakeMessage(encode(tick), n, 1) for n, tick in enumerate(market(800))])
    marker = from_metadata(bench.delivery.metadata[1])
    assert marker is not None
    assert marker.owed_from is not None
    bench.revoke(1)
    bench.stream.failure = None
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    assert bench.delivery.predictions() == []
    assert bench.forecaster.backlog_rows == 0


def test_partitions_that_were_lost_are_not_committed() -> None:
    bench = Bench(commit_interval_s=100.0)
    bench.feed(messages_of(market(100)))
    lost = [TopicPartition(TOPICS.raw, 0)]
    bench.worker.on_lost(bench.consumer, lost)  # type: ignore[arg-type]
    assert bench.delivery.features() == []
    bench.worker.step(0.0)
    assert 0 not in bench.delivery.offsets


def test_rows_reach_parquet_only_when_they_are_committed(clock: Clock) -> None:
    writer = ListWriter()
    bench = Bench(writer=writer, commit_interval_s=10.0)
    bench.feed(messages_of(market(100)))
    assert writer.products == []
    bench.delivery.failure = AbortedError("fenced")
    clock.now_s += 10.0
    bench.worker.step(0.1)
    bench.worker.step(0.1)
    assert writer.products == []
    bench.feed(messages_of(market(100)))
    bench.worker.commit()
    assert len(writer.products) == 100
