"""The gaps of ticks.raw by name: between which ticks, why, and how many messages."""

from __future__ import annotations

import pytest

from pipeline.records import Gap, Tick
from pipeline.stream import gaps
from pipeline.stream.gaps import GapSpan, GapSpans, Place


def tick(product: str, number: int, venue: str = "coinbase") -> Tick:
    return Tick(product, 1000 * number, 0, number, 1.0, 1.0, 1.0, 1.0, 1.0, venue)


def gap(product: str, time_ns: int, reason: str = "sequence", missed: int = 2) -> Gap:
    return Gap(product, time_ns, 0, reason, missed)


def take(spans: GapSpans, partition: int, *records: Tick | Gap) -> None:
    for offset, record in enumerate(records):
        spans.take(record, partition, offset)


def place(number: int, offset: int) -> Place:
    return Place(offset, number, 1000 * number)


def test_a_gap_lies_between_the_ticks_of_its_product() -> None:
    spans = GapSpans()
    take(spans, 3, tick("A", 1), tick("B", 2), gap("A", 5000), tick("B", 5), tick("A", 6))
    expected = GapSpan("coinbase", "A", "sequence", 2, 5000, 3, 2, after=place(1, 0), until=place(6, 4))
    assert spans.spans == [expected]


def test_a_gap_may_begin_or_end_the_records() -> None:
    spans = GapSpans()
    take(spans, 0, gap("A", 1, "reconnect", 0), tick("A", 7), gap("A", 9))
    first, last = spans.spans
    assert (first.after, first.until) == (None, place(7, 1))
    assert (last.after, last.until) == (place(7, 1), None)


def test_gaps_in_a_row_end_at_the_same_tick() -> None:
    spans = GapSpans()
    take(spans, 0, tick("A", 1), gap("A", 2), gap("A", 3, "reconnect", 0), tick("A", 9))
    assert [(span.after, span.until) for span in spans.spans] == [(place(1, 0), place(9, 3))] * 2


def test_venues_and_partitions_are_apart() -> None:
    spans = GapSpans()
    spans.take(gap("A", 1), 0, 0)
    spans.take(tick("A", 1, "binance"), 0, 1)
    spans.take(tick("A", 1), 1, 0)
    assert spans.spans[0].until is None


def test_more_gaps_than_can_be_named_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "MAX_SPANS", 3)
    spans = GapSpans()
    for offset in range(5):
        spans.take(gap("A", offset), 0, offset)
    assert (len(spans.spans), spans.unnamed) == (3, 2)


def test_records_that_kafka_deleted_are_a_gap_of_every_product() -> None:
    spans = GapSpans()
    spans.lost(2, 500, 400)
    assert spans.spans == [GapSpan("", "", "retention", 400, 0, 2, 500)]
