"""Records onto their topics, counted by kind; a run that resumes says so with gaps."""

from __future__ import annotations

import msgspec

from pipeline.records import DeadLetter, Gap, LateTick, Record, Tick, decode_record, encode
from pipeline.stream.publish import Hole, Publisher
from tests.pipeline.stream.fakes import TOPICS, FakeSink

TICK = Tick("BTC-USD", 10, 20, 3, 1.0, 1.0, 1.0, 1.0, 1.0)
OTHER = msgspec.structs.replace(TICK, product_id="ETH-USD")
GAP = Gap("BTC-USD", 15, 25, "sequence", 4)


def published(sink: FakeSink) -> list[Record]:
    return [decode_record(value) for value in sink.values(TOPICS.raw)]


def test_each_kind_goes_to_its_topic_and_is_counted() -> None:
    sink = FakeSink()
    publisher = Publisher(sink, TOPICS)  # type: ignore[arg-type]
    late, dead = LateTick("repeated", "FILE:3", TICK), DeadLetter("not_json", "why", "FILE:4", "{")
    publisher.publish([TICK, OTHER, GAP, late, dead])
    assert sink.sent == {
        TOPICS.raw: {b"coinbase:BTC-USD": [encode(TICK), encode(GAP)], b"coinbase:ETH-USD": [encode(OTHER)]},
        TOPICS.late: {b"coinbase:BTC-USD": [encode(late)]},
        TOPICS.dead: {b"FILE:4": [encode(dead)]},
    }
    assert publisher.counts.totals() == {"ticks": 2, "gaps": 1, "late": 1, "dead": 1}
    assert publisher.published == 3
    assert publisher.counts.as_json()["ticks_by_product"] == {"BTC-USD": 1, "ETH-USD": 1}


def test_a_gap_between_ticks_is_told_as_a_hole_in_time() -> None:
    publisher = Publisher(FakeSink(), TOPICS)  # type: ignore[arg-type]
    publisher.publish([GAP, TICK, GAP])
    assert publisher.holes == [Hole("BTC-USD", 10, 15, "sequence", 4)]
    assert publisher.counts.gaps == {"sequence": 2}


def test_a_hole_ends_with_the_next_tick_and_not_with_a_time_that_was_set_aside() -> None:
    publisher = Publisher(FakeSink(), TOPICS)  # type: ignore[arg-type]
    later = msgspec.structs.replace(TICK, event_time_ns=17)
    publisher.publish([TICK, OTHER, msgspec.structs.replace(GAP, event_time_ns=10**18), OTHER, later, later])
    assert publisher.holes == [Hole("BTC-USD", 10, 17, "sequence", 4)]


def test_on_a_topic_that_holds_records_each_product_begins_with_a_gap() -> None:
    sink = FakeSink()
    publisher = Publisher(sink, TOPICS, resumes=True)  # type: ignore[arg-type]
    publisher.publish([TICK, OTHER, TICK])
    assert published(sink) == [
        Gap("BTC-USD", 10, 20, "reconnect", 0), TICK, TICK, Gap("ETH-USD", 10, 20, "reconnect", 0), OTHER,
    ]  # fmt: skip
    assert publisher.published == 5
    assert publisher.counts.gaps == {"reconnect": 2}


def test_a_gap_that_comes_anyway_is_not_doubled() -> None:
    sink = FakeSink()
    Publisher(sink, TOPICS, resumes=True).publish([GAP, TICK])  # type: ignore[arg-type]
    assert published(sink) == [GAP, TICK]


def test_one_product_name_on_two_venues_has_two_keys_and_two_beginnings() -> None:
    sink = FakeSink()
    elsewhere = msgspec.structs.replace(TICK, venue="binance", event_time_ns=11)
    gap = msgspec.structs.replace(GAP, venue="binance")
    publisher = Publisher(sink, TOPICS, resumes=True)  # type: ignore[arg-type]
    publisher.publish([TICK, elsewhere, gap, TICK])
    assert sorted(sink.sent[TOPICS.raw]) == [b"binance:BTC-USD", b"coinbase:BTC-USD"]
    assert publisher.counts.gaps == {"reconnect": 2, "sequence": 1}
    assert publisher.holes == [Hole("BTC-USD", 11, 15, "sequence", 4, "binance")]  # the last tick ends no hole of it
