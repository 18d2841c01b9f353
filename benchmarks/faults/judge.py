"""Compares committed features and predictions with an oracle: the offline features of the archive, or of ticks.raw."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from confluent_kafka import KafkaError, Message, TopicPartition

from clients.sync import Client
from common.config import KafkaConfig
from common.errors import UnavailableError
from common.schema import CORE_1
from pipeline.archive import expand_paths, read_archive
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine, Status
from pipeline.features.table import compute_features
from pipeline.records import Gap, Record
from pipeline.stream.kafka import make_consumer, watermarks
from volcast.v1 import FeatureRow, MissingReason, Prediction

Key = TypeVar("Key", bound=Hashable)
TickKey = tuple[str, int, int]  # product, event time, sequence number
Source = tuple[int, int]  # partition and offset of ticks.raw
Row = tuple[bytes, bool]  # values and warmth
Ask = Callable[[Sequence[bytes]], Sequence[float]]  # rows -> probabilities

# The last bits of ONNX Runtime's sums depend on how many rows run together.
MODEL_ROUNDING = 1e-7
MAX_EXAMPLES = 5


@dataclass
class Verdict:
    """The comparison of what is committed with an oracle; all but `rows` and `predictions` should be 0."""

    rows: int = 0
    predictions: int = 0
    lost_rows: int = 0
    repeated_rows: int = 0
    altered_rows: int = 0
    lost_predictions: int = 0
    repeated_predictions: int = 0
    altered_predictions: int = 0
    missing_predictions: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.lost_rows + self.lost_predictions

    @property
    def repeated(self) -> int:
        return self.repeated_rows + self.repeated_predictions

    @property
    def altered(self) -> int:
        return self.altered_rows + self.altered_predictions + self.missing_predictions.total()

    @property
    def faults(self) -> int:
        return self.lost + self.repeated + self.altered

    def note(self, what: str, key: Hashable) -> None:
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{what} {key}")


@dataclass(frozen=True)
class Committed(Generic[Key]):
    """Feature rows and predictions that readers of committed records see, by a key of their tick."""

    rows: Mapping[Key, list[Row]]
    predictions: Mapping[Key, list[Prediction]]


def read_results(kafka: KafkaConfig) -> tuple[Committed[TickKey], Committed[Source]]:
    """All results by their ticks, and by the sources of their ticks."""
    rows_by_tick: dict[TickKey, list[Row]] = defaultdict(list)
    rows_by_source: dict[Source, list[Row]] = defaultdict(list)
    for message in read_committed(kafka, kafka.topics.features):
        row = FeatureRow.FromString(message.value() or b"")
        content = np.array(row.values).tobytes(), row.warm
        rows_by_tick[row.product_id, row.event_time_ns, row.sequence_num].append(content)
        rows_by_source[row.source_partition, row.source_offset].append(content)
    answers_by_tick: dict[TickKey, list[Prediction]] = defaultdict(list)
    answers_by_source: dict[Source, list[Prediction]] = defaultdict(list)
    for message in read_committed(kafka, kafka.topics.predictions):
        answer = Prediction.FromString(message.value() or b"")
        answers_by_tick[answer.product_id, answer.event_time_ns, answer.sequence_num].append(answer)
        answers_by_source[answer.source_partition, answer.source_offset].append(answer)
    return Committed(rows_by_tick, answers_by_tick), Committed(rows_by_source, answers_by_source)


def archive_oracle(folder: Path) -> dict[TickKey, Row]:
    """Rows that `volcast features` computes from an archive."""
    rows = compute_features(read_archive(expand_paths(str(folder))), CORE_1).rows
    return {
        (product_id, int(rows.event_time_ns[i]), int(rows.sequence_num[i])): (
            rows.values[i].tobytes(),
            bool(rows.warm[i]),
        )
        for i, product_id in enumerate(rows.product_ids)
    }


def topic_oracle(
    raw: Mapping[int, Sequence[tuple[int, Record]]], holes: Iterable[tuple[int, int, int]]
) -> dict[Source, Row]:
    """Rows of the records of ticks.raw, as an engine computes them in one go.

    holes: partition, first offset that retention took unread, first offset after it. All windows start anew there.
    """
    expected: dict[Source, Row] = {}
    for number, of_partition in raw.items():
        here = [(start, end) for partition, start, end in holes if partition == number]
        records, offsets = _with_gaps(of_partition, here)
        columns = TickColumns.from_records(records, ProductCodes())
        batch = FeatureEngine(CORE_1).update(columns)
        for i in np.flatnonzero(batch.status == Status.OK).tolist():
            expected[number, offsets[i]] = batch.values[i].tobytes(), bool(batch.warm[i])
    return expected


def _with_gaps(
    of_partition: Sequence[tuple[int, Record]], holes: Sequence[tuple[int, int]]
) -> tuple[list[Record], list[int]]:
    """Records and offsets without those of the holes, and with a gap of each product behind each hole."""
    products = {(record.venue, record.product_id) for _, record in of_partition}
    records: list[Record] = []
    offsets: list[int] = []
    due = sorted(holes, key=lambda hole: hole[1])
    for offset, record in of_partition:
        while due and offset >= due[0][1]:
            gaps = [Gap(product_id, record.event_time_ns, 0, "retention", 0, venue) for venue, product_id in products]
            records += gaps
            offsets += [-1] * len(gaps)
            due.pop(0)
        if not any(start <= offset < end for start, end in holes):
            records.append(record)
            offsets.append(offset)
    return records, offsets


def judge(expected: Mapping[Key, Row], committed: Committed[Key], ask: Ask) -> Verdict:
    """Each expected row has to be committed once with its bits, each warm row with one prediction as `ask` gives."""
    verdict = Verdict(
        rows=sum(map(len, committed.rows.values())), predictions=sum(map(len, committed.predictions.values()))
    )
    _judge_rows(expected, committed.rows, verdict)
    _judge_predictions(expected, committed.predictions, ask, verdict)
    return verdict


def _judge_rows(expected: Mapping[Key, Row], rows: Mapping[Key, list[Row]], verdict: Verdict) -> None:
    for key, row in expected.items():
        committed = rows.get(key, [])
        if not committed:
            verdict.lost_rows += 1
            verdict.note("lost row", key)
        if len(committed) > 1:
            verdict.repeated_rows += len(committed) - 1
            verdict.note("repeated row", key)
        if any(each != row for each in committed):
            verdict.altered_rows += 1
            verdict.note("altered row", key)
    for key in rows.keys() - expected.keys():
        verdict.repeated_rows += len(rows[key])
        verdict.note("row without a tick", key)


def _judge_predictions(
    expected: Mapping[Key, Row], predictions: Mapping[Key, list[Prediction]], ask: Ask, verdict: Verdict
) -> None:
    warm = [key for key, (_, is_warm) in expected.items() if is_warm]
    probabilities = dict(zip(warm, ask([expected[key][0] for key in warm]), strict=True))
    for key, probability in probabilities.items():
        answers = predictions.get(key, [])
        if not answers:
            verdict.lost_predictions += 1
            verdict.note("lost prediction", key)
        if len(answers) > 1:
            verdict.repeated_predictions += len(answers) - 1
            verdict.note("repeated prediction", key)
        for answer in answers:
            if answer.missing_reason:
                verdict.missing_predictions[MissingReason.Name(answer.missing_reason)] += 1
            elif not math.isclose(answer.probability, probability, abs_tol=MODEL_ROUNDING):
                verdict.altered_predictions += 1
                verdict.note("altered prediction", key)
    for key in predictions.keys() - probabilities.keys():
        verdict.repeated_predictions += len(predictions[key])
        verdict.note("prediction without a warm row", key)


def read_committed(kafka: KafkaConfig, topic: str) -> Iterator[Message]:
    """All committed messages of a topic, partition by partition."""
    consumer = make_consumer(kafka, "volcast-faults-judge", **{"enable.partition.eof": True, "fetch.wait.max.ms": 10})
    try:
        for number in consumer.list_topics(topic, 10).topics[topic].partitions:
            high = watermarks(consumer, TopicPartition(topic, number), 10)[1]
            consumer.assign([TopicPartition(topic, number, 0)])
            position = 0
            while position < high:
                for message in consumer.consume(1, 0.2) + consumer.consume(10_000, 0):
                    error = message.error()
                    position = max(position, (message.offset() or 0) + (error is None))
                    if error is None:
                        yield message
                    elif error.code() != KafkaError._PARTITION_EOF:
                        raise UnavailableError(f"{topic}: {error.str()}")
    finally:
        consumer.close()


def ask_server(address: str, rows: Sequence[bytes]) -> list[float]:
    """The probability of each row, from an inference server."""
    answers: list[float] = []
    with Client(address, timeout_s=10) as client:
        for start in range(0, len(rows), 4096):
            part = rows[start : start + 4096]
            answers += client.predict_packed(b"".join(part), len(part), CORE_1.hash).probabilities
    return answers
