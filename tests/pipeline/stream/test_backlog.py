"""Kafka is unavailable: records wait on disk, bounded, and follow in order."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import structlog

from common.errors import UnavailableError
from common.losses import not_stored
from pipeline.records import Gap, Tick, decode_record, encode
from pipeline.stream.backlog import BATCH, MAX_QUEUED, STALL_S, BacklogSink
from pipeline.stream.spool import Spool, SpooledMessage
from tests.pipeline.stream.fakes import TOPICS

KEY = b"coinbase:BTC-USD"
BIG = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Kafka:
    """A producer and its broker: it acknowledges at each poll while it is available."""

    def __init__(self) -> None:
        self.available = True
        self.delivered: list[tuple[str, bytes, bytes]] = []
        self._queue: list[tuple[str, bytes, bytes]] = []

    @property
    def queued(self) -> int:
        return len(self._queue)

    def send(self, topic: str, key: bytes, value: bytes) -> None:
        self._queue.append((topic, key, value))

    def poll(self) -> None:
        if self.available:
            self.delivered += self._queue
            self._queue.clear()

    def poll_once(self) -> None:
        """The broker is there for a moment."""
        self.available = True
        self.poll()
        self.available = False

    def flush(self, timeout_s: float = 35.0) -> None:
        self.poll()
        if self._queue:
            raise UnavailableError("not delivered")

    def take_back(self) -> list[tuple[str, bytes, bytes]]:
        taken = list(self._queue)
        self._queue.clear()
        return taken

    def close(self) -> None:
        pass

    @property
    def values(self) -> list[bytes]:
        return [value for _, _, value in self.delivered]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


def sink(kafka: Kafka, path: Path, clock: Clock, max_bytes: int = BIG) -> BacklogSink:
    return BacklogSink(kafka, TOPICS, path, max_bytes, clock)


def value(number: int) -> bytes:
    return encode(Tick("BTC-USD", number, 0, number, 1.0, 1.0, 1.0, 1.0, 1.0))


def stall(kafka: Kafka, sink: BacklogSink, clock: Clock) -> None:
    """The broker stops, and the sink notices."""
    kafka.available = False
    sink.send(TOPICS.raw, KEY, value(0))
    sink.poll()
    clock.now_s += STALL_S
    sink.poll()


def test_while_kafka_answers_nothing_touches_the_disk(tmp_path: Path, kafka: Kafka, clock: Clock) -> None:
    backlog = sink(kafka, tmp_path, clock)
    for number in range(2500):
        backlog.send(TOPICS.raw, KEY, value(number))
    backlog.flush()
    assert kafka.values == [value(number) for number in range(2500)]
    assert list(tmp_path.glob("*.spool")) == []


@pytest.mark.parametrize(("silence_s", "stored"), [(STALL_S - 0.01, 0), (STALL_S, 1)])
def test_without_an_acknowledgement_for_a_second_messages_go_to_disk(
    tmp_path: Path, kafka: Kafka, clock: Clock, silence_s: float, stored: int
) -> None:
    backlog = sink(kafka, tmp_path, clock)
    kafka.available = False
    backlog.send(TOPICS.raw, KEY, value(0))
    backlog.poll()
    clock.now_s += silence_s
    backlog.poll()
    backlog.send(TOPICS.raw, KEY, value(1))
    assert backlog.waiting == stored


def test_the_producers_memory_is_bounded(tmp_path: Path, kafka: Kafka, clock: Clock) -> None:
    backlog = sink(kafka, tmp_path, clock)
    kafka.available = False
    for _ in range(MAX_QUEUED + 5000):
        backlog.send(TOPICS.raw, KEY, b"x")
    assert kafka.queued == MAX_QUEUED
    assert backlog.waiting == 5000


def test_an_hour_without_kafka_is_delivered_once_and_in_order(tmp_path: Path, kafka: Kafka, clock: Clock) -> None:
    backlog = sink(kafka, tmp_path, clock)
    with structlog.testing.capture_logs() as events:
        stall(kafka, backlog, clock)
        for number in range(1, 3 * BATCH):
            backlog.send(TOPICS.raw, KEY, value(number))
        kafka.available = True
        for number in range(3 * BATCH, 4 * BATCH):  # live messages go on while the backlog is delivered
            backlog.send(TOPICS.raw, KEY, value(number))
        backlog.flush()
    assert kafka.values == [value(number) for number in range(4 * BATCH)]
    assert [event["event"] for event in events] == [
        "Kafka takes no messages, they wait on disk",
        "backlog delivered, messages go straight to Kafka",
    ]
    assert list(tmp_path.glob("*.spool")) == []


def test_a_killed_ingest_leaves_its_backlog_to_the_next_one(tmp_path: Path, kafka: Kafka, clock: Clock) -> None:
    backlog = sink(kafka, tmp_path, clock)
    stall(kafka, backlog, clock)
    for number in range(1, 100):
        backlog.send(TOPICS.raw, KEY, value(number))
    backlog._spool.close()  # as the kernel does for a killed process
    later = Kafka()
    resumed = sink(later, tmp_path, clock)
    resumed.send(TOPICS.raw, KEY, value(100))
    resumed.flush()
    assert later.values == [value(number) for number in range(1, 101)]


def test_an_orderly_stop_keeps_what_the_producer_holds_in_front(tmp_path: Path, kafka: Kafka, clock: Clock) -> None:
    backlog = sink(kafka, tmp_path, clock)
    stall(kafka, backlog, clock)
    backlog.send(TOPICS.raw, KEY, value(1))
    with pytest.raises(UnavailableError, match="2 messages are not delivered; they wait on disk"):
        backlog.flush(0)
    backlog.close()
    later = Kafka()
    resumed = sink(later, tmp_path, clock)
    resumed.flush()
    assert later.values == [value(0), value(1)]


def test_a_stop_before_the_stall_is_noticed_keeps_the_messages(tmp_path: Path, kafka: Kafka, clock: Clock) -> None:
    backlog = sink(kafka, tmp_path, clock)
    kafka.available = False
    backlog.send(TOPICS.raw, KEY, value(0))
    with pytest.raises(UnavailableError, match="1 messages are not delivered"):
        backlog.flush(0.1)
    backlog.close()
    later = Kafka()
    sink(later, tmp_path, clock).flush()
    assert later.values == [value(0)]


def test_a_kill_while_the_backlog_is_delivered_repeats_one_batch_at_most(
    tmp_path: Path, kafka: Kafka, clock: Clock
) -> None:
    backlog = sink(kafka, tmp_path, clock)
    stall(kafka, backlog, clock)
    count = 3 * BATCH
    for number in range(1, count):
        backlog.send(TOPICS.raw, KEY, value(number))
    kafka.available = True
    backlog.poll()
    backlog.poll()
    kafka.poll()
    backlog._spool.close()
    later = Kafka()
    sink(later, tmp_path, clock).flush()
    both = kafka.values + later.values
    assert sorted(set(both)) == sorted(value(number) for number in range(count))
    assert 0 < len(both) - count <= BATCH
    assert later.values == sorted(later.values, key=lambda each: decode_record(each).event_time_ns)


def test_a_full_backlog_counts_and_logs_once_and_puts_a_gap_before_the_next_record(
    tmp_path: Path, kafka: Kafka, clock: Clock
) -> None:
    before = not_stored().get("backlog", 0)
    size = len(value(1)) + len(TOPICS.raw) + len(KEY) + 12
    backlog = sink(kafka, tmp_path, clock, max_bytes=size * 3)
    with structlog.testing.capture_logs() as events:
        stall(kafka, backlog, clock)
        for number in range(1, 8):  # three fit
            backlog.send(TOPICS.raw, KEY, value(number))
        kafka.available = True
        backlog.flush()
        backlog.send(TOPICS.raw, KEY, value(8))
        backlog.flush()
    records = [decode_record(each) for each in kafka.values]
    assert [each.missed if isinstance(each, Gap) else each.sequence_num for each in records] == [0, 1, 2, 3, 4, 8]
    assert isinstance(records[4], Gap)
    assert records[4].reason == "backlog"
    assert not_stored()["backlog"] - before == backlog.lost == 4
    assert [event["event"] for event in events].count("the backlog takes no more messages") == 1


def test_a_full_disk_is_a_full_backlog(
    tmp_path: Path, kafka: Kafka, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog = sink(kafka, tmp_path, clock)
    stall(kafka, backlog, clock)
    backlog.send(TOPICS.raw, KEY, value(1))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stream.spool.os.write", lambda descriptor, data: write(descriptor, data[:20]))
        backlog.send(TOPICS.raw, KEY, value(2))
    backlog.send(TOPICS.raw, KEY, value(3))
    kafka.available = True
    backlog.flush()
    records = [decode_record(each) for each in kafka.values]
    assert [each.missed if isinstance(each, Gap) else each.sequence_num for each in records] == [0, 1, 1, 3]


def test_another_process_cannot_use_the_folder(tmp_path: Path, kafka: Kafka, clock: Clock) -> None:
    backlog = sink(kafka, tmp_path, clock)
    with pytest.raises(UnavailableError, match=r"another ingest uses it; give each its own with ingest\.backlog_dir"):
        sink(kafka, tmp_path, clock)
    backlog.close()


@pytest.mark.parametrize("cut", [1, 11, 12, 30])
def test_a_message_that_a_kill_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    spool = Spool(tmp_path, BIG)
    for number in range(3):
        spool.append(SpooledMessage("ticks.raw", KEY, b"%03d" % number))
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    path.write_bytes(path.read_bytes()[:-cut])
    spool = Spool(tmp_path, BIG)
    spool.append(SpooledMessage("ticks.raw", KEY, b"new"))
    batch, _ = spool.read(10)
    assert [message.value for message in batch] == [b"000", b"001", b"new"]
    spool.close()


@pytest.mark.parametrize("segment_bytes", [1, 100, 10_000])
def test_messages_keep_their_order_over_segments(tmp_path: Path, segment_bytes: int) -> None:
    spool = Spool(tmp_path, BIG, segment_bytes)
    expected = [SpooledMessage("ticks.raw", b"%d" % number, b"v" * (number % 7)) for number in range(50)]
    for message in expected:
        spool.append(message)
    got: list[SpooledMessage] = []
    while spool.messages:
        batch, position = spool.read(7)
        got += batch
        spool.release(len(batch), position)
    assert got == expected
    assert list(tmp_path.glob("*.spool")) == []
    spool.append(expected[0])
    assert spool.read(7)[0] == expected[:1]
    spool.close()


@pytest.mark.parametrize(("spare", "taken"), [(0, True), (-1, False)])
def test_the_bound_is_in_bytes(tmp_path: Path, spare: int, taken: bool) -> None:
    message = SpooledMessage("t", b"k", b"v" * 10)
    spool = Spool(tmp_path, 24 + spare)
    if taken:
        spool.append(message)
    else:
        with pytest.raises(OSError, match=r"ingest\.backlog_max_bytes") as refused:
            spool.append(message)
        assert refused.value.errno == errno.ENOSPC
    assert spool.messages == taken
    spool.close()


def waiting(path: Path) -> list[bytes]:
    spool = Spool(path, BIG)
    batch, _ = spool.read(10)
    spool.close()
    return [message.value for message in batch]


def test_a_kill_right_after_messages_were_put_in_front_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, BIG)
    spool.append(SpooledMessage("t", b"k", b"delivered"))
    spool.release(*((1, spool.read(1)[1])))
    spool.append(SpooledMessage("t", b"k", b"later"))
    monkeypatch.setattr(spool, "_store_position", lambda: None)  # the process is killed, or the disk is full
    spool.prepend([SpooledMessage("t", b"k", b"in front")])
    spool.close()
    assert waiting(tmp_path) == [b"in front", b"later"]


def test_messages_after_one_that_a_full_disk_cut_off_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, write = Spool(tmp_path, BIG), os.write
    spool.append(SpooledMessage("t", b"k", b"first"))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stream.spool.os.write", lambda descriptor, data: write(descriptor, data[:7]))
        patch.setattr("pipeline.stream.spool.os.ftruncate", lambda descriptor, size: 1 / 0)
        with pytest.raises(OSError, match="No space left"):
            spool.append(SpooledMessage("t", b"k", b"cut off"))
    spool.append(SpooledMessage("t", b"k", b"second"))
    assert spool.messages == 2
    spool.close()
    assert waiting(tmp_path) == [b"first", b"second"]


@pytest.mark.parametrize(("cut", "lost"), [(0, 0), (1, 22), (23, 0)])
def test_a_backlog_that_is_cut_off_is_reported(tmp_path: Path, kafka: Kafka, clock: Clock, cut: int, lost: int) -> None:
    spool = Spool(tmp_path, BIG)
    for number in range(2):
        spool.append(SpooledMessage("t", b"k", b"%09d" % number))
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
    with structlog.testing.capture_logs() as events:
        sink(kafka, tmp_path, clock).close()
    assert [event["lost_bytes"] for event in events if "lost_bytes" in event] == ([lost] if lost else [])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=r"cannot be used: Not a directory; set ingest\.backlog_dir"):
        Spool(tmp_path / "file" / "folder", BIG)


def test_messages_that_cannot_be_stored_at_a_stop_are_counted(
    tmp_path: Path, kafka: Kafka, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = not_stored().get("backlog", 0)
    backlog = sink(kafka, tmp_path, clock)
    stall(kafka, backlog, clock)

    def refuse(messages: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(backlog._spool, "prepend", refuse)
    with pytest.raises(UnavailableError):
        backlog.flush(0)
    assert not_stored()["backlog"] - before == backlog.lost == 1


def test_messages_that_arrive_all_the_time_do_not_keep_the_spool_in_use(
    kafka: Kafka, clock: Clock, tmp_path: Path
) -> None:
    backlog = sink(kafka, tmp_path, clock)
    stall(kafka, backlog, clock)
    for number in range(1, 10):
        backlog.send(TOPICS.raw, KEY, value(number))
    kafka.available = True
    for number in range(10, 20):
        backlog.poll()
        backlog.send(TOPICS.raw, KEY, value(number))
    assert backlog.waiting == 0
    backlog.poll()
    assert kafka.values == [value(number) for number in range(20)]


def test_a_last_batch_that_is_not_acknowledged_in_time_stays_in_the_spool(
    kafka: Kafka, clock: Clock, tmp_path: Path
) -> None:
    backlog = sink(kafka, tmp_path, clock)
    stall(kafka, backlog, clock)
    backlog.send(TOPICS.raw, KEY, value(1))
    kafka.poll_once()
    backlog.poll()
    assert backlog.waiting == 1
    backlog.send(TOPICS.raw, KEY, value(2))
    kafka.available = True
    backlog.poll()
    backlog.poll()
    assert backlog.waiting == 0
    assert kafka.values == [value(number) for number in range(3)]
