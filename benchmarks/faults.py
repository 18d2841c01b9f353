"""Faults of the stream, one after another, and whether what is committed equals the oracle.

Ticks of a simulated market reach ticks.raw at a steady rate while processes are killed with SIGKILL. The oracle is
`compute_features` over the records of ticks.raw, in their order. Then, as a reader of committed records sees them, each
tick must have exactly one feature row with the same bits, and each warm row exactly one prediction, with the
probability that the server gives to the row.

    python -m benchmarks.faults --short      # the form of CI: 40 s
    python -m benchmarks.faults              # 100 kills of the worker, 20 while the server is down, and the rest
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from confluent_kafka import KafkaError, Message, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.processes import free_port
from cli.run.processes import Process, ProcessGroup
from clients.sync import Client
from common.config import KafkaConfig, Topics
from common.errors import UnavailableError
from common.schema import CORE_1, FeatureSchema
from pipeline.broker.kafka import KafkaBroker
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.features.table import compute_features
from pipeline.records import Gap, Record, Tick, decode_record, encode, record_key
from pipeline.stream.kafka import connect, make_consumer, make_producer, watermarks
from pipeline.stream.kafka_topics import ensure_topics
from volcast.v1 import FeatureRow, MissingReason, Prediction

Source = tuple[int, int]  # partition and offset of ticks.raw
READY_S = 90.0
SETTLED_S = 120.0
# The last bits of ONNX Runtime's sums depend on how many rows run together.
MODEL_ROUNDING = 1e-7


@dataclass(frozen=True)
class Plan:
    """How often each fault happens."""

    worker_kills: int
    of_them_without_server: int
    server_kills: int
    ingest_kills: int
    broker_kills: int
    rescales: int  # workers 1 -> 3 -> 2 (in order) -> 1 (killed)
    pauses: int  # SIGSTOP of a worker beyond the session timeout, with another one beside it
    ticks_per_s: int
    seed: int = 1


SHORT = Plan(
    worker_kills=4, of_them_without_server=2, server_kills=1, ingest_kills=1, broker_kills=1, rescales=0, pauses=0,
    ticks_per_s=400,
)  # fmt: skip
FULL = Plan(
    worker_kills=100, of_them_without_server=20, server_kills=20, ingest_kills=20, broker_kills=10,
    rescales=3, pauses=3, ticks_per_s=500,
)  # fmt: skip
PARTITIONS = 3  # a third worker has something to do
SESSION_TIMEOUT_MS = 6000


@dataclass
class Verdict:
    """Comparison of what is committed with the oracle; all but `rows` and `predictions` should be 0."""

    rows: int = 0
    predictions: int = 0
    lost_rows: int = 0
    repeated_rows: int = 0
    altered_rows: int = 0
    lost_predictions: int = 0
    repeated_predictions: int = 0
    altered_predictions: int = 0
    missing_predictions: Counter[str] = field(default_factory=Counter)

    @property
    def faults(self) -> int:
        return (
            self.lost_rows
            + self.repeated_rows
            + self.altered_rows
            + self.lost_predictions
            + self.repeated_predictions
            + self.altered_predictions
            + self.missing_predictions.total()
        )


class Feeder:
    """Sends ticks to ticks.raw at a steady rate, in a thread. `kill` drops what is not delivered, as SIGKILL would."""

    def __init__(self, kafka: KafkaConfig, ticks: Iterator[Tick], ticks_per_s: int) -> None:
        self._kafka = kafka
        self._ticks = ticks
        self._ticks_per_s = ticks_per_s
        self._stop = threading.Event()
        self._abandon = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def kill(self) -> None:
        """The producer is gone, with messages in its queue, and another one starts."""
        self._abandon.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._abandon.clear()
            # As `volcast ingest` does: a fresh start on a topic that holds records begins with gaps.
            self._produce(first=self.sent == 0)

    def _produce(self, first: bool) -> None:
        producer = make_producer(self._kafka, **{"message.timeout.ms": 120_000})
        begun: set[str] = set()
        due_s = time.monotonic()
        while not self._stop.is_set() and not self._abandon.is_set():
            for tick in islice(self._ticks, max(1, self._ticks_per_s // 100)):
                key = record_key(tick.venue, tick.product_id).encode()
                if not first and tick.product_id not in begun:
                    gap = Gap(tick.product_id, tick.event_time_ns, tick.ingest_time_ns, "reconnect", 0, tick.venue)
                    producer.produce(self._kafka.topics.raw, encode(gap), key)
                begun.add(tick.product_id)
                producer.produce(self._kafka.topics.raw, encode(tick), key)
                self.sent += 1
            producer.poll(0)
            due_s += 0.01
            time.sleep(max(0.0, due_s - time.monotonic()))
        if self._abandon.is_set():
            producer.purge()
        producer.flush(60)
        producer.close()


class Course:
    """Broker, server and worker as processes, and the faults done to them."""

    def __init__(self, folder: Path, cleanup: ExitStack, plan: Plan, *, guarantee: str = "exactly_once") -> None:
        self.plan = plan
        self._folder = folder
        self._random = random.Random(plan.seed)
        self.broker = cleanup.enter_context(
            KafkaBroker(
                folder / "kafka", properties={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000"}
            )
        )
        names = {role: f"{name}-{plan.seed}" for role, name in msgspec.structs.asdict(Topics()).items()}
        self.kafka = KafkaConfig(
            bootstrap_servers=self.broker.bootstrap_servers, topics=Topics(**names), partitions=PARTITIONS
        )
        ensure_topics(connect(self.kafka), self.kafka)
        self._processes = cleanup.enter_context(ProcessGroup(folder, None))
        self._server_port = free_port()
        self.server_address = f"127.0.0.1:{self._server_port}"
        self._environ = {
            "VOLCAST_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "VOLCAST_KAFKA__PARTITIONS": str(PARTITIONS),
            **{f"VOLCAST_KAFKA__TOPICS__{role.upper()}": name for role, name in names.items()},
            "VOLCAST_WORKER__SERVER": self.server_address,
            "VOLCAST_WORKER__METRICS_PORT": "0",
            "VOLCAST_WORKER__PARQUET_DIR": "",
            "VOLCAST_WORKER__GUARANTEE": guarantee,
            "VOLCAST_WORKER__GROUP_ID": f"faults-{os.getpid()}-{plan.seed}",
            "VOLCAST_KAFKA__SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS),
            "VOLCAST_SERVER__LAME_DUCK_S": "0",
        }
        self.done: Counter[str] = Counter()
        self.server = self._start_server()
        self.worker = self._start_worker()

    def feeder(self) -> Feeder:
        return Feeder(self.kafka, _ticks(self.plan.seed), self.plan.ticks_per_s)

    def kill_worker(self) -> None:
        self._kill(self.worker)
        self._await_exit(self.worker)
        self.worker = self._start_worker()
        self.done["worker killed"] += 1

    def kill_workers_without_server(self, count: int) -> None:
        self._kill(self.server)
        for _ in range(count):
            self.settle_for(0.3, 1.0)
            self.kill_worker()
        self.done["of them while the server was down"] += count
        self.settle_for(0.3, 1.0)
        self.server = self._start_server()

    def kill_server(self) -> None:
        self._kill(self.server)
        self.settle_for(0.1, 1.5)
        self.server = self._start_server()
        self.done["server killed"] += 1

    def kill_broker(self) -> None:
        self.broker.kill()
        self.settle_for(0.1, 1.0)
        self.broker.start()
        self.done["broker killed"] += 1

    def rescale(self) -> None:
        second, third = self._start_worker("second"), self._start_worker("third")
        self.settle_for(3.0, 4.0)
        self._processes.stop(second)
        self.settle_for(3.0, 4.0)
        self._kill(third)
        self._await_exit(third)
        self.settle_for(8.0, 9.0)  # its partitions move after the session timeout
        self.done["workers 1 -> 3 -> 2 -> 1"] += 1

    def pause_worker(self) -> None:
        second = self._start_worker("second")
        assert self.worker.popen is not None
        self.worker.popen.send_signal(signal.SIGSTOP)
        time.sleep(SESSION_TIMEOUT_MS / 1e3 + 7)  # beyond the timeout of its transaction too
        self.worker.popen.send_signal(signal.SIGCONT)
        self.settle_for(4.0, 5.0)
        self._processes.stop(second)
        if not self.worker.alive:
            self.worker = self._start_worker()
        self.done["worker paused beyond the session timeout"] += 1

    def settle_for(self, least_s: float, most_s: float) -> None:
        time.sleep(self._random.uniform(least_s, most_s))
        self._processes.listen(0)

    def run(self, feeder: Feeder) -> None:
        """All faults of the plan, in an order that its seed decides."""
        plan = self.plan
        groups = max(1, plan.of_them_without_server // 2) if plan.of_them_without_server else 0
        faults: list[Callable[[], None]] = [
            *[self.kill_worker] * (plan.worker_kills - plan.of_them_without_server),
            *[lambda: self.kill_workers_without_server(2)] * groups,
            *[self.kill_server] * plan.server_kills,
            *[self.kill_broker] * plan.broker_kills,
            *[self.rescale] * plan.rescales,
            *[self.pause_worker] * plan.pauses,
            *[lambda: self._kill_feeder(feeder)] * plan.ingest_kills,
        ]
        self._random.shuffle(faults)
        for fault in faults:
            self.settle_for(0.2, 1.5)
            fault()

    def await_settled(self) -> None:
        """Until every record of ticks.raw is processed and no prediction is owed."""
        deadline_s = time.monotonic() + SETTLED_S
        consumer = make_consumer(self.kafka, self._environ["VOLCAST_WORKER__GROUP_ID"])
        try:
            while True:
                raw = [TopicPartition(self.kafka.topics.raw, number) for number in range(self.kafka.partitions)]
                ends = [watermarks(consumer, partition, 10)[1] for partition in raw]
                committed = consumer.committed(raw, timeout=30)
                behind = [end - max(0, one.offset) for one, end in zip(committed, ends, strict=True)]
                owed = [one.metadata for one in committed if "owed_from" in (one.metadata or "")]
                if max(behind) <= 0 and not owed:
                    return
                self._processes.listen(0.1)
                if not self.worker.alive:
                    raise UnavailableError(f"worker: {self.worker.failure_line()}")
                if time.monotonic() > deadline_s:
                    raise UnavailableError(f"not settled: behind {behind}, owed {owed}, {self.worker.stats}")
        finally:
            consumer.close()

    def _kill_feeder(self, feeder: Feeder) -> None:
        feeder.kill()
        self.done["producer of ticks killed"] += 1

    def _start_server(self) -> Process:
        arguments = ["serve", "--port", str(self._server_port), "--metrics-port", "0"]
        return self._start("server", arguments)

    def _start_worker(self, name: str = "first") -> Process:
        return self._start("worker", ["worker"], {"VOLCAST_WORKER__INSTANCE_ID": name})

    def _start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> Process:
        number = sum(process.name.startswith(name) for process in self._processes.all)
        process = self._processes.start(f"{name}-{number}", arguments, {**self._environ, **(environ or {})})
        deadline_s = time.monotonic() + READY_S
        while process.ready is None:
            self._processes.listen(0.05)
            if not process.alive or time.monotonic() > deadline_s:
                raise UnavailableError(f"{process.name}: {process.failure_line()}")
        return process

    def _kill(self, process: Process) -> None:
        assert process.popen is not None
        process.popen.send_signal(signal.SIGKILL)

    @staticmethod
    def _await_exit(process: Process) -> None:
        assert process.popen is not None
        process.popen.wait(10)


def judge(kafka: KafkaConfig, server: str, schema: FeatureSchema = CORE_1) -> Verdict:
    """Compares the committed records of all topics with the oracle."""
    verdict = Verdict()
    expected = _oracle(kafka, schema)
    rows: dict[Source, list[FeatureRow]] = defaultdict(list)
    for message in read_committed(kafka, kafka.topics.features):
        row = FeatureRow.FromString(message.value() or b"")
        rows[row.source_partition, row.source_offset].append(row)
    predictions: dict[Source, list[Prediction]] = defaultdict(list)
    for message in read_committed(kafka, kafka.topics.predictions):
        prediction = Prediction.FromString(message.value() or b"")
        predictions[prediction.source_partition, prediction.source_offset].append(prediction)
    verdict.rows, verdict.predictions = sum(map(len, rows.values())), sum(map(len, predictions.values()))
    warm = sorted(source for source, (_, is_warm) in expected.items() if is_warm)
    probabilities = dict(zip(warm, _ask(server, [expected[source][0] for source in warm], schema), strict=True))
    for source, (values, is_warm) in expected.items():
        got = rows.pop(source, [])
        verdict.lost_rows += not got
        verdict.repeated_rows += max(0, len(got) - 1)
        verdict.altered_rows += any(np.array(row.values).tobytes() != values or row.warm != is_warm for row in got)
    verdict.repeated_rows += sum(map(len, rows.values()))  # rows that no tick asks for
    for source, probability in probabilities.items():
        answers = predictions.pop(source, [])
        verdict.lost_predictions += not answers
        verdict.repeated_predictions += max(0, len(answers) - 1)
        for answer in answers:
            if answer.missing_reason:
                verdict.missing_predictions[MissingReason.Name(answer.missing_reason)] += 1
            else:
                verdict.altered_predictions += not math.isclose(answer.probability, probability, abs_tol=MODEL_ROUNDING)
    verdict.repeated_predictions += sum(map(len, predictions.values()))
    return verdict


def read_committed(kafka: KafkaConfig, topic: str) -> Iterator[Message]:
    """All committed messages of a topic, partition by partition."""
    consumer = make_consumer(kafka, "volcast-faults-reader", **{"enable.partition.eof": True})
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


def _oracle(kafka: KafkaConfig, schema: FeatureSchema) -> dict[Source, tuple[bytes, bool]]:
    """Source -> values and warmth of each row, by the offline path over ticks.raw."""
    records: dict[int, list[Record]] = defaultdict(list)
    offsets: dict[tuple[int, str, int], int] = {}
    for message in read_committed(kafka, kafka.topics.raw):
        record = decode_record(message.value() or b"")
        number, offset = message.partition() or 0, message.offset() or 0
        records[number].append(record)
        if isinstance(record, Tick):
            offsets.setdefault((number, record.product_id, record.sequence_num), offset)
    expected: dict[Source, tuple[bytes, bool]] = {}
    for number, of_partition in records.items():
        rows = compute_features(of_partition, schema).rows
        for i, product_id in enumerate(rows.product_ids):
            source = number, offsets[number, product_id, int(rows.sequence_num[i])]
            expected[source] = rows.values[i].tobytes(), bool(rows.warm[i])
    return expected


def _ask(server: str, rows: Sequence[bytes], schema: FeatureSchema) -> list[float]:
    answers: list[float] = []
    with Client(server, timeout_s=10) as client:
        for start in range(0, len(rows), 4096):
            part = rows[start : start + 4096]
            answers += client.predict_packed(b"".join(part), len(part), schema.hash).probabilities
    return answers


def _ticks(seed: int) -> Iterator[Tick]:
    """A simulated market at 4 ticks a second and product: warm after about 480 ticks."""
    for number, tick in enumerate(simulate(PROFILES, seed, 4.0)):
        yield Tick(
            tick.product_id, tick.event_time_ns, tick.event_time_ns + 1000, number, tick.price / 100, tick.bid / 100,
            tick.ask / 100, tick.bid_quantity / 1e8, tick.ask_quantity / 1e8,
        )  # fmt: skip


def run(plan: Plan, folder: Path, *, guarantee: str = "exactly_once") -> tuple[Verdict, Mapping[str, int]]:
    """All faults of a plan, then the comparison."""
    with ExitStack() as cleanup:
        course = Course(folder, cleanup, plan, guarantee=guarantee)
        with course.feeder() as feeder:
            course.settle_for(2.0, 2.0)
            course.run(feeder)
            course.settle_for(1.0, 1.0)
        course.await_settled()
        return judge(course.kafka, course.server_address), course.done


def show(console: Console, plan: Plan, verdict: Verdict, done: Mapping[str, int], took_s: float) -> None:
    header(console, "python -m benchmarks.faults", f"{plan}, {took_s:.0f} s")
    table = Table("what", "count")
    for name, count in done.items():
        table.add_row(name, f"{count:,}")
    table.add_row("feature rows", f"{verdict.rows:,}")
    table.add_row("predictions", f"{verdict.predictions:,}")
    for kind in ("rows", "predictions"):
        for fault in ("lost", "repeated", "altered"):
            table.add_row(f"{fault} {kind}", f"{getattr(verdict, f'{fault}_{kind}'):,}")
    for reason, count in verdict.missing_predictions.items():
        table.add_row(f"missing predictions: {reason}", f"{count:,}")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the form of CI")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guarantee", default="exactly_once", choices=["exactly_once", "at_least_once"])
    parser.add_argument("--folder", type=Path, help="where logs and Kafka's data stay; default: a temporary folder")
    arguments = parser.parse_args()
    plan = replace(SHORT if arguments.short else FULL, seed=arguments.seed)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        verdict, done = run(plan, arguments.folder or Path(temporary), guarantee=arguments.guarantee)
    show(Console(), plan, verdict, done, time.monotonic() - began_s)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
