"""Shared by the benchmarks of the feature worker: a broker with ticks, and a worker built as by its command."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import msgspec
from confluent_kafka import TopicPartition

from cli.run.processes import Process, ProcessGroup
from common.config import Config, KafkaConfig, Topics, WorkerConfig
from common.errors import UnavailableError
from common.schema import CORE_1
from pipeline.broker.kafka import KafkaBroker
from pipeline.commands.worker import make_worker, subscribe
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.records import Tick
from pipeline.stream.forecast import Forecaster, Rows
from pipeline.stream.kafka import Sink, connect, make_consumer, watermarks
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.publish import Publisher
from pipeline.stream.worker import Worker

NOWHERE = "127.0.0.1:1"


class _NoServer(Forecaster):
    """Leaves predictions out."""

    def __init__(self) -> None:
        super().__init__(None, CORE_1.hash, limit_rows=1, timeout_s=1)  # type: ignore[arg-type]

    def submit(self, rows: Rows) -> None:
        pass


@contextmanager
def kafka() -> Iterator[KafkaConfig]:
    with tempfile.TemporaryDirectory() as folder, KafkaBroker(Path(folder) / "kafka") as broker:
        config = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(connect(config), config)
        yield config


def fresh(config: KafkaConfig, *, raw: bool = False) -> KafkaConfig:
    """Topics of their own, for ticks.raw only if asked."""
    names = {
        role: name if role == "raw" and not raw else f"{name}-{time.time_ns()}"
        for role, name in msgspec.structs.asdict(config.topics).items()
    }
    fresh = msgspec.structs.replace(config, topics=Topics(**names))
    ensure_topics(connect(fresh), fresh)
    return fresh


def publish(config: KafkaConfig, ticks: Iterable[Tick]) -> None:
    sink = Sink(config)
    publisher = Publisher(sink, config.topics)
    publisher.publish(ticks)
    sink.flush()
    sink.close()


def ticks(count: int, ticks_per_s: float = 20.0) -> Iterator[Tick]:
    """Of two products, each with ticks_per_s in event time."""
    for number, tick in enumerate(islice(simulate(PROFILES, 1, ticks_per_s), count)):
        yield Tick(
            tick.product_id, tick.event_time_ns, tick.event_time_ns, number, tick.price, tick.bid, tick.ask,
            tick.bid_quantity, tick.ask_quantity,
        )  # fmt: skip


def worker(
    cleanup: ExitStack, config: KafkaConfig, server: str | None, guarantee: str, commit_interval_ms: int
) -> Worker:
    settings = WorkerConfig(
        group_id=f"bench-{time.time_ns()}",
        guarantee=guarantee,  # type: ignore[arg-type]
        commit_interval_ms=commit_interval_ms,
        predict_timeout_s=5.0,
    )
    member, consumer = make_worker(cleanup, Config(kafka=config, worker=settings), server or NOWHERE)
    if server is None:
        member.forecaster = _NoServer()
    member.compile()
    subscribe(cleanup, consumer, member, config.topics.raw)
    return member


def worker_round(
    config: KafkaConfig, server: str | None, guarantee: str, count: int, commit_interval_ms: int = 100
) -> float:
    """Ticks per second of a new consumer group over the first `count` ticks of ticks.raw."""
    with ExitStack() as cleanup:
        # Rows in larger batches, as docs/topics.md advises for catching up.
        config = fresh(msgspec.structs.replace(config, linger_ms=5))
        member = worker(cleanup, config, server, guarantee, commit_interval_ms)
        while not member.totals.consumed:
            member.step(0.1)
        before, began = member.totals.consumed, time.perf_counter()
        while member.totals.consumed < count or member.forecaster.backlog_rows:
            member.step(0.1)
        member.commit()
        return (count - before) / (time.perf_counter() - began)


def await_settled(
    kafka: KafkaConfig, group_id: str, processes: ProcessGroup, worker: Process, limit_s: float, poll_s: float = 0.1
) -> None:
    """Until the worker has committed all of ticks.raw, a single partition, and owes no prediction.

    Raises UnavailableError after limit_s, and if the worker ends.
    """
    consumer = make_consumer(kafka, group_id)
    raw = TopicPartition(kafka.topics.raw, 0)
    deadline_s = time.monotonic() + limit_s
    try:
        end = watermarks(consumer, raw, 10)[1]
        while True:
            (committed,) = consumer.committed([raw], timeout=30)
            if committed.offset >= end and "owed_from" not in (committed.metadata or ""):
                return
            processes.listen(poll_s)
            if not worker.alive:
                raise UnavailableError(f"worker: {worker.failure_line()}")
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"worker: {committed.offset:,} of {end:,} committed in {limit_s:g} s")
    finally:
        consumer.close()
