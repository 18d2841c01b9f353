"""A consumer of committed records beside a course: what reached ticks.raw, and how old the newest result was."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from itertools import pairwise

from confluent_kafka import Message, TopicPartition

from common.config import KafkaConfig
from common.errors import UnavailableError
from pipeline.records import Record, Tick, decode_record
from pipeline.stream.kafka import consume_batch, make_consumer
from volcast.v1 import FeatureRow, Prediction

FRESH_S = 1.0  # a result of a tick that was received within this time is fresh
MAX_STALE_S = 240.0


class Reader:
    """Reads ticks.raw, features and predictions in a thread while the context lasts."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._kafka = kafka
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="reader")
        self.raw: dict[int, list[tuple[int, Record]]] = defaultdict(list)  # partition -> offset and record
        self._ingested_s: dict[tuple[int, int], float] = {}  # partition and offset of ticks.raw -> time of receipt
        # Topic -> partition of ticks.raw -> (time of reading, latest time of receipt of a tick whose result is read).
        self._newest: dict[str, dict[int, list[tuple[float, float]]]] = {
            kafka.topics.features: defaultdict(list),
            kafka.topics.predictions: defaultdict(list),
        }

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def await_fresh(self, topic: str, since_s: float, max_stale_s: float = MAX_STALE_S) -> None:
        """Until results of every partition are fresh, of ticks received after `since_s`.

        Raises UnavailableError after max_stale_s.
        """
        deadline_s = time.time() + max_stale_s
        while True:
            self.raise_failure()
            newest = [self._latest(topic, partition) for partition in range(self._kafka.partitions)]
            now_s = time.time()
            if min(newest) > max(since_s, now_s - FRESH_S):
                return
            if now_s > deadline_s:
                ages = ", ".join(f"{now_s - each:.1f}" for each in newest)
                raise UnavailableError(f"{topic}: the newest results are {ages} s old, expected {FRESH_S:g} s")
            time.sleep(0.02)

    def peak_age_s(self, topic: str, start_s: float, end_s: float) -> float:
        """The peak age of information between two times, over all partitions; 0 if nothing was read between them.

        The age is the time since the receipt of the newest tick whose result is readable (Kaul, Yates, Gruteser,
        2012). So it covers both results that come late and ticks that do not come at all.
        """
        ages = [
            after[0] - before[1]
            for entries in list(self._newest[topic].values())
            for before, after in pairwise(list(entries))
            if start_s <= after[0] < end_s
        ]
        return max(ages, default=0.0)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def await_raw(self, ends: dict[int, int]) -> None:
        """Until ticks.raw is read up to the end of each partition."""
        deadline_s = time.monotonic() + 60
        while any(not self.raw[number] or self.raw[number][-1][0] + 1 < end for number, end in ends.items() if end):
            self.raise_failure()
            if time.monotonic() > deadline_s:
                raise UnavailableError("the reader of ticks.raw does not reach the end")
            time.sleep(0.05)

    def _latest(self, topic: str, partition: int) -> float:
        entries = self._newest[topic][partition]
        return entries[-1][1] if entries else 0.0

    def _run(self) -> None:
        consumer = make_consumer(self._kafka, "volcast-faults-reader")
        topics = self._kafka.topics
        try:
            consumer.assign(
                [
                    TopicPartition(topic, number, 0)
                    for topic in (topics.raw, topics.features, topics.predictions)
                    for number in range(self._kafka.partitions)
                ]
            )
            while not self._stop.is_set():
                self._take(consume_batch(consumer, 5000, 0.1), time.time())
        except Exception as error:
            self._failure = error
        finally:
            consumer.close()

    def _take(self, messages: list[Message], now_s: float) -> None:
        topics = self._kafka.topics
        results: list[tuple[str, tuple[int, int]]] = []
        for message in messages:
            topic, value = message.topic(), message.value() or b""
            if topic == topics.raw:
                self._take_raw(message.partition() or 0, message.offset() or 0, decode_record(value))
            elif topic == topics.features:
                row = FeatureRow.FromString(value)
                results.append((topics.features, (row.source_partition, row.source_offset)))
            else:
                prediction = Prediction.FromString(value)
                source = prediction.source_partition, prediction.source_offset
                if not prediction.missing_reason:
                    results.append((topics.predictions, source))
        for topic, source in results:
            entries = self._newest[topic][source[0]]
            received_s = self._ingested_s.get(source)
            if received_s is not None and (not entries or received_s > entries[-1][1]):
                entries.append((now_s, received_s))

    def _take_raw(self, partition: int, offset: int, record: Record) -> None:
        self.raw[partition].append((offset, record))
        if isinstance(record, Tick):
            self._ingested_s[partition, offset] = record.ingest_time_ns / 1e9
