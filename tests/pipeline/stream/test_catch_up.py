"""After a kill, ingest publishes what only the archive holds, and repeats nothing of its backlog."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from common.config import KafkaConfig
from pipeline.archive import ArchiveWriter
from pipeline.records import Gap, Record, Tick, decode_record, encode
from pipeline.stream import catch_up as module
from pipeline.stream.backlog import BacklogSink
from pipeline.stream.catch_up import archive_tail, catch_up, unpublished
from pipeline.stream.kafka import Sink
from pipeline.stream.missing import PresentTicks
from pipeline.stream.spool import Spool, SpooledMessage
from tests.pipeline.feed.messages import message
from tests.processes import read_all

KEY = b"coinbase:BTC-USD"
GAP = Gap("BTC-USD", 4500, 7, "sequence", 3)


def tick(number: int, product: str = "BTC-USD") -> Tick:
    return Tick(product, number * 1000, 7, number, 1.0, 1.0, 1.0, 1.0, 1.0)


TEN: list[Record] = [tick(number) for number in range(10)]


def found(recording: list[Record], topic: range, backlog: range = range(0)) -> tuple[list[int | str], list[int | str]]:
    first, last = unpublished(
        recording, PresentTicks(tick(number) for number in topic), PresentTicks(tick(number) for number in backlog)
    )
    return shown(first), shown(last)


def shown(records: list[Record]) -> list[int | str]:
    return [each.sequence_num if isinstance(each, Tick) else each.reason for each in records]


def test_a_topic_that_ends_where_the_archive_ends_lacks_nothing() -> None:
    assert found(TEN, range(10)) == ([], [])


def test_ticks_behind_the_last_one_of_the_topic_follow_it() -> None:
    assert found(TEN, range(6)) == ([6, 7, 8, 9], [])


def test_a_gap_of_the_archive_stays_in_its_place() -> None:
    assert found([*TEN[:8], GAP, *TEN[8:]], range(6)) == ([6, 7, "sequence", 8, 9], [])


def test_a_gap_before_the_last_published_tick_is_not_repeated() -> None:
    assert found([*TEN[:4], GAP, *TEN[4:]], range(6)) == ([6, 7, 8, 9], [])


def test_ticks_between_topic_and_backlog_go_before_the_backlog() -> None:
    assert found(TEN, range(4), range(6, 10)) == ([4, 5], [])


def test_ticks_behind_the_backlog_go_behind_it() -> None:
    assert found(TEN, range(4), range(4, 8)) == ([], [8, 9])


def test_a_delivered_batch_that_is_still_in_the_backlog_is_not_followed_twice() -> None:
    assert found(TEN, range(6), range(3, 8)) == ([], [8, 9])


def test_older_holes_are_left_alone() -> None:
    recording = TEN
    topic = PresentTicks(tick(number) for number in (0, 1, 4, 5, 8, 9))
    assert unpublished(recording, topic, PresentTicks([])) == ([], [])


def test_a_product_that_the_topic_does_not_know_is_left_alone() -> None:
    assert found([tick(1, "ETH-USD")], range(3)) == ([], [])


def write_archive(folder: Path, count: int) -> None:
    writer = ArchiveWriter(folder, ("BTC-USD",))
    writer.begin_connection()
    for number in range(count):
        writer.write(message(number, timestamp=f"2026-04-05T22:35:{number:02d}.5Z"), 1_000_000_000 + number)
    writer.close()


def test_the_tail_of_an_archive_is_read_from_the_end_of_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path, 40)
    whole = archive_tail(tmp_path)
    assert [each.sequence_num for each in whole if isinstance(each, Tick)] == list(range(40))
    monkeypatch.setattr(module, "ARCHIVE_TAIL_BYTES", 5000)
    tail = archive_tail(tmp_path)
    assert 2 < len(tail) < 20
    assert tail == whole[-len(tail) :]


def test_a_file_that_a_writer_has_open_is_left_alone(tmp_path: Path) -> None:
    write_archive(tmp_path, 3)
    with next(tmp_path.glob("*.ndjson")).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert archive_tail(tmp_path) == []


@pytest.mark.kafka
def test_a_batch_of_the_backlog_that_was_delivered_before_the_kill_is_not_sent_again(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    batch = [encode(record) for record in (*TEN[:5], GAP, *TEN[5:])]
    produce(kafka, batch)
    spool = Spool(tmp_path, 1 << 20)
    for value in [*batch, encode(tick(10))]:
        spool.append(SpooledMessage(kafka.topics.raw, KEY, value))
    spool.close()
    sink = BacklogSink(Sink(kafka), kafka.topics, tmp_path, 1 << 20)
    catch_up(kafka, None, "coinbase", {"BTC-USD"}, sink)
    sink.flush()
    sink.close()
    assert [each.value() for each in read_all(kafka, kafka.topics.raw, 12)] == [*batch, encode(tick(10))]


@pytest.mark.kafka
def test_what_only_the_archive_holds_is_published_in_its_place(kafka: KafkaConfig, tmp_path: Path) -> None:
    write_archive(tmp_path / "archive", 10)
    ticks = [record for record in archive_tail(tmp_path / "archive") if isinstance(record, Tick)]
    produce(kafka, [encode(record) for record in ticks[:4]])
    spool = Spool(tmp_path / "spool", 1 << 20)
    for record in ticks[6:9]:
        spool.append(SpooledMessage(kafka.topics.raw, KEY, encode(record)))
    spool.close()
    sink = BacklogSink(Sink(kafka), kafka.topics, tmp_path / "spool", 1 << 20)
    catch_up(kafka, tmp_path / "archive", "coinbase", {"BTC-USD"}, sink)
    sink.flush()
    sink.close()
    published = [decode_record(each.value() or b"") for each in read_all(kafka, kafka.topics.raw, 10)]
    assert shown(published) == list(range(10))


def produce(kafka: KafkaConfig, values: list[bytes]) -> None:
    sink = Sink(kafka)
    for value in values:
        sink.send(kafka.topics.raw, KEY, value)
    sink.flush()
    sink.close()
