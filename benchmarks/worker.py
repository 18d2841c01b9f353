"""The feature worker in ticks per second: Kafka to features to predictions to Kafka, all of it real.

Ticks of a simulated market are on ticks.raw before a worker starts; each round is a new consumer group
that reads them all. Beside it the same without the inference server, the encoding of a feature row as
arrays beside building protobuf messages, and the latency of the bare Kafka hop.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.processes import free_port, serving
from clients.sync import Client
from common.config import KafkaConfig
from common.schema import CORE_1
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.records import Tick
from pipeline.stream import codec
from pipeline.stream.broker import EmbeddedBroker
from pipeline.stream.forecast import Forecast, Forecaster, Rows
from pipeline.stream.kafka import Sink, connect, consume_batch, make_consumer
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.publish import Publisher
from pipeline.stream.worker import Worker
from volcast.v1 import FeatureRow

TICKS = 100_000
ROUNDS = 5
HOPS = 300


class _NoServer(Forecaster):
    """Leaves predictions out."""

    def __init__(self) -> None:
        super().__init__(None, CORE_1.hash, limit_rows=1, timeout_s=1)  # type: ignore[arg-type]

    def submit(self, rows: Rows) -> list[Forecast]:
        return []


def run(console: Console) -> dict[str, Any]:
    """Prints the table and returns its figures."""
    with _kafka() as config, serving() as server:
        sink = Sink(config)
        publisher = Publisher(sink, config.topics)
        publisher.publish(_ticks(TICKS))
        sink.flush()
        sink.close()
        figures = {
            "worker_ticks_per_s": _median(lambda: _worker_round(config, server)),
            "features_only_ticks_per_s": _median(lambda: _worker_round(config, None)),
            "kafka_hop_ms_p50": _hop_ms(config),
            **_encoding_ns(),
        }
    header(console, "volcast bench worker", f"{TICKS:,} simulated ticks of 2 products, {ROUNDS} rounds, medians")
    table = Table("what", "figure", "beside")
    table.add_row("worker, with predictions", f"{figures['worker_ticks_per_s']:,.0f} ticks/s", "")
    table.add_row(
        "worker, features only",
        f"{figures['features_only_ticks_per_s']:,.0f} ticks/s",
        f"predictions cost {1 - figures['worker_ticks_per_s'] / figures['features_only_ticks_per_s']:.0%}",
    )
    table.add_row(
        "encoding a feature row as arrays",
        f"{figures['encode_arrays_ns']:,.0f} ns",
        f"as protobuf messages {figures['encode_messages_ns']:,.0f} ns: "
        f"{figures['encode_messages_ns'] / figures['encode_arrays_ns']:.1f} x",
    )
    table.add_row(
        "bare hop over the embedded broker", f"{figures['kafka_hop_ms_p50']:.2f} ms", "p50, produce to consume"
    )
    console.print(table)
    return figures


@contextmanager
def _kafka() -> Iterator[KafkaConfig]:
    with EmbeddedBroker("127.0.0.1", free_port()) as broker:
        config = KafkaConfig(bootstrap_servers=f"{broker.host}:{broker.port}", fetch_wait_ms=5, session_timeout_ms=2000)
        ensure_topics(connect(config), config)
        yield config


def _ticks(count: int) -> Iterator[Tick]:
    for number, tick in enumerate(islice(simulate(PROFILES, 1, 20.0), count)):
        yield Tick(
            tick.product_id, tick.event_time_ns, tick.event_time_ns, number, tick.price, tick.bid, tick.ask,
            tick.bid_quantity, tick.ask_quantity,
        )  # fmt: skip


def _median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(ROUNDS))


def _worker_round(config: KafkaConfig, server: str | None) -> float:
    group = f"bench-{time.time_ns()}"
    topics = msgspec.structs.replace(config.topics, features="bench.features", predictions="bench.predictions")
    with Client(server or "127.0.0.1:1") as client, client.stream() as stream:
        forecaster = Forecaster(stream, CORE_1.hash, limit_rows=10**6, timeout_s=5) if server else _NoServer()
        consumer = make_consumer(config, group)
        sink = Sink(config)
        worker = Worker(consumer, sink, forecaster, topics, None, max_batch_ticks=1000)
        worker.compile()
        consumer.subscribe([config.topics.raw])
        while not worker.consumed:
            worker.step(0.1)
        before, began = worker.consumed, time.perf_counter()
        while worker.consumed < TICKS:
            worker.step(0.1)
        worker.commit()
        rate = (TICKS - before) / (time.perf_counter() - began)
        sink.close()
        consumer.close()
    return rate


def _hop_ms(config: KafkaConfig) -> float:
    topic = config.topics.late
    sink, consumer = Sink(config), make_consumer(config, "bench-hop")
    consumer.subscribe([topic])
    while not consumer.assignment():
        consume_batch(consumer, 1, 0.1)
    taken = []
    for number in range(HOPS):
        began = time.perf_counter()
        sink.send(topic, b"hop", b"%200d" % number)
        while not consume_batch(consumer, 100, 1.0):
            pass
        taken.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.002 + 0.003 * (number % 3))  # not in step with the broker's own polling
    sink.close()
    consumer.close()
    return statistics.median(taken)


def _encoding_ns(rows: int = 1000, rounds: int = 51) -> dict[str, float]:
    values, numbers = np.random.default_rng(1).random((rows, len(CORE_1))), np.arange(rows)
    layout = codec.feature_rows("BTC-USD", CORE_1.hash, len(CORE_1))
    lists = values.tolist()

    def arrays() -> None:
        layout.encode(
            rows, event_time_ns=numbers, ingest_time_ns=numbers, sequence_num=numbers, values=values, warm=True
        )

    def messages() -> None:
        for number, row in enumerate(lists):
            FeatureRow(
                product_id="BTC-USD", event_time_ns=number, ingest_time_ns=number, sequence_num=number,
                schema_hash=CORE_1.hash, values=row, warm=True,
            ).SerializeToString()  # fmt: skip

    return {
        f"encode_{call.__name__}_ns": statistics.median(_timed_ns(call) for _ in range(rounds)) / rows
        for call in (arrays, messages)
    }


def _timed_ns(call: Callable[[], None]) -> float:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began
