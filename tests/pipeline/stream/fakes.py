"""In-memory versions of the worker's ports, and the worker on them."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import TopicPartition

from common.config import Topics
from common.errors import RequestError, VolcastError
from common.rpc_status import to_status
from common.schema import CORE_1, FeatureSchema
from pipeline.features.columns import VenueProductCodes
from pipeline.records import Record, encode
from pipeline.stream.forecast import AnswerStream, Forecaster
from pipeline.stream.partition import Partition
from pipeline.stream.restore import Restored
from pipeline.stream.transactions import SnapshotRecord
from pipeline.stream.worker import FeatureWriter, Worker
from volcast.v1 import FeatureRow, ModelSelector, Prediction, PredictResponse, StreamPredictResponse

TOPICS = Topics()
DEFAULT_BPS = 2.5  # default spike size of FakeStream's forecast model


@dataclass(frozen=True)
class FakeMessage:
    raw: bytes | None
    at: int
    of_partition: int = 0

    def value(self) -> bytes | None:
        return self.raw

    def offset(self) -> int:
        return self.at

    def partition(self) -> int:
        return self.of_partition

    def topic(self) -> str:
        return TOPICS.raw

    def error(self) -> None:
        return None


def messages_of(values: Iterable[Record | bytes | None]) -> list[FakeMessage]:
    """Records, or bytes as they are, on partition 0 from offset 0 on."""
    raws = [encode(one) if isinstance(one, Record) else one for one in values]
    return [FakeMessage(raw, offset) for offset, raw in enumerate(raws)]


class FakeConsumer:
    """Hands out the batches it was given, one a step."""

    def __init__(self, batches: Iterable[Sequence[FakeMessage]] = ()) -> None:
        self.batches = [list(batch) for batch in batches if batch]
        self.assigned: dict[int, int] = {}  # partition -> offset to start at

    def consume(self, limit: int, timeout_s: float) -> list[FakeMessage]:
        if not self.batches:
            return []
        batch = self.batches[0]
        taken, self.batches[0] = batch[:limit], batch[limit:]
        if not self.batches[0] and timeout_s == 0:
            self.batches.pop(0)
        return taken

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.assigned |= {one.partition: one.offset for one in partitions}

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        for one in partitions:
            del self.assigned[one.partition]


@dataclass
class FakeSink:
    """Keeps what was sent: topic -> key -> values in order."""

    sent: dict[str, dict[bytes, list[bytes]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    unflushed: int = 0
    refusal: VolcastError | None = None

    def send(self, topic: str, key: bytes, value: bytes) -> None:
        self.sent[topic][key].append(value)
        self.unflushed += 1

    def flush(self) -> None:
        if self.refusal:
            raise self.refusal
        self.unflushed = 0

    def poll(self) -> None:
        pass

    def values(self, topic: str) -> list[bytes]:
        return [value for values in self.sent[topic].values() for value in values]


class FakeDelivery:
    """Transactions in memory: topic -> key -> values in order, and the offsets."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[bytes, list[bytes]]] = defaultdict(lambda: defaultdict(list))
        self._open: list[tuple[str, bytes, int]] = []  # topic, key and number of messages since the last commit
        self.offsets: dict[int, int] = {}
        self.metadata: dict[int, str] = {}
        self.commits = 0
        self.aborts = 0
        self.failure: Exception | None = None  # raised by the next commit
        self.is_full = False
        self.slow = False  # commits stay in flight until someone waits for them, or until this is False again
        self._commit: Callable[[], None] | None = None

    def send_all(self, topic: str, key: bytes, values: Sequence[bytes], partition: int = -1) -> None:
        self.sent[topic][key] += values
        self._open.append((topic, key, len(values)))

    def poll(self) -> None:
        pass

    def release(self, partitions: Sequence[TopicPartition]) -> None:
        raise NotImplementedError

    def start_commit(self, offsets: Sequence[TopicPartition], snapshots: Sequence[SnapshotRecord]) -> None:
        assert self._commit is None
        for topic, key, value, partition in snapshots:
            self.send_all(topic, key, [value], partition)
        count = len(self._open)
        self._commit = lambda: self._end_transaction(offsets, count)

    def finish_commit(self, *, wait: bool) -> bool:
        if self._commit is not None:
            if self.slow and not wait:
                return False
            commit, self._commit = self._commit, None
            commit()
        return True

    def _end_transaction(self, offsets: Sequence[TopicPartition], count: int) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.commits += 1
        del self._open[:count]  # what was sent since then belongs to the next transaction
        for one in offsets:
            assert one.topic == TOPICS.raw
            self.offsets[one.partition] = one.offset
            self.metadata[one.partition] = one.metadata or ""

    def abort(self) -> None:
        assert self._commit is None
        self.aborts += 1
        while self._open:
            topic, key, count = self._open.pop()
            del self.sent[topic][key][len(self.sent[topic][key]) - count :]

    def close(self) -> None:
        self.abort()

    def features(self) -> list[FeatureRow]:
        return [FeatureRow.FromString(value) for value in self.values(TOPICS.features)]

    def predictions(self) -> list[Prediction]:
        return [Prediction.FromString(value) for value in self.values(TOPICS.predictions)]

    def values(self, topic: str) -> list[bytes]:
        return [value for values in self.sent[topic].values() for value in values]


class FakeState:
    """Gives partitions whose history is empty, or what `restored` holds for them."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.restored: dict[int, Restored] = {}
        self.asked: list[list[int]] = []

    def restore(self, numbers: Sequence[int]) -> list[Restored]:
        self.asked.append(list(numbers))
        return [self.restored.get(number) or Restored(self.fresh(number)) for number in numbers]

    def fresh(self, number: int) -> Partition:
        return Partition(number, self.schema, 60 * 10**9, "lineage", number)


class FakeStream:
    """An inference server whose answer is a plain function of the row, so that a mixed-up one shows."""

    def __init__(self, schema: FeatureSchema = CORE_1, model: str = "") -> None:
        self.schema = schema
        self.model = model  # the only one it answers for; empty: the default
        self.failure: Callable[[], VolcastError] | None = None
        self.hangs = False  # takes frames and does not answer
        self.answer_rows: int | None = None  # how many probabilities to give, instead of one a row
        self.forecasts = False  # whether its model forecasts a distribution
        self.queries: list[dict[str, Any]] = []  # of each frame
        self.frames: list[int] = []  # rows of each frame, refused ones too
        self.rows_answered = 0
        self.answers: deque[StreamPredictResponse | VolcastError] = deque()
        self.closed = 0

    def send_packed(
        self, frame_id: int, values: Any, row_count: int, schema_hash: str, model: ModelSelector | None, **query: Any
    ) -> None:
        self.queries.append(query)
        assert schema_hash == self.schema.hash
        assert ("" if model is None else model.name) == self.model
        rows = np.frombuffer(bytes(values), "<f8").reshape(row_count, len(self.schema))
        assert np.isfinite(rows).all()
        self.frames.append(row_count)
        if self.failure is not None:
            error = self.failure()
            if isinstance(error, RequestError):
                self.answers.append(StreamPredictResponse(frame_id=frame_id, error=to_status(error)))
            else:
                self.answers.append(error)
        elif not self.hangs:
            response = PredictResponse(
                model_name="fake", model_version="7", threshold=0.5, probabilities=answer(rows)[: self.answer_rows]
            )
            if self.forecasts:
                response.MergeFrom(
                    distribution(rows, query.get("spike_bps") or DEFAULT_BPS, query.get("quantiles", ()))
                )
            self.rows_answered += row_count
            self.answers.append(StreamPredictResponse(frame_id=frame_id, response=response))

    def poll(self, timeout_s: float) -> StreamPredictResponse | None:
        answer = self.answers.popleft() if self.answers else None
        if isinstance(answer, VolcastError):
            self.answers.clear()
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1
        self.answers.clear()


def answer(rows: Any) -> list[float]:
    """What FakeStream says of rows (n, features): a number in [0, 1) made of the bits of each."""
    return [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=6).digest()) / 2**48 for row in rows]


def distribution(rows: Any, spike_bps: float, levels: Sequence[float]) -> PredictResponse:
    """What FakeStream forecasts for rows (n, features), from the bits of each as `answer`."""
    medians = [1 + 10 * number for number in answer(rows)]
    quantiles = [median * 2 * level for median in medians for level in levels]
    return PredictResponse(spike_bps=spike_bps, base_rate=0.125, median_bps=medians, quantile_bps=quantiles)


class Bench:
    """A worker on fakes, with partitions 0 to 3 assigned."""

    def __init__(
        self,
        batches: Iterable[Sequence[FakeMessage]] = (),
        *,
        limit_rows: int = 10**6,
        writer: FeatureWriter | None = None,
        schema: FeatureSchema = CORE_1,
        model: str = "",
        commit_interval_s: float = 0.0,
        restored: Mapping[int, Restored] | None = None,
        spike_bps: float = 0.0,
        quantiles: tuple[float, ...] = (),
        real_stream: AnswerStream | None = None,
    ) -> None:
        self.consumer = FakeConsumer(batches)
        self.delivery = FakeDelivery()
        self.stream = FakeStream(schema, model)
        self.state = FakeState(schema)
        self.state.restored.update(restored or {})
        self.forecaster = Forecaster(
            real_stream or self.stream, schema.hash, limit_rows=limit_rows, timeout_s=1.0, model=model,
            spike_bps=spike_bps, quantiles=quantiles,
        )  # fmt: skip
        self.worker = Worker(
            self.consumer,  # type: ignore[arg-type]
            self.delivery,
            self.forecaster,
            self.state,
            VenueProductCodes(),
            TOPICS,
            writer,
            group_id="group",
            max_batch_ticks=1_000_000,
            commit_interval_s=commit_interval_s,
            schema=schema,
        )
        self.assign(0, 1, 2, 3)

    def assign(self, *numbers: int) -> None:
        partitions = [TopicPartition(TOPICS.raw, number) for number in numbers]
        self.worker.on_assign(self.consumer, partitions)  # type: ignore[arg-type]

    def revoke(self, *numbers: int) -> None:
        partitions = [TopicPartition(TOPICS.raw, number) for number in numbers]
        self.worker.on_revoke(self.consumer, partitions)  # type: ignore[arg-type]
        self.consumer.incremental_unassign(partitions)

    def feed(self, messages: Sequence[FakeMessage]) -> None:
        """One batch, one step."""
        self.consumer.batches.append(list(messages))
        self.worker.step(0.1)

    def run(self) -> Bench:
        """Steps until everything is read, then commits."""
        while self.consumer.batches:
            self.worker.step(0.1)
        self.worker.commit()
        return self


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return 2**61


def cut(messages: Sequence[FakeMessage], sizes: Sequence[int]) -> list[Sequence[FakeMessage]]:
    batches, done, turn = [], 0, 0
    while done < len(messages):
        size = sizes[turn % len(sizes)]
        batches.append(messages[done : done + size])
        done, turn = done + size, turn + 1
    return batches


def outcome(bench: Bench) -> dict[str, Any]:
    """All that was sent, by topic and key, without the latencies, which are the machine's."""
    sent: dict[str, Any] = {
        topic: dict(keys) for topic, keys in bench.delivery.sent.items() if topic != TOPICS.predictions
    }
    predictions = [Prediction.FromString(value) for value in bench.delivery.values(TOPICS.predictions)]
    by_product: dict[str, list[bytes]] = {}
    for one in predictions:
        one.latency_ns = 0
        by_product.setdefault(one.product_id, []).append(one.SerializeToString(deterministic=True))
    sent[TOPICS.predictions] = by_product
    sent.pop(TOPICS.snapshots, None)
    sent["counts"] = {key: value for key, value in bench.worker.stats().items() if key != "latency_ms"}
    return sent
