"""Real processes for tests: Apache Kafka, the inference server, any `volcast` command.

Each is ended by its own handle when the test, or the session, is over.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Message, TopicPartition

from benchmarks.processes import free_port
from cli.run.processes import Process, ProcessGroup
from common.config import KafkaConfig, Topics
from pipeline.stream.kafka import connect, consume_batch, make_consumer
from pipeline.stream.kafka_topics import ensure_topics
from tests.shared_kafka import shared_kafka

ROOT = Path(__file__).resolve().parents[1]
READY_TIMEOUT_S = 60.0

OTHER_KAFKA = os.environ.get("VOLCAST_TEST_KAFKA", "")


def await_true(condition: Callable[[], bool], timeout_s: float = 30.0, what: str = "it") -> None:
    """Looks until the condition holds; fails the test where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {timeout_s:g} s")
        time.sleep(0.02)


def start(
    parts: ProcessGroup, name: str, arguments: Sequence[str], environ: Mapping[str, str] | None = None
) -> Process:
    """A `volcast` command that reports, once it is ready; fails the test with its words where it ends first."""
    part = parts.start(name, arguments, {"VOLCAST_SERVER__LAME_DUCK_S": "0", **(environ or {})})
    deadline = time.monotonic() + READY_TIMEOUT_S
    while part.ready is None:
        parts.listen(0.05)
        if not part.alive or time.monotonic() > deadline:
            parts.listen(0)
            if part.ready is None:
                pytest.fail(f"volcast {' '.join(arguments)}: {part.failure_line()}")
    return part


def volcast(
    *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """A `volcast` command as a process, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env={**os.environ, **(environ or {}), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])},
        timeout=timeout_s,
        check=False,
    )


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(part: Process) -> None:
    """kill -9, by its handle."""
    assert part.popen is not None
    part.popen.send_signal(signal.SIGKILL)
    part.popen.wait(10)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[ProcessGroup]:
    """Processes of one test; whatever still runs is ended after it."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with ProcessGroup(logs, None) as parts:
        yield parts


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """bootstrap.servers of the one Kafka of this test run, or of the Kafka that VOLCAST_TEST_KAFKA names."""
    if OTHER_KAFKA:
        yield OTHER_KAFKA
        return
    base = tmp_path_factory.getbasetemp()
    # Each worker of xdist has a base folder of its own, in a common one.
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with shared_kafka(folder) as bootstrap_servers:
        yield bootstrap_servers


_numbers = itertools.count(1)


def fresh_topics() -> Topics:
    """Names that no other test has, nor another run on the same broker."""
    number = f"{os.getpid()}-{time.time_ns()}-{next(_numbers)}"
    return Topics(**{name: f"{name}-{number}" for name in Topics.__struct_fields__})


@pytest.fixture
def kafka(broker: str) -> KafkaConfig:
    """The broker with topics of this test's own, which exist."""
    config = KafkaConfig(bootstrap_servers=broker, topics=fresh_topics(), session_timeout_ms=6000)
    ensure_topics(connect(config), config)
    return config


def as_environ(kafka: KafkaConfig) -> dict[str, str]:
    """The same for a process."""
    plain = {
        f"VOLCAST_KAFKA__{name.upper()}": str(getattr(kafka, name))
        for name in ("bootstrap_servers", "partitions", "session_timeout_ms", "timeout_s")
    }
    topics = msgspec.structs.asdict(kafka.topics)
    # All tests of a run share one Kafka.
    plain["VOLCAST_WORKER__GROUP_ID"] = f"volcast-worker-{kafka.topics.raw}"
    return {**plain, **{f"VOLCAST_KAFKA__TOPICS__{role.upper()}": name for role, name in topics.items()}}


def read_all(kafka: KafkaConfig, topic: str, least: int = 0, idle_s: float = 0.3) -> list[Message]:
    """All messages of a topic: at least so many, and until no more come for a moment."""
    consumer = make_consumer(kafka, "volcast-test-reader")
    messages: list[Message] = []
    try:
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, one, OFFSET_BEGINNING) for one in partitions])
        began = last = time.monotonic()
        while time.monotonic() - last < idle_s or (len(messages) < least and time.monotonic() - began < 20):
            batch = consume_batch(consumer, 5000, 0.05)
            messages += batch
            last = time.monotonic() if batch else last
    finally:
        consumer.close()
    return messages


@pytest.fixture(scope="session")
def inference_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a real `volcast serve` with the shipped models."""
    port = free_port()
    arguments = ["serve", "--port", str(port), "--metrics-port", "0", "--models-dir", str(ROOT / "models")]
    with ProcessGroup(tmp_path_factory.mktemp("server"), None) as parts:
        start(parts, "server", arguments)
        yield f"127.0.0.1:{port}"
