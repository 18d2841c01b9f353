"""Which ticks of a recording the topic lacks, and the gaps around them."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import TopicPartition

from common.config import KafkaConfig
from pipeline.records import Gap, Record, Tick, encode
from pipeline.stream.kafka import Sink, connect
from pipeline.stream.missing import PresentTicks, missing_records, read_present

GAP = Gap("BTC-USD", 0, 0, "sequence", 3)


def tick(number: int, product: str = "BTC-USD", venue: str = "coinbase") -> Tick:
    return Tick(product, number * 1000, 7, number, 1.0, 1.0, 1.0, 1.0, 1.0, venue)


def shown(records: list[Record]) -> list[int | str]:
    return [each.sequence_num if isinstance(each, Tick) else each.reason for each in records]


def fill(recording: list[Record], on_topic: list[Tick]) -> list[int | str]:
    return shown(list(missing_records(recording, PresentTicks(on_topic))))


TEN = [tick(number) for number in range(10)]


def test_a_complete_topic_lacks_nothing() -> None:
    assert fill([*TEN], TEN) == []


def test_an_empty_topic_lacks_everything_without_a_gap() -> None:
    assert fill([*TEN], []) == list(range(10))


def test_a_missing_end_goes_on_where_the_topic_ends() -> None:
    assert fill([*TEN], TEN[:6]) == [6, 7, 8, 9]


def test_a_hole_is_filled_between_two_gaps() -> None:
    assert fill([*TEN], TEN[:3] + TEN[6:]) == ["reconnect", 3, 4, 5, "reconnect"]


def test_a_missing_start_is_filled_between_two_gaps() -> None:
    assert fill([*TEN], TEN[4:]) == ["reconnect", 0, 1, 2, 3, "reconnect"]


def test_two_holes_are_three_gaps() -> None:
    assert fill([*TEN], [*TEN[:2], *TEN[4:6], *TEN[8:]]) == ["reconnect", 2, 3, "reconnect", 6, 7, "reconnect"]


def test_a_hole_and_a_missing_end_are_apart() -> None:
    assert fill([*TEN], [*TEN[:2], *TEN[4:6]]) == ["reconnect", 2, 3, "reconnect", 6, 7, 8, 9, "reconnect"]


def test_after_a_gap_of_the_recording_the_end_begins_with_a_gap() -> None:
    assert fill([*TEN[:5], GAP, *TEN[5:]], TEN[:5]) == ["reconnect", 5, 6, 7, 8, 9, "reconnect"]


def test_gaps_inside_a_run_are_kept() -> None:
    assert fill([*TEN[:5], GAP, *TEN[5:]], []) == [0, 1, 2, 3, 4, "sequence", 5, 6, 7, 8, 9]


def test_products_and_venues_are_apart() -> None:
    recording: list[Record] = [tick(1), tick(1, "ETH-USD"), tick(1, venue="binance")]
    assert fill(recording, [tick(1)]) == [1, 1]


def received(number: int, ingest_time_ns: int) -> Tick:
    return Tick("BTC-USD", number * 1000, ingest_time_ns, number, 1.0, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("since_ns", "filled"),
    [
        (0, [*range(8)]),
        (3, ["reconnect", 3, 4, 5, 6, 7, "reconnect"]),
        (7, ["reconnect", 7, "reconnect"]),
        (8, []),
    ],
)
def test_ticks_that_retention_may_have_deleted_are_not_published_again(since_ns: int, filled: list[int | str]) -> None:
    recording: list[Record] = [received(number, number) for number in range(8)]
    assert shown(list(missing_records(recording, PresentTicks([], since_ns)))) == filled


def test_without_a_time_of_receipt_the_event_time_decides_what_retention_may_have_deleted() -> None:
    recording: list[Record] = [received(number, 0) for number in range(4)]
    assert shown(list(missing_records(recording, PresentTicks([], 2000)))) == ["reconnect", 2, 3, "reconnect"]


@pytest.mark.parametrize("on_topic", [[tick(1)], [Tick("BTC-USD", 1000, 7, 2, 1.0, 1.0, 1.0, 1.0, 1.0), tick(1)]])
def test_a_tick_is_known_by_its_time_and_number(on_topic: list[Tick]) -> None:
    assert fill([tick(1)], on_topic) == []
    other_number = Tick("BTC-USD", 1000, 7, 3, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert 3 in fill([other_number], on_topic)


def test_the_ticks_of_the_topic_are_read_to_the_end(kafka: KafkaConfig) -> None:
    sink = Sink(kafka)
    for record in (tick(1), GAP, tick(2, "ETH-USD")):
        sink.send(kafka.topics.raw, b"key", encode(record))
    sink.send(kafka.topics.raw, b"key", b"no record")
    sink.flush()
    present = read_present(kafka)
    assert (present.ticks, present.holds(tick(1)), present.holds(tick(2))) == (2, True, False)
    assert present.since_ns == 0


@pytest.mark.parametrize("left", [1, 0])
def test_a_topic_with_deleted_records_is_whole_since_its_first_record_was_published(
    kafka: KafkaConfig, left: int
) -> None:
    sink = Sink(kafka)
    before_ns = time.time_ns()
    for number in range(3):
        sink.send(kafka.topics.raw, b"key", encode(tick(number)))
    sink.flush()
    sink.close()
    admin = connect(kafka)
    (future,) = admin.delete_records([TopicPartition(kafka.topics.raw, 0, 3 - left)]).values()
    future.result(30)
    present = read_present(kafka)
    assert present.ticks == left
    assert before_ns - 10**6 <= present.since_ns <= time.time_ns()
