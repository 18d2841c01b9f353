"""The feature worker: Kafka to features to predictions to Kafka, all of it real, exactly once.

Throughput: ticks of a simulated market are on ticks.raw before a worker starts; each round is a new consumer group that
reads them all. Beside it the same without the inference server and at least once, and the encoding of a feature row as
arrays beside building protobuf messages.

Latency at 1,000 ticks/s: see readable.py; beside it the bare hop of one message.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.processes import serving
from benchmarks.readable import readable_ms
from benchmarks.streaming import kafka, publish, ticks, worker_round
from common.config import KafkaConfig
from common.schema import CORE_1
from pipeline.stream import codec
from pipeline.stream.kafka import Sink, consume_batch, make_consumer
from volcast.v1 import FeatureRow

TICKS = 300_000
ROUNDS = 5
HOPS = 300
INTERVALS_MS = (2, 5, 20, 100)


def run(console: Console) -> dict[str, Any]:
    """Prints the tables and returns the figures."""
    with kafka() as config, serving() as server:
        publish(config, ticks(TICKS))
        rates = {
            "exactly_once_predictions": _median(lambda: worker_round(config, server, "exactly_once", TICKS)),
            "exactly_once_features": _median(lambda: worker_round(config, None, "exactly_once", TICKS)),
            "at_least_once_predictions": _median(lambda: worker_round(config, server, "at_least_once", TICKS)),
            "at_least_once_features": _median(lambda: worker_round(config, None, "at_least_once", TICKS)),
        }
        latencies = {interval: readable_ms(config, server, interval) for interval in INTERVALS_MS}
        hop_ms = _hop_ms(config)
    encoding = _encoding_ns()
    header(console, "volcast bench worker", f"{TICKS:,} simulated ticks of 2 products, {ROUNDS} rounds, medians")
    table = Table("worker", "with predictions", "features only")
    for guarantee in ("exactly_once", "at_least_once"):
        cells = [f"{rates[f'{guarantee}_{kind}']:,.0f} ticks/s" for kind in ("predictions", "features")]
        table.add_row(f"{guarantee.replace('_', ' ')}, commit every 100 ms", *cells)
    console.print(table)
    table = Table("commit interval, ms", "tick to readable prediction, p50 ms", "p99 ms")
    for interval, (p50, p99) in latencies.items():
        table.add_row(f"{interval}", f"{p50:.2f}", f"{p99:.2f}")
    table.add_row("bare hop of one message", f"{hop_ms:.2f}", "")
    console.print(table)
    arrays, messages = encoding["encode_arrays_ns"], encoding["encode_messages_ns"]
    console.print(f"encoding a feature row: as arrays {arrays:,.0f} ns, as protobuf messages {messages:,.0f} ns")
    readable = {
        f"readable_ms_{name}_commit_{interval}_ms": value
        for interval, values in latencies.items()
        for name, value in zip(("p50", "p99"), values, strict=True)
    }
    return {
        "worker_ticks_per_s": rates["exactly_once_predictions"],
        "features_only_ticks_per_s": rates["exactly_once_features"],
        "at_least_once_ticks_per_s": rates["at_least_once_predictions"],
        "at_least_once_features_only_ticks_per_s": rates["at_least_once_features"],
        "kafka_hop_ms_p50": hop_ms,
        **readable,
        **encoding,
    }


def _median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(ROUNDS))


def _hop_ms(config: KafkaConfig) -> float:
    topic = config.topics.late
    sink, consumer = Sink(config), make_consumer(config, "bench-hop")
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    taken = []
    for number in range(HOPS):
        began = time.perf_counter()
        sink.send(topic, b"hop", b"%200d" % number)
        while not consume_batch(consumer, 100, 1.0):
            pass
        taken.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.002 + 0.003 * (number % 3))
    sink.close()
    consumer.close()
    return statistics.median(taken)


def _encoding_ns(rows: int = 1000, rounds: int = 51) -> dict[str, float]:
    values, numbers = np.random.default_rng(1).random((rows, len(CORE_1))), np.arange(rows)
    layout = codec.feature_rows("coinbase", "BTC-USD", CORE_1.hash, len(CORE_1))
    lists = values.tolist()

    def arrays() -> None:
        layout.encode(
            rows, event_time_ns=numbers, ingest_time_ns=numbers, sequence_num=numbers, values=values, warm=True,
            source_partition=0, source_offset=numbers, bid=numbers, ask=numbers, imbalance=numbers,
        )  # fmt: skip

    def messages() -> None:
        for number, row in enumerate(lists):
            FeatureRow(
                product_id="BTC-USD", event_time_ns=number, ingest_time_ns=number, sequence_num=number,
                schema_hash=CORE_1.hash, values=row, warm=True, source_partition=0, source_offset=number,
                venue="coinbase", bid=number, ask=number, imbalance=number,
            ).SerializeToString()  # fmt: skip

    return {
        f"encode_{call.__name__}_ns": statistics.median(_timed_ns(call) for _ in range(rounds)) / rows
        for call in (arrays, messages)
    }


def _timed_ns(call: Callable[[], None]) -> float:
    began = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - began
