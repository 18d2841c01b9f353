"""The feature worker: ticks.raw -> features -> ticks.features and Parquet -> StreamPredict -> predictions.

A commit holds features, late and dead records, predictions that are there by then, snapshots, and the offsets of the
ticks behind all of them. The worker goes on while a commit is in flight. Predictions that are not there yet follow with
a later commit; the marker stored with each offset (see marker.py) states from which tick on they are owed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from operator import methodcaller
from typing import Any, Protocol

import numpy as np
from confluent_kafka import Consumer, Message, TopicPartition
from numpy.typing import NDArray

from common.config import Topics
from common.log import get_logger
from common.schema import CORE_1, TRAILING_KNOWN, TRAILING_S, FeatureSchema
from pipeline.features.columns import TickColumns, VenueProductCodes
from pipeline.features.engine import FeatureEngine
from pipeline.records import DeadLetter, LateTick, encode, record_key
from pipeline.stream import codec
from pipeline.stream.commits import Commit, FeatureRows, Totals
from pipeline.stream.drift import LiveDrift
from pipeline.stream.forecast import Forecast, Forecaster, Rows, missing
from pipeline.stream.kafka import consume_batch
from pipeline.stream.latency import Stages
from pipeline.stream.marker import to_metadata
from pipeline.stream.partition import Outcome, Partition
from pipeline.stream.restore import Restored
from pipeline.stream.snapshots import records_of
from pipeline.stream.transactions import AbortedError, Delivery
from volcast.v1 import MissingReason

# Every product that changed gets a snapshot at least so often. A restart then needs few ticks again even in a quiet
# market, where retention may have taken older ones.
SNAPSHOT_EVERY_S = 60.0
# While frames or a commit are in flight the worker looks for their end this often.
POLL_S = 0.001
_PARTITION = methodcaller("partition")
RETENTION = "retention"  # reason of a gap: Kafka deleted records before the worker read them


class FeatureWriter(Protocol):
    """Where feature rows are kept: FeatureParquetWriter, or a list in tests."""

    def write(
        self, product_ids: Sequence[str], ticks: TickColumns, values: NDArray[np.float64], warm: NDArray[np.bool_]
    ) -> None: ...

    def roll_if_due(self) -> None: ...


class StateReader(Protocol):
    """Gives the state of partitions of ticks.raw as of their committed offsets: Restorer."""

    def restore(self, numbers: Sequence[int]) -> list[Restored]: ...


class Worker:
    """One member of the consumer group. `step` takes one batch; the caller's loop decides when to end.

    The forecaster, the writer and the drift must have the same schema. codes: shared with the state reader.
    """

    def __init__(
        self,
        consumer: Consumer,
        delivery: Delivery,
        forecaster: Forecaster,
        state: StateReader,
        codes: VenueProductCodes,
        topics: Topics,
        writer: FeatureWriter | None,
        *,
        group_id: str,
        max_batch_ticks: int,
        commit_interval_s: float,
        drift: LiveDrift | None = None,
        schema: FeatureSchema = CORE_1,
    ) -> None:
        self._consumer = consumer
        self._delivery = delivery
        self._state = state
        self._topics = topics
        self._writer = writer
        self._group_id = group_id
        self._max_batch_ticks = max_batch_ticks
        self._commit_interval_s = commit_interval_s
        self._drift = drift
        self._schema = schema
        self._imbalance = schema.names.index("order_book_imbalance")
        self._trailing_known = schema.names.index(TRAILING_KNOWN) if TRAILING_KNOWN in schema.names else None
        self._known_s: dict[str, float] = {}  # product -> how much of the trailing hour is known
        self._partitions: dict[int, Partition] = {}
        self._codes = codes
        self._names: list[tuple[str, str]] = []  # venue and product by code
        self._codes_of: dict[int, NDArray[np.int32]] = {}  # partition -> codes by the partition's own codes
        self._committed: dict[int, tuple[int, str]] = {}  # partition -> offset and marker
        self._committed_totals = Totals()
        self._commit_in_flight: Commit | None = None
        self._uncommitted = False  # there is something to commit, beside the commit in flight
        self._commit_at_s = 0.0
        self._snapshot_at_s = time.monotonic() + SNAPSHOT_EVERY_S
        self._stale = False  # the state is ahead of what is committed, since a transaction was aborted
        self._lost: set[int] = set()  # partitions whose next records Kafka has deleted
        self._unwritten: list[FeatureRows] = []
        self.forecaster = forecaster
        self.totals = Totals()
        self.stages = Stages()

    def compile(self) -> None:
        FeatureEngine(self._schema).compile()

    # What the group does, called by the consumer's `consume`.

    def on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:  # a cooperative rebalance may add none
            # The restore would wait for the worker's own open transaction, and may outlast it.
            self._commit_or_abort()
            self._take_over([partition.partition for partition in partitions])

    def on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Commits before another worker owns the partitions."""
        self._commit_or_abort()
        self._forget({partition.partition for partition in partitions})

    def on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another worker may own the partitions already, so nothing more can be committed."""
        with suppress(AbortedError):
            self._finish_commit(wait=True)
        self._delivery.abort()
        self._forget({partition.partition for partition in partitions})
        self._roll_back()
        self._stale = bool(self._partitions)

    # The loop.

    def step(self, timeout_s: float) -> int:
        """Takes the messages that are there and processes them; returns how many. Waits at most timeout_s."""
        try:
            if self._stale:
                self._recover()
            return self._step(timeout_s)
        except AbortedError:
            self._stale = True
            return 0

    def commit(self) -> None:
        """Commits everything that is processed, and waits for it. Raises AbortedError; then the state is stale.

        After snapshots a second commit stores the marker that uses them, so the next owner reads few ticks again.
        """
        self._finish_commit(wait=True)
        for _ in range(2):
            if not self._stale:
                self._start_commit()
                self._finish_commit(wait=True)
            if not self._uncommitted:
                break

    @property
    def committed(self) -> Totals:
        """Counts of what is committed; they never fall."""
        return self._committed_totals

    def stats(self) -> dict[str, Any]:
        totals = self.totals
        return {
            **totals.records.as_json(),
            "consumed": totals.consumed,
            "features": totals.features,
            "not_warm": totals.not_warm,
            "predictions": totals.predictions,
            "missing": totals.missing.total(),
            "lost_records": totals.lost_records,
            "backlog_rows": self.forecaster.backlog_rows,
            "latency_ms": self.stages.as_ms(),
            # Products of which less than the whole trailing hour is known.
            "trailing_known_s": {name: known for name, known in self._known_s.items() if known < TRAILING_S},
        }

    def _commit_or_abort(self) -> None:
        try:
            self.commit()
        except AbortedError:
            self._stale = True
            self._delivery.abort()

    def _step(self, timeout_s: float) -> int:
        if self._delivery.is_full:
            self._finish_commit(wait=True)
        timeout_s = self._limited(timeout_s)
        messages = consume_batch(
            self._consumer, self._max_batch_ticks, timeout_s,
            on_lost_records=self._lost.add, assignment=lambda number: self._partitions.get(number or 0),
        )  # fmt: skip
        if messages:
            self._begin()
            self._process(messages)
        # After a full batch more ticks are there. Otherwise an answer comes next.
        busy = len(messages) >= self._max_batch_ticks and not self.forecaster.is_full
        expects = self._uncommitted and not busy and self.forecaster.is_answering
        wait_s = max(0.0, self._commit_at_s - time.monotonic()) if expects else 0.0
        self._publish_forecasts(self.forecaster.settle(wait_s))
        self._delivery.poll()
        now_s = time.monotonic()
        if now_s >= self._snapshot_at_s:
            self._snapshot_at_s = now_s + SNAPSHOT_EVERY_S
            for partition in self._partitions.values():
                partition.mark_due()
            self._begin()
        if self._finish_commit() and self._uncommitted and now_s >= self._commit_at_s:
            self._start_commit()
            self._finish_commit()  # a delivery that commits at once is done
        if self._lost:
            self._pass_over_lost_records()
        return len(messages)

    def _limited(self, timeout_s: float) -> float:
        """How long to wait for messages: until something else may be due."""
        if self._commit_in_flight is not None or self.forecaster.in_flight:
            timeout_s = min(timeout_s, POLL_S)
        if self._uncommitted and self._commit_in_flight is None:
            timeout_s = min(timeout_s, max(0.0, self._commit_at_s - time.monotonic()))
        return timeout_s

    def _start_commit(self) -> None:
        self._commit_at_s = time.monotonic() + self._commit_interval_s
        owed = self.forecaster.first_owed()
        offsets: dict[int, tuple[int, str]] = {}
        snapshots: list[tuple[bytes, bytes, int]] = []
        for number, partition in self._partitions.items():
            first = owed.get(number)
            marker = partition.marker(first.offset if first else None, first.since_ns if first else 0)
            offsets[number] = partition.next_offset, to_metadata(marker)
            taken = partition.due_snapshots(self._group_id)
            for snapshot in taken:
                snapshots += [(key, value, partition.snapshot_partition) for key, value in records_of(snapshot)]
            partition.snapshots_written(taken)
        changed = {number: offset for number, offset in offsets.items() if self._committed.get(number) != offset}
        if changed or self._uncommitted or snapshots:
            self._delivery.start_commit(
                [
                    TopicPartition(self._topics.raw, number, offset, metadata)
                    for number, (offset, metadata) in changed.items()
                ],
                [(self._topics.snapshots, *snapshot) for snapshot in snapshots],
            )
        self._commit_in_flight = Commit(changed, self.totals.copy(), self._unwritten)
        self._unwritten = []
        # The marker of this commit is older than its snapshots. The next commit stores the newer one.
        self._uncommitted = bool(snapshots)

    def _finish_commit(self, *, wait: bool = False) -> bool:
        """Whether no commit is in flight any more. Raises AbortedError; then the state is stale."""
        commit = self._commit_in_flight
        if commit is None:
            return True
        try:
            if not self._delivery.finish_commit(wait=wait):
                return False
        except AbortedError:
            self._commit_in_flight, self._stale = None, True
            raise
        self._commit_in_flight = None
        self._committed |= commit.offsets
        self._committed_totals = commit.totals
        self._write_rows(commit.rows)
        return True

    def _begin(self) -> None:
        """Notes that there is something to commit."""
        if not self._uncommitted:
            self._uncommitted = True
            self._commit_at_s = time.monotonic() + self._commit_interval_s

    def _take_over(self, numbers: Sequence[int]) -> None:
        """Restores partitions and reads on where the last commit left off."""
        positions = []
        for restored in self._state.restore(numbers):
            partition = restored.partition
            number = partition.number
            self._partitions[number] = partition
            self._codes_of[number] = np.zeros(0, np.int32)
            for rows in restored.owed:
                self.forecaster.submit(rows)
            for rows in restored.former_schema:
                self._publish_forecasts([missing(rows, MissingReason.MISSING_REASON_SCHEMA_CHANGED)])
            if restored.lost_records:
                self._note_lost(number, restored.lost_records)
            positions.append(TopicPartition(self._topics.raw, number, partition.next_offset))
        self._consumer.incremental_assign(positions)
        get_logger().info("assigned", partitions=list(numbers))

    def _forget(self, numbers: set[int]) -> None:
        self.forecaster.drop(numbers)
        self._known_s.clear()
        for number in numbers:
            self._partitions.pop(number, None)
            self._committed.pop(number, None)
            self._lost.discard(number)

    def _recover(self) -> None:
        """After an aborted transaction: starts again from what is committed."""
        numbers = list(self._partitions)
        self._delivery.abort()
        self._roll_back()
        self._reassign(numbers)
        self._stale = False

    def _roll_back(self) -> None:
        """Forgets what the aborted transaction held."""
        self._unwritten.clear()
        self.totals = self._committed_totals.copy()
        self._uncommitted = False

    def _reassign(self, numbers: Sequence[int]) -> None:
        self._consumer.incremental_unassign([TopicPartition(self._topics.raw, number) for number in numbers])
        self._forget(set(numbers))
        self._take_over(numbers)

    def _pass_over_lost_records(self) -> None:
        """Goes on after records that retention deleted while the worker was behind: a gap in each product."""
        self.commit()
        self._reassign([number for number in self._lost if number in self._partitions])
        self._lost.clear()

    def _note_lost(self, number: int, count: int) -> None:
        get_logger().error(
            "kafka deleted records before they were read; windows start anew", partition=number, lost_records=count
        )
        self.totals.records.gaps[RETENTION] += 1
        self.totals.lost_records += count

    def _process(self, messages: list[Message]) -> None:
        read_ns = time.time_ns()
        self.totals.consumed += len(messages)
        for number, run in groupby(messages, key=_PARTITION):
            partition = self._partitions.get(number or 0)
            if partition is not None:
                outcome = partition.absorb(list(run))
                self._set_aside(partition.number, outcome)
                if len(outcome.columns):
                    self._publish_rows(partition, outcome, read_ns)

    def _set_aside(self, number: int, outcome: Outcome) -> None:
        counts, topics = self.totals.records, self._topics
        counts.gaps.update(outcome.gaps)
        for late_reason, offset, tick in outcome.late:
            counts.late[late_reason] += 1
            late = LateTick(late_reason, self._source(number, offset), tick)
            self._delivery.send_all(topics.late, record_key(tick.venue, tick.product_id).encode(), [encode(late)])
        for reason, detail, offset, raw in outcome.dead:
            counts.dead[reason] += 1
            letter = DeadLetter.of(reason, detail, self._source(number, offset), raw)
            self._delivery.send_all(topics.dead, letter.source.encode(), [encode(letter)])

    def _source(self, number: int, offset: int) -> str:
        return f"{self._topics.raw}[{number}]@{offset}"

    def _publish_rows(self, partition: Partition, outcome: Outcome, read_ns: int) -> None:
        columns, features = outcome.columns, outcome.features
        product = self._codes_in(partition)[columns.product]
        # The server works on the warm rows while the features are encoded.
        self.forecaster.submit(self._warm_rows(partition.number, product, outcome, read_ns))
        for code in np.unique(product).tolist():
            of: Any = slice(None) if (product[0] == code and (product == code).all()) else product == code
            self._publish_features(code, partition.number, outcome, of)
        self.totals.features += len(columns)
        self.totals.not_warm += len(columns) - int(features.warm.sum())
        if self._drift is not None:
            self._drift.see_features(product, columns.event_time_ns, features.values)
        if self._writer is not None:
            product_ids = [self._names[code][1] for code in product.tolist()]
            self._unwritten.append((product_ids, columns, features.values, features.warm))

    def _publish_features(self, code: int, number: int, outcome: Outcome, of: Any) -> None:
        columns, features = outcome.columns, outcome.features
        venue, product_id = self._names[code]
        values = features.values[of]
        if self._trailing_known is not None:
            self._known_s[product_id] = float(values[-1, self._trailing_known])
        messages = codec.feature_rows(venue, product_id, self._schema.hash, len(self._schema)).encode(
            len(values),
            event_time_ns=columns.event_time_ns[of],
            ingest_time_ns=columns.ingest_time_ns[of],
            sequence_num=columns.sequence_num[of],
            values=values,
            warm=features.warm[of],
            source_partition=number,
            source_offset=outcome.offsets[of],
            bid=columns.bid[of],
            ask=columns.ask[of],
            imbalance=values[:, self._imbalance],
        )
        self.totals.records.ticks[product_id] += len(messages)
        self._delivery.send_all(self._topics.features, record_key(venue, product_id).encode(), messages)

    def _warm_rows(self, number: int, product: NDArray[np.int32], outcome: Outcome, read_ns: int) -> Rows:
        columns, features = outcome.columns, outcome.features
        # If all rows are warm, the arrays are taken as they are: they belong to this batch alone.
        warm: Any = slice(None) if features.warm.all() else features.warm
        values = features.values[warm]
        count = len(values)
        return Rows(
            product[warm],
            np.full(count, number, np.int32),
            outcome.offsets[warm],
            columns.event_time_ns[warm],
            columns.ingest_time_ns[warm],
            columns.sequence_num[warm],
            columns.bid[warm],
            columns.ask[warm],
            values[:, self._imbalance],
            values,
            np.full(count, read_ns),
            np.full(count, time.time_ns()),
        )

    def _codes_in(self, partition: Partition) -> NDArray[np.int32]:
        """The worker's codes of a partition's products, by the partition's codes."""
        codes = self._codes_of[partition.number]
        if len(codes) != len(partition.codes):
            codes = np.array([self._codes[instrument] for instrument in partition.codes], np.int32)
            self._codes_of[partition.number] = codes
            self._names = list(self._codes)
        return codes

    def _publish_forecasts(self, forecasts: list[Forecast]) -> None:
        if forecasts:
            self._begin()
            self._names = list(self._codes) if len(self._names) != len(self._codes) else self._names
        for forecast in forecasts:
            if forecast.response is None:
                self._publish_missing(forecast)
            else:
                self._publish_predictions(forecast)

    def _publish_predictions(self, forecast: Forecast) -> None:
        rows, response = forecast.rows, forecast.response
        assert response is not None
        model = response.model_name, response.model_version
        latency_ns = forecast.answered_ns - rows.ingest_time_ns
        for code in np.unique(rows.product).tolist():
            of: Any = slice(None) if (rows.product == code).all() else rows.product == code
            venue, product_id = self._names[code]
            layout = codec.predictions(venue, product_id, *model, forecast.levels)
            messages = layout.encode(
                len(rows.offset[of]),
                event_time_ns=rows.event_time_ns[of],
                sequence_num=rows.sequence_num[of],
                probability=forecast.probabilities[of],
                threshold=response.threshold,
                latency_ns=latency_ns[of],
                source_partition=rows.partition[of],
                source_offset=rows.offset[of],
                bid=rows.bid[of],
                ask=rows.ask[of],
                imbalance=rows.imbalance[of],
                **forecast.distribution(of),
            )
            self._delivery.send_all(self._topics.predictions, record_key(venue, product_id).encode(), messages)
        self.totals.predictions += len(rows)
        self._time_stages(forecast)
        if self._drift is not None:
            self._drift.see_predictions(
                rows.product, rows.event_time_ns, rows.values, forecast.probabilities, model, response.threshold
            )

    def _time_stages(self, forecast: Forecast) -> None:
        rows, stages = forecast.rows, self.stages
        stages.transport.add(rows.read_ns - rows.ingest_time_ns)
        stages.features.add(rows.computed_ns - rows.read_ns)
        stages.predict.add(forecast.answered_ns - rows.computed_ns)
        stages.total.add(forecast.answered_ns - rows.ingest_time_ns)

    def _publish_missing(self, forecast: Forecast) -> None:
        rows, reason = forecast.rows, MissingReason.Name(forecast.missing)
        for i, code in enumerate(rows.product.tolist()):
            venue, product_id = self._names[code]
            prediction = forecast.missing_prediction(i, venue, product_id)
            key = record_key(venue, product_id).encode()
            self._delivery.send_all(self._topics.predictions, key, [prediction.SerializeToString()])
        self.totals.missing[reason.removeprefix("MISSING_REASON_").lower()] += len(rows)
        get_logger().warning("predictions missing", rows=len(rows), reason=reason)

    def _write_rows(self, committed: list[FeatureRows]) -> None:
        """Committed rows to Parquet, which is a convenience beside the topics."""
        if self._writer is None:
            return
        for rows in committed:
            self._writer.write(*rows)
        self._writer.roll_if_due()
