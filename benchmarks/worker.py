"""The feature worker: Kafka to features to predictions to Kafka, all of it real, exactly once.

Throughput: ticks of a simulated market are on ticks.raw before a worker starts; each round is a new consumer group that
reads them all. Beside it the same without the inference server and at least once, and the encoding of a feature row as
arrays beside building protobuf messages.

Latency: 1,000 ticks/s arrive one by one. Measured from produce() until a reader of committed records has the prediction
for several commit intervals, beside the bare hop of one message.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.processes import serving
from common.config import Config, KafkaConfig, Topics, WorkerConfig
from common.schema import CORE_1
from pipeline.broker.kafka import KafkaBroker
from pipeline.commands.worker import make_worker, subscribe
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.records import Tick, encode, record_key
from pipeline.stream import codec
from pipeline.stream.forecast import Forecaster, Rows
from pipeline.stream.kafka import Sink, connect, consume_batch, make_consumer
from pipeline.stream.kafka_topics import ensure_topics
from pipeline.stream.publish import Publisher
from pipeline.stream.worker import Worker
from volcast.v1 import FeatureRow, Prediction

TICKS = 300_000
ROUNDS = 5
HOPS = 300
LATENCY_TICKS_PER_S = 1000
LATENCY_S = 8.0
WARM_TICKS = 3000  # of two products at 20 ticks/s: windows of a minute are full
INTERVALS_MS = (2, 5, 20, 100)
NOWHERE = "127.0.0.1:1"


class _NoServer(Forecaster):
    """Leaves predictions out."""

    def __init__(self) -> None:
        super().__init__(None, CORE_1.hash, limit_rows=1, timeout_s=1)  # type: ignore[arg-type]

    def submit(self, rows: Rows) -> None:
        pass


def run(console: Console) -> dict[str, Any]:
    """Prints the tables and returns the figures."""
    with _kafka() as config, serving() as server:
        _publish(config, _ticks(TICKS))
        rates = {
            "exactly_once_predictions": _median(lambda: _worker_round(config, server, "exactly_once")),
            "exactly_once_features": _median(lambda: _worker_round(config, None, "exactly_once")),
            "at_least_once_predictions": _median(lambda: _worker_round(config, server, "at_least_once")),
            "at_least_once_features": _median(lambda: _worker_round(config, None, "at_least_once")),
        }
        latencies = {interval: _latency_ms(config, server, interval) for interval in INTERVALS_MS}
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


@contextmanager
def _kafka() -> Iterator[KafkaConfig]:
    with tempfile.TemporaryDirectory() as folder, KafkaBroker(Path(folder) / "kafka") as broker:
        config = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(connect(config), config)
        yield config


def _fresh(config: KafkaConfig) -> KafkaConfig:
    """Topics of their own for everything but ticks.raw."""
    names = {
        role: name if role == "raw" else f"{name}-{time.time_ns()}"
        for role, name in msgspec.structs.asdict(config.topics).items()
    }
    fresh = msgspec.structs.replace(config, topics=Topics(**names))
    ensure_topics(connect(fresh), fresh)
    return fresh


def _publish(config: KafkaConfig, ticks: Iterable[Tick]) -> None:
    sink = Sink(config)
    publisher = Publisher(sink, config.topics)
    publisher.publish(ticks)
    sink.flush()
    sink.close()


def _ticks(count: int) -> Iterator[Tick]:
    for number, tick in enumerate(islice(simulate(PROFILES, 1, 20.0), count)):
        yield Tick(
            tick.product_id, tick.event_time_ns, tick.event_time_ns, number, tick.price, tick.bid, tick.ask,
            tick.bid_quantity, tick.ask_quantity,
        )  # fmt: skip


def _median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(ROUNDS))


def _worker(
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


def _worker_round(config: KafkaConfig, server: str | None, guarantee: str) -> float:
    with ExitStack() as cleanup:
        # Rows in larger batches, as docs/topics.md advises for catching up.
        worker = _worker(cleanup, _fresh(msgspec.structs.replace(config, linger_ms=5)), server, guarantee, 100)
        while not worker.totals.consumed:
            worker.step(0.1)
        before, began = worker.totals.consumed, time.perf_counter()
        while worker.totals.consumed < TICKS or worker.forecaster.backlog_rows:
            worker.step(0.1)
        worker.commit()
        return (TICKS - before) / (time.perf_counter() - began)


def _latency_ms(config: KafkaConfig, server: str, commit_interval_ms: int) -> tuple[float, float]:
    """p50 and p99 from produce() to the committed prediction."""
    names = {role: f"{name}-{time.time_ns()}" for role, name in msgspec.structs.asdict(config.topics).items()}
    config = msgspec.structs.replace(config, topics=Topics(**names))
    ensure_topics(connect(config), config)
    count = round(LATENCY_TICKS_PER_S * LATENCY_S)
    _publish(config, _ticks(WARM_TICKS))
    # Processes of their own: threads would take turns with the worker. perf_counter is one clock for all of them.
    spawn = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[str, dict[int, float]]] = spawn.Queue()
    with ExitStack() as cleanup:
        worker = _worker(cleanup, config, server, "exactly_once", commit_interval_ms)
        while worker.totals.consumed < WARM_TICKS or worker.forecaster.backlog_rows:
            worker.step(0.1)
        processes = [spawn.Process(target=task, args=(config, count, results)) for task in (_produce_live, _read_live)]
        for process in processes:
            process.start()
        while processes[1].is_alive() and results.qsize() < len(processes):
            worker.step(0.1)
        times = dict([results.get(), results.get()])
        for process in processes:
            process.join()
    taken = [(at - times["sent"][number]) * 1e3 for number, at in times["read"].items()]
    p50, p99 = np.quantile(taken, [0.5, 0.99])
    return float(p50), float(p99)


def _produce_live(
    config: KafkaConfig, count: int, results: multiprocessing.Queue[tuple[str, dict[int, float]]]
) -> None:
    ticks = [tick for tick in _ticks(WARM_TICKS + count) if tick.sequence_num >= WARM_TICKS]
    sent: dict[int, float] = {}
    time.sleep(1.0)  # until the reader reads
    sink, due_s = Sink(config), time.perf_counter()
    for tick in ticks:
        due_s += 1 / LATENCY_TICKS_PER_S
        time.sleep(max(0.0, due_s - time.perf_counter()))
        sent[tick.sequence_num] = time.perf_counter()
        sink.send(config.topics.raw, record_key(tick.venue, tick.product_id).encode(), encode(tick))
        sink.poll()
    sink.flush()
    sink.close()
    results.put(("sent", sent))


def _read_live(config: KafkaConfig, count: int, results: multiprocessing.Queue[tuple[str, dict[int, float]]]) -> None:
    consumer = make_consumer(config, "bench-reader")
    consumer.assign([TopicPartition(config.topics.predictions, 0, OFFSET_BEGINNING)])
    read: dict[int, float] = {}
    began_s = time.perf_counter()
    while len(read) < count and time.perf_counter() - began_s < 10 * LATENCY_S:
        for message in consume_batch(consumer, 1000, 0.1):
            number = Prediction.FromString(message.value() or b"").sequence_num
            if number >= WARM_TICKS:
                read[number] = time.perf_counter()
    consumer.close()
    results.put(("read", read))


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
