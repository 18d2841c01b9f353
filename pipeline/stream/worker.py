"""The feature worker: ticks.raw -> features -> ticks.features and Parquet -> StreamPredict -> predictions.

At least once: an offset is committed only when the features up to it are delivered and its predictions
are delivered or marked missing, so a crash repeats records and loses none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from numpy.typing import NDArray

from common.config import Topics
from common.errors import UnavailableError
from common.log import get_logger
from common.schema import CORE_1, FeatureSchema
from pipeline.features.columns import ProductCodes, TickColumns, sound
from pipeline.features.engine import FeatureBatch, FeatureEngine, Status
from pipeline.records import (
    NOT_DECODED,
    DeadLetter,
    DeadReason,
    Gap,
    LateReason,
    LateTick,
    Record,
    decode_record,
    encode,
)
from pipeline.stream import codec
from pipeline.stream.drift import LiveDrift
from pipeline.stream.forecast import Forecast, Forecaster, Rows
from pipeline.stream.kafka import Sink, consume_batch
from pipeline.stream.latency import Stages
from pipeline.stream.publish import RecordCounts
from volcast.v1 import MissingReason, Prediction

COMMIT_EVERY_S = 1.0

# The partitions have moved on; whoever has them now reads again from the last commit.
_REBALANCING = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError._ASSIGNMENT_LOST,
}

_LATE_REASONS: dict[int, LateReason] = {Status.JUMPED_BACK: "time_jumped_back", Status.REPEATED: "repeated"}


class FeatureWriter(Protocol):
    """Where feature rows are kept: FeatureParquetWriter, or a list in tests."""

    def write(
        self, product_ids: Sequence[str], ticks: TickColumns, values: NDArray[np.float64], warm: NDArray[np.bool_]
    ) -> None: ...

    def roll_if_due(self) -> None: ...


class Worker:
    """One member of the consumer group. `step` is one batch; the caller's loop decides when to end.

    The forecaster, the writer and the drift must be of the same schema.
    """

    def __init__(
        self,
        consumer: Consumer,
        sink: Sink,
        forecaster: Forecaster,
        topics: Topics,
        writer: FeatureWriter | None,
        *,
        max_batch_ticks: int,
        drift: LiveDrift | None = None,
        schema: FeatureSchema = CORE_1,
    ) -> None:
        self._consumer = consumer
        self._sink = sink
        self._topics = topics
        self._writer = writer
        self._max_batch_ticks = max_batch_ticks
        self._drift = drift
        self._engine = FeatureEngine(schema)
        self._codes = ProductCodes()
        self._next_offsets: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._commit_at_s = 0.0
        self.forecaster = forecaster
        self.counts = RecordCounts()
        self.stages = Stages()
        self.consumed = 0  # records of ticks.raw
        self.features = 0
        self.not_warm = 0
        self.predictions = 0

    @property
    def longest_ns(self) -> int:
        """How far before the committed offsets `restart_windows` needs records from."""
        return self._engine.longest_ns

    def compile(self) -> None:
        self._engine.compile()

    def step(self, timeout_s: float) -> int:
        """Takes what is there and carries it through; gives the number of messages read."""
        messages = consume_batch(self._consumer, self._max_batch_ticks, timeout_s)
        if messages:
            self._process(messages)
        elif not self.forecaster.available:
            self._publish_forecasts(self.forecaster.settle())
        self._sink.poll()
        if time.monotonic() >= self._commit_at_s:
            self.commit()
        return len(messages)

    def commit(self) -> None:
        """Delivers everything queued, then commits how far the work is settled."""
        self._commit_at_s = time.monotonic() + COMMIT_EVERY_S
        if self._writer is not None:
            self._writer.roll_if_due()
        settled = {**self._next_offsets, **self.forecaster.first_waiting_offsets()}
        if settled == self._committed:
            return
        self._sink.flush()
        offsets = [TopicPartition(self._topics.raw, partition, offset) for partition, offset in settled.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in _REBALANCING:
                raise UnavailableError(f"kafka: offsets cannot be committed: {error.args[0].str()}") from None
            get_logger().warning("not committed, the group rebalances", error=error.args[0].str())
            return
        self._committed = settled

    def restart_windows(self, records: Sequence[Record]) -> None:
        """Starts over with windows built from the last records before the committed offsets (see restore.py)."""
        self._engine = FeatureEngine(self._engine.schema)
        self._next_offsets.clear()
        self._committed.clear()
        self.forecaster.clear()
        if records:
            columns = TickColumns.from_records(records, self._codes)
            self._engine.update(columns.select(sound(columns)))

    def _process(self, messages: list[Message]) -> None:
        read_ns = time.time_ns()
        records, kept = self._decode(messages)
        first_offsets = self._advance(messages)
        self.consumed += len(messages)
        if not records:
            return
        columns = TickColumns.from_records(records, self._codes)
        usable = sound(columns)
        if not usable.all():
            records, kept = self._bury_unsound(records, kept, usable)
            columns = columns.select(usable)
        batch = self._engine.update(columns)
        used = batch.status == Status.OK
        if not used.all():
            self._set_aside(records, kept, batch.status)
            columns, batch = columns.select(used), _select(batch, used)
        computed_ns = time.time_ns()
        if not len(columns):
            return
        self._publish_features(columns, batch)
        rows = _warm_rows(columns, batch, read_ns, computed_ns, first_offsets)
        self._publish_forecasts(self.forecaster.submit(rows))
        if self._writer is not None:
            names = self._codes.names
            self._writer.write([names[code] for code in columns.product], columns, batch.values, batch.warm)

    def _decode(self, messages: list[Message]) -> tuple[list[Record], list[Message]]:
        """Records, and the messages they are from; what is no record goes to ticks.dead."""
        try:
            return [decode_record(message.value() or b"") for message in messages], messages
        except NOT_DECODED:
            pass  # one or more are damaged; the slow way finds which
        records, kept = [], []
        for message in messages:
            raw = message.value() or b""
            try:
                records.append(decode_record(raw))
                kept.append(message)
            except NOT_DECODED as error:
                shaped = isinstance(error, msgspec.ValidationError)
                self._bury("wrong_shape" if shaped else "not_json", str(error), message)
        return records, kept

    def _bury(self, reason: DeadReason, detail: str, message: Message) -> None:
        self.counts.dead[reason] += 1
        letter = DeadLetter.of(reason, detail, _source(message), message.value() or b"")
        self._sink.send(self._topics.dead, letter.source.encode(), encode(letter))

    def _bury_unsound(
        self, records: list[Record], messages: list[Message], sound: NDArray[np.bool_]
    ) -> tuple[list[Record], list[Message]]:
        for i in np.flatnonzero(~sound):
            self._bury(*_explain(records[i]), messages[i])
        kept = np.flatnonzero(sound)
        return [records[i] for i in kept], [messages[i] for i in kept]

    def _set_aside(self, records: list[Record], messages: list[Message], status: NDArray[np.uint8]) -> None:
        """Counts gaps; sends late and repeated ticks to ticks.late."""
        for i in np.flatnonzero(status != Status.OK):
            record = records[i]
            if isinstance(record, Gap):
                self.counts.gaps[record.reason] += 1
                continue
            late = LateTick(_LATE_REASONS[int(status[i])], _source(messages[i]), record)
            self.counts.late[late.reason] += 1
            self._sink.send(self._topics.late, record.product_id.encode(), encode(late))

    def _advance(self, messages: list[Message]) -> dict[int, int]:
        """Notes how far each partition has been read; gives where this batch begins in each."""
        first: dict[int, int] = {}
        for message in messages:
            partition, offset = message.partition() or 0, message.offset() or 0
            first.setdefault(partition, offset)
            self._next_offsets[partition] = offset + 1
        return first

    def _publish_features(self, columns: TickColumns, batch: FeatureBatch) -> None:
        schema_hash, width = self._engine.schema.hash, len(self._engine.schema)
        names = self._codes.names
        send, topic = self._sink.send, self._topics.features
        for code in np.unique(columns.product):
            product, of = names[code], columns.product == code
            layout = codec.feature_rows(product, schema_hash, width)
            messages = layout.encode(
                int(of.sum()),
                event_time_ns=columns.event_time_ns[of],
                ingest_time_ns=columns.ingest_time_ns[of],
                sequence_num=columns.sequence_num[of],
                values=batch.values[of],
                warm=batch.warm[of],
            )
            self.counts.ticks[product] += len(messages)
            key = product.encode()
            for message in messages:
                send(topic, key, message)
        self.features += len(columns)
        self.not_warm += len(columns) - int(batch.warm.sum())
        if self._drift is not None:
            self._drift.see_features(columns.product, columns.event_time_ns, batch.values)

    def _publish_forecasts(self, forecasts: list[Forecast]) -> None:
        for forecast in forecasts:
            if forecast.response is None:
                self._publish_missing(forecast)
            else:
                self._publish_predictions(forecast)

    def _publish_predictions(self, forecast: Forecast) -> None:
        rows, response = forecast.rows, forecast.response
        assert response is not None
        probabilities = np.array(response.probabilities)
        latency_ns = forecast.answered_ns - rows.ingest_time_ns
        send, topic, names = self._sink.send, self._topics.predictions, self._codes.names
        for code in np.unique(rows.product):
            of = rows.product == code
            layout = codec.predictions(names[code], response.model_name, response.model_version)
            messages = layout.encode(
                int(of.sum()),
                event_time_ns=rows.event_time_ns[of],
                sequence_num=rows.sequence_num[of],
                probability=probabilities[of],
                threshold=response.threshold,
                latency_ns=latency_ns[of],
            )
            key = names[code].encode()
            for message in messages:
                send(topic, key, message)
        self.predictions += len(rows)
        self._time_stages(forecast)
        if self._drift is not None:
            model = response.model_name, response.model_version
            self._drift.see_predictions(
                rows.product, rows.event_time_ns, rows.values, probabilities, model, response.threshold
            )

    def _time_stages(self, forecast: Forecast) -> None:
        rows, stages = forecast.rows, self.stages
        stages.transport.add(rows.read_ns - rows.ingest_time_ns)
        stages.features.add(rows.computed_ns - rows.read_ns)
        stages.predict.add(forecast.answered_ns - rows.computed_ns)
        stages.total.add(forecast.answered_ns - rows.ingest_time_ns)

    def _publish_missing(self, forecast: Forecast) -> None:
        rows, names = forecast.rows, self._codes.names
        for i, code in enumerate(rows.product):
            prediction = Prediction(
                product_id=names[code],
                event_time_ns=int(rows.event_time_ns[i]),
                sequence_num=int(rows.sequence_num[i]),
                latency_ns=forecast.answered_ns - int(rows.ingest_time_ns[i]),
                missing_reason=forecast.missing,
            )
            self._sink.send(self._topics.predictions, names[code].encode(), prediction.SerializeToString())
        get_logger().warning("predictions missing", rows=len(rows), reason=MissingReason.Name(forecast.missing))

    def stats(self) -> dict[str, Any]:
        return {
            **self.counts.as_json(),
            "consumed": self.consumed,
            "features": self.features,
            "not_warm": self.not_warm,
            "predictions": self.predictions,
            "missing": self.forecaster.missing.total(),
            "backlog_rows": self.forecaster.backlog_rows,
            "latency_ms": self.stages.as_ms(),
        }


def _source(message: Message) -> str:
    return f"{message.topic()}[{message.partition()}]@{message.offset()}"


def _explain(record: Record) -> tuple[DeadReason, str]:
    values = {name: float(getattr(record, name)) for name in ("price", "bid", "ask", "bid_quantity", "ask_quantity")}
    for name, value in values.items():
        if not math.isfinite(value):
            return "not_finite", f"{name}: expected a finite number, got {value}"
        if value < 0 or (value == 0 and not name.endswith("quantity")):
            return "not_positive", f"{name}: expected a positive number, got {value}"
    return "crossed_quote", f"bid: expected at most the ask {values['ask']}, got {values['bid']}"


def _select(batch: FeatureBatch, mask: NDArray[np.bool_]) -> FeatureBatch:
    return FeatureBatch(batch.status[mask], batch.warm[mask], batch.values[mask])


def _warm_rows(
    columns: TickColumns, batch: FeatureBatch, read_ns: int, computed_ns: int, first_offsets: dict[int, int]
) -> Rows:
    # Where all are warm the arrays are of this batch alone, so they can be kept as they are.
    kept: Any = slice(None) if batch.warm.all() else batch.warm
    rows = int(batch.warm.sum())
    return Rows(
        columns.product[kept],
        columns.event_time_ns[kept],
        columns.ingest_time_ns[kept],
        columns.sequence_num[kept],
        batch.values[kept],
        np.full(rows, read_ns),
        np.full(rows, computed_ns),
        first_offsets,
    )
