"""A running stream: exchange, ingest, Kafka, worker and server, each of which can be killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from confluent_kafka import TopicPartition

from benchmarks.faults.brokers import Brokers
from benchmarks.faults.disks import Disk
from benchmarks.faults.forks import ForkingGroup
from benchmarks.faults.market import PRODUCTS, Market
from benchmarks.faults.reader import Reader
from benchmarks.processes import free_port
from cli.run.processes import Process, ProcessGroup
from common.config import KafkaConfig, Topics
from common.errors import UnavailableError
from pipeline.exchange.faults import Fault
from pipeline.stream.kafka import connect, make_consumer, watermarks
from pipeline.stream.kafka_topics import ensure_topics

READY_S = 120.0
SETTLED_S = 240.0
PARTITIONS = 3  # a third worker has something to do
SESSION_TIMEOUT_MS = 6000
DISK_MB = {"archive": 4, "parquet": 2, "kafka-1": 256}


@dataclass(frozen=True)
class Setup:
    """Settings of a course: its market, brokers, disks and faults of the exchange."""

    seed: int = 1
    ticks_per_s: float = 400.0
    brokers: int = 1
    disks: tuple[str, ...] = ()  # names of DISK_MB: folders on small disks of their own
    exchange_faults: Mapping[Fault, float] = field(default_factory=dict)
    guarantee: str = "exactly_once"
    forks: bool = True  # see forks.py


class Course:
    """The processes of a stream. Faults act on them; `note` begins a fault."""

    def __init__(self, folder: Path, cleanup: ExitStack, setup: Setup, log: Callable[[str], None]) -> None:
        self.setup = setup
        self.folder = folder
        self.random = random.Random(setup.seed)
        self.log = log
        self.disks = {name: cleanup.enter_context(Disk(folder / name, DISK_MB[name])) for name in setup.disks}
        self.brokers = cleanup.enter_context(Brokers(folder, setup.brokers))
        names = {role: f"{name}-{setup.seed}" for role, name in msgspec.structs.asdict(Topics()).items()}
        self.kafka = KafkaConfig(
            bootstrap_servers=self.brokers.bootstrap_servers,
            topics=Topics(**names),
            partitions=PARTITIONS,
            replication_factor=setup.brokers,
        )
        ensure_topics(connect(self.kafka), self.kafka)
        self.market = cleanup.enter_context(Market(setup.seed, setup.ticks_per_s, setup.exchange_faults))
        self.reader = cleanup.enter_context(Reader(self.kafka))
        self._processes = cleanup.enter_context(ForkingGroup(folder) if setup.forks else ProcessGroup(folder, None))
        self._server_port = free_port()
        self.server_address = f"127.0.0.1:{self._server_port}"
        self.group_id = f"faults-{os.getpid()}-{setup.seed}"
        self._environ = self._settings(names)
        self.noted: list[tuple[str, float]] = []  # faults and when they began
        self.holes: list[tuple[int, int, int]] = []  # of ticks.raw: see topic_oracle
        self.remarks: dict[str, int] = {}  # other figures of the result
        self.server = self.start_server()
        self.ingest = self.start_ingest()
        self.worker = self.start_worker()

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    def _settings(self, topics: Mapping[str, str]) -> dict[str, str]:
        return {
            "VOLCAST_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "VOLCAST_KAFKA__PARTITIONS": str(PARTITIONS),
            "VOLCAST_KAFKA__SESSION_TIMEOUT_MS": str(SESSION_TIMEOUT_MS),
            **{f"VOLCAST_KAFKA__TOPICS__{role.upper()}": name for role, name in topics.items()},
            "VOLCAST_INGEST__URL": self.market.url,
            "VOLCAST_INGEST__PRODUCTS": ",".join(PRODUCTS),
            "VOLCAST_INGEST__ARCHIVE_DIR": str(self.archive),
            "VOLCAST_INGEST__BACKLOG_DIR": str(self.folder / "backlog"),
            "VOLCAST_INGEST__METRICS_PORT": "0",
            "VOLCAST_WORKER__SERVER": self.server_address,
            "VOLCAST_WORKER__METRICS_PORT": "0",
            "VOLCAST_WORKER__PARQUET_DIR": str(self.folder / "parquet"),
            "VOLCAST_WORKER__GUARANTEE": self.setup.guarantee,
            "VOLCAST_WORKER__GROUP_ID": self.group_id,
            "VOLCAST_SERVER__LAME_DUCK_S": "0",
        }

    # Parts of faults.

    def note(self, fault: str) -> float:
        """A fault begins now; returns the time."""
        now_s = time.time()
        self.noted.append((fault, now_s))
        return now_s

    def pause(self, least_s: float, most_s: float) -> None:
        self._processes.listen(0)
        time.sleep(self.random.uniform(least_s, most_s))
        self._processes.listen(0)

    def await_features(self, since_s: float | None = None) -> None:
        self.reader.await_fresh(self.kafka.topics.features, time.time() if since_s is None else since_s)

    def await_predictions(self, since_s: float | None = None) -> None:
        self.reader.await_fresh(self.kafka.topics.predictions, time.time() if since_s is None else since_s)

    def start_server(self) -> Process:
        return self.start("server", ["serve", "--port", str(self._server_port), "--metrics-port", "0"])

    def start_worker(self, name: str = "first") -> Process:
        return self.start("worker", ["worker"], {"VOLCAST_WORKER__INSTANCE_ID": name})

    def start_ingest(self) -> Process:
        return self.start("ingest", ["ingest"])

    def start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> Process:
        """A `volcast` command, once it is ready."""
        number = sum(process.name.startswith(name) for process in self._processes.all)
        process = self._processes.start(f"{name}-{number}", arguments, {**self._environ, **(environ or {})})
        deadline_s = time.monotonic() + READY_S
        while process.ready is None:
            self._processes.listen(0.05)
            if not process.alive or time.monotonic() > deadline_s:
                self._processes.listen(0)
                if process.ready is None:
                    raise UnavailableError(f"{process.name}: {process.failure_line()}")
        return process

    def stop(self, process: Process) -> None:
        self._processes.stop(process)

    @staticmethod
    def kill(process: Process, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal; after SIGKILL returns when the process is gone."""
        assert process.popen is not None
        process.popen.send_signal(number)
        if number == signal.SIGKILL:
            process.popen.wait(10)

    def require_alive(self) -> None:
        """Raises UnavailableError if a process has ended by itself."""
        for process in (self.server, self.ingest, self.worker):
            if not process.alive:
                raise UnavailableError(f"{process.name}: {process.failure_line()}")

    def require_event(self, process: Process, event: str) -> None:
        """Raises UnavailableError if a process has not logged an event."""
        if f'"event": "{event}"' not in process.log.read_text():
            raise UnavailableError(f"{process.name}: expected the log event {event!r}")

    # The end.

    def fill_gaps(self) -> None:
        """Ends ingest, and publishes what the archive holds and ticks.raw lacks."""
        self.stop(self.ingest)
        if self.ingest.summary is None:
            raise UnavailableError(f"ingest: {self.ingest.failure_line()}")
        replay = self.start("replay", ["replay", "--missing"])
        while replay.alive:
            self._processes.listen(0.1)
        self._processes.listen(0)
        if replay.summary is None:
            raise UnavailableError(f"replay --missing: {replay.failure_line()}")
        self.remarks["ticks that replay --missing delivered"] = replay.summary["ticks"]

    def await_settled(self) -> None:
        """Until every record of ticks.raw is processed and no prediction is owed."""
        deadline_s = time.monotonic() + SETTLED_S
        while True:
            behind, owed = self._unsettled()
            if max(behind) <= 0 and not owed:
                break
            self._processes.listen(0.1)
            if not self.worker.alive:
                raise UnavailableError(f"worker: {self.worker.failure_line()}")
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"not settled: behind {behind}, owed {owed}, {self.worker.stats}")
        self.reader.await_raw(self.ends())

    def ends(self) -> dict[int, int]:
        """The end of each partition of ticks.raw."""
        return {number: end for number, (_, end) in self.bounds().items()}

    def bounds(self) -> dict[int, tuple[int, int]]:
        """First offset and end of each partition of ticks.raw."""
        consumer = make_consumer(self.kafka, self.group_id)
        try:
            return {
                number: watermarks(consumer, TopicPartition(self.kafka.topics.raw, number), 10)
                for number in range(PARTITIONS)
            }
        finally:
            consumer.close()

    def committed(self) -> dict[int, tuple[int, str]]:
        """The worker's offset and marker of each partition of ticks.raw."""
        consumer = make_consumer(self.kafka, self.group_id)
        raw = [TopicPartition(self.kafka.topics.raw, number) for number in range(PARTITIONS)]
        try:
            partitions = consumer.committed(raw, timeout=30)
            return {each.partition: (max(0, each.offset), each.metadata or "") for each in partitions}
        finally:
            consumer.close()

    def _unsettled(self) -> tuple[list[int], list[str]]:
        committed, ends = self.committed(), self.ends()
        behind = [end - committed[number][0] for number, end in ends.items()]
        return behind, [marker for _, marker in committed.values() if "owed_from" in marker]
