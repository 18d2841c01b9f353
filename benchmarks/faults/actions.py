"""The faults: each acts on a course, begins with `course.note`, and returns when results are fresh again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource  # not exported
from confluent_kafka.admin._resource import ResourceType

from benchmarks.faults.course import SESSION_TIMEOUT_MS, Course, Setup
from common.errors import UnavailableError
from pipeline.stream.transactions import TRANSACTION_TIMEOUT_MS

# Every fifth kill follows another before results are fresh again: it meets a process that restores its state.
AGAIN_SHARE = 0.2
DISK_FULL_S = 12.0
RETENTION_S = 90.0


@dataclass(frozen=True)
class Action:
    """A fault. times: in the full form. measure: the results whose age is the recovery time."""

    run: Callable[[Course], None]
    times: int
    title: str
    setup: Setup = field(default_factory=Setup)
    measure: str = "predictions"  # or "features"
    oracle: str = "archive"  # or "ticks.raw", if the fault keeps ticks from the archive or deletes them from the topic


def kill_worker(course: Course) -> None:
    began_s = course.note("worker")
    course.kill(course.worker)
    course.worker = course.start_worker()
    if course.random.random() > AGAIN_SHARE:
        course.await_predictions(began_s)


def kill_workers_without_server(course: Course) -> None:
    """Two kills while the server is down."""
    course.kill(course.server)
    for _ in range(2):
        course.pause(0.3, 1.0)
        began_s = course.note("worker-without-server")
        course.kill(course.worker)
        course.worker = course.start_worker()
        if course.random.random() > AGAIN_SHARE:
            course.await_features(began_s)
    course.server = course.start_server()
    course.await_predictions()


def kill_ingest(course: Course) -> None:
    began_s = course.note("ingest")
    course.kill(course.ingest)
    course.ingest = course.start_ingest()
    course.await_features(began_s)
    course.pause(0.0, 4.0)  # windows are full again after 3 s


def kill_ingest_and_broker(course: Course) -> None:
    """Ingest has a backlog on disk, and is killed before or while it delivers the backlog."""
    began_s = course.note("ingest-and-broker")
    course.brokers.kill()
    course.pause(2.0, 5.0)
    if course.random.random() < 0.3:
        course.kill(course.ingest)
        course.brokers.start()
    else:
        course.brokers.start()
        course.pause(0.0, 1.0)
        course.kill(course.ingest)
    course.ingest = course.start_ingest()
    course.await_features(began_s)
    course.pause(0.0, 4.0)


def kill_server(course: Course) -> None:
    began_s = course.note("server")
    course.kill(course.server)
    course.pause(0.0, 1.5)
    course.server = course.start_server()
    course.await_predictions(began_s)


def kill_broker(course: Course) -> None:
    began_s = course.note("broker")
    course.brokers.kill()
    course.pause(0.0, 1.5)
    course.brokers.start()
    course.await_predictions(began_s)


def kill_leader(course: Course) -> None:
    """The leader of a partition of ticks.raw, of offsets or of transactions, in turn."""
    topics = course.kafka.topics
    replicated = [topics.raw, topics.features, topics.predictions, topics.snapshots]
    internal = ["__consumer_offsets", "__transaction_state"]
    topic = [topics.raw, *internal][len(course.noted) % 3]
    node = course.brokers.leader(topic, course.random.randrange(3))
    began_s = course.note("leader")
    course.brokers.kill(node)
    course.await_predictions(began_s)
    course.brokers.start(node)
    course.brokers.await_in_sync([*replicated, *internal])
    course.await_predictions()


def rescale(course: Course) -> None:
    """Workers 1 -> 3 -> 2 (in order) -> 1 (killed)."""
    began_s = course.note("workers 1 -> 3")
    second, third = course.start_worker("second"), course.start_worker("third")
    course.await_predictions(began_s)
    course.pause(3.0, 4.0)
    began_s = course.note("workers 3 -> 2")
    course.stop(second)
    # A static member keeps its partitions until the session timeout.
    time.sleep(SESSION_TIMEOUT_MS / 1e3 + 2)
    course.await_predictions(began_s)
    began_s = course.note("workers 2 -> 1, killed")
    course.kill(third)
    time.sleep(SESSION_TIMEOUT_MS / 1e3 + 2)
    course.await_predictions(began_s)


def stop_worker(course: Course) -> None:
    """SIGSTOP beyond the session timeout and the transaction's timeout, while another worker runs."""
    second = course.start_worker("second")
    course.await_predictions()
    began_s = course.note("pause")
    course.kill(course.worker, signal.SIGSTOP)
    time.sleep(max(SESSION_TIMEOUT_MS, TRANSACTION_TIMEOUT_MS) / 1e3 + 3)
    course.kill(course.worker, signal.SIGCONT)
    course.await_predictions(began_s)
    course.pause(4.0, 5.0)
    course.stop(second)
    time.sleep(SESSION_TIMEOUT_MS / 1e3 + 2)
    if not course.worker.alive:
        course.worker = course.start_worker()
    course.await_predictions()


def fill_archive(course: Course) -> None:
    """Ingest has to go on. Its archive then states how many messages it lacks."""
    disk = course.disks["archive"]
    course.note("archive-disk")
    disk.fill()
    time.sleep(DISK_FULL_S)
    course.await_predictions()  # while the disk is full
    course.require_event(course.ingest, "archive cannot be written, ingest goes on without it")
    disk.free()
    time.sleep(3.0)
    course.require_event(course.ingest, "archive is written again")
    course.await_predictions()
    course.require_alive()


def fill_parquet(course: Course) -> None:
    """The worker has to go on, to start, and to end in order; its open file cannot be completed."""
    disk = course.disks["parquet"]
    began_s = course.note("parquet-disk")
    disk.fill()
    for _ in range(2):
        course.stop(course.worker)
        course.require_event(course.worker, "Parquet cannot be written, features go on without it")
        course.worker = course.start_worker()
        course.await_predictions(began_s)
    disk.free()
    course.stop(course.worker)
    if not list(disk.folder.glob("*.parquet")):
        raise UnavailableError("worker: expected a Parquet file once the disk has room")
    course.worker = course.start_worker()
    course.await_predictions()


def fill_broker(course: Course) -> None:
    """Kafka ends itself if its only log folder fails. It starts again once there is room."""
    disk = course.disks["kafka-1"]
    began_s = course.note("broker-disk")
    disk.fill()
    deadline_s = time.monotonic() + 3 * DISK_FULL_S
    while course.brokers.first.alive and time.monotonic() < deadline_s:
        time.sleep(0.1)
    course.remarks["broker ended by itself"] = course.remarks.get("broker ended by itself", 0) + (
        not course.brokers.first.alive
    )
    course.pause(2.0, 4.0)
    disk.free()
    course.brokers.kill()
    course.brokers.start()
    course.await_predictions(began_s)
    course.require_alive()


def overtake(course: Course) -> None:
    """Retention deletes ticks that a stopped worker has not read."""
    began_s = course.note("retention")
    course.kill(course.worker)
    time.sleep(3.0)
    ends = {number: offset for number, (offset, _) in course.committed().items()}
    _delete_beyond(course, ends)
    lows = {number: low for number, (low, _) in course.bounds().items()}
    course.holes += [(number, ends[number], low) for number, low in lows.items()]
    course.worker = course.start_worker()
    course.await_features(began_s)
    lost = sum(low - ends[number] for number, low in lows.items())
    course.pause(1.0, 1.5)
    reported = course.worker.stats["lost_records"]
    course.remarks["records deleted by retention"] = course.remarks.get("records deleted by retention", 0) + lost
    course.remarks["of them reported"] = course.remarks.get("of them reported", 0) + reported
    if reported != lost:
        raise UnavailableError(f"retention: the worker reports {reported} lost records, expected {lost}")
    course.await_predictions()


def _delete_beyond(course: Course, ends: dict[int, int]) -> None:
    """Sets a short retention until no unread record is left at the worker's offsets."""
    admin = course.brokers.admin()
    short = {"retention.ms": "1000", "segment.ms": "1000"}

    def configure(operation: AlterConfigOpType) -> None:
        entries = [ConfigEntry(key, value, incremental_operation=operation) for key, value in short.items()]
        resource = ConfigResource(ResourceType.TOPIC, course.kafka.topics.raw, incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(10)

    configure(AlterConfigOpType.SET)
    deadline_s = time.monotonic() + RETENTION_S
    while any(low <= ends[number] for number, (low, _) in course.bounds().items()):
        if time.monotonic() > deadline_s:
            raise UnavailableError(f"retention: nothing is deleted within {RETENTION_S:g} s")
        time.sleep(0.2)
    configure(AlterConfigOpType.DELETE)
    time.sleep(3.0)  # a round of retention that began before has ended


ACTIONS = {
    "worker": Action(kill_worker, 80, "worker killed"),
    "worker-without-server": Action(
        kill_workers_without_server, 10, "worker killed twice, server down", measure="features"
    ),
    "ingest": Action(kill_ingest, 16, "ingest killed", measure="features"),
    "ingest-and-broker": Action(kill_ingest_and_broker, 6, "ingest killed, Kafka away", measure="features"),
    "server": Action(kill_server, 20, "server killed"),
    "broker": Action(kill_broker, 10, "broker killed"),
    "leader": Action(kill_leader, 9, "leader of three brokers killed", Setup(brokers=3)),
    "rescale": Action(rescale, 3, "workers 1 -> 3 -> 2 -> 1"),
    "pause": Action(stop_worker, 3, "worker stopped beyond the session timeout"),
    "archive-disk": Action(fill_archive, 3, "archive disk full", Setup(disks=("archive",)), oracle="ticks.raw"),
    "parquet-disk": Action(fill_parquet, 3, "Parquet disk full", Setup(disks=("parquet",))),
    "broker-disk": Action(fill_broker, 3, "Kafka's disk full", Setup(disks=("kafka-1",))),
    "retention": Action(overtake, 3, "retention overtakes a stopped worker", measure="features", oracle="ticks.raw"),
}
