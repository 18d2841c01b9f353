"""In-memory versions of the worker's ports, and the worker on them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.config import Topics
from common.errors import VolcastError
from common.schema import CORE_1, FeatureSchema
from pipeline.records import Record, encode
from pipeline.stream.forecast import Forecaster
from pipeline.stream.worker import FeatureWriter, Worker
from volcast.v1 import FeatureRow, ModelSelector, Prediction, PredictResponse

TOPICS = Topics()


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
    """Hands out the batches it was given, one a step, and remembers the last commit."""

    def __init__(self, batches: Iterable[Sequence[FakeMessage]] = ()) -> None:
        self.batches = [list(batch) for batch in batches if batch]
        self.committed: dict[int, int] = {}
        self.commits = 0

    def consume(self, limit: int, timeout_s: float) -> list[FakeMessage]:
        if not self.batches:
            return []
        batch = self.batches[0]
        taken, self.batches[0] = batch[:limit], batch[limit:]
        if not self.batches[0] and timeout_s == 0:
            self.batches.pop(0)
        return taken

    def commit(self, *, offsets: Sequence[Any], asynchronous: bool) -> None:
        assert not asynchronous
        self.commits += 1
        for one in offsets:
            assert one.topic == TOPICS.raw
            self.committed[one.partition] = one.offset


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

    def features(self) -> list[FeatureRow]:
        return [FeatureRow.FromString(value) for values in self.sent[TOPICS.features].values() for value in values]

    def predictions(self) -> list[Prediction]:
        return [Prediction.FromString(value) for values in self.sent[TOPICS.predictions].values() for value in values]

    def values(self, topic: str) -> list[bytes]:
        return [value for values in self.sent[topic].values() for value in values]


class FakeStream:
    """An inference server whose answer is a plain function of the row, so that a mixed-up one shows."""

    def __init__(self, schema: FeatureSchema = CORE_1, model: str = "") -> None:
        self.schema = schema
        self.model = model  # the only one it answers for; empty: the default
        self.failure: Callable[[], VolcastError] | None = None
        self.answer_rows: int | None = None  # how many probabilities to give, instead of one a row
        self.frames: list[int] = []  # rows of each frame, refused ones too
        self.rows_answered = 0

    def predict_packed(
        self, values: Any, row_count: int, schema_hash: str, timeout_s: float, model: ModelSelector | None = None
    ) -> PredictResponse:
        assert schema_hash == self.schema.hash
        assert ("" if model is None else model.name) == self.model
        rows = np.frombuffer(bytes(values), "<f8").reshape(row_count, len(self.schema))
        assert np.isfinite(rows).all()
        self.frames.append(row_count)
        if self.failure is not None:
            raise self.failure()
        probabilities = answer(rows)[: self.answer_rows]
        self.rows_answered += row_count
        return PredictResponse(model_name="fake", model_version="7", threshold=0.5, probabilities=probabilities)


def answer(rows: Any) -> list[float]:
    """What FakeStream says of rows (n, features): a number in [0, 1) made of the bits of each."""
    return [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=6).digest()) / 2**48 for row in rows]


class Bench:
    """A worker on fakes."""

    def __init__(
        self,
        batches: Iterable[Sequence[FakeMessage]] = (),
        *,
        limit_rows: int = 10**6,
        writer: FeatureWriter | None = None,
        schema: FeatureSchema = CORE_1,
        model: str = "",
    ) -> None:
        self.consumer = FakeConsumer(batches)
        self.sink = FakeSink()
        self.stream = FakeStream(schema, model)
        self.forecaster = Forecaster(
            self.stream,  # type: ignore[arg-type]
            schema.hash,
            limit_rows=limit_rows,
            timeout_s=1.0,
            model=model,
        )
        self.worker = Worker(
            self.consumer,  # type: ignore[arg-type]
            self.sink,  # type: ignore[arg-type]
            self.forecaster,
            TOPICS,
            writer,
            max_batch_ticks=1_000_000,
            schema=schema,
        )

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
