"""The forms of a recording's lines."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.entries import Header, read_entry

RAW = b'{"a": 1}'
TIME_NS = 1767571200_250_000_000
SECOND_NS = 1767571200_000_000_000


def wrapped(ingest_time: str) -> bytes:
    return b'{"ingest_time": %b, "product_id": "BTC-USD", "payload": %b}' % (ingest_time.encode(), RAW)


@pytest.mark.parametrize(
    ("ingest_time", "expected_ns"),
    [
        ('"2026-01-05T00:00:00.25Z"', TIME_NS),
        ('"2026-01-05T01:00:00.250000+01:00"', TIME_NS),
        ('"2026-01-05T00:00:00.25"', TIME_NS),
        ('"2026-01-05 00:00:00.250000"', TIME_NS),
        ('"2026-01-05 00:00:00.250000123"', TIME_NS + 123),
        ('"2026-01-05T00:00:00.250000+0000"', TIME_NS),
        ('"2026-01-05T00:00:00"', SECOND_NS),
        ("1767571200", SECOND_NS),
        ("1767571200.25", TIME_NS),
        ("1767571200250", TIME_NS),
        ("1767571200250000", TIME_NS),
        ("1767571200250000000", TIME_NS),
        ("1.76757120025e9", TIME_NS),
        ('"1767571200.25"', TIME_NS),
        ("null", 0),
        ('""', 0),
    ],
)
def test_a_time_of_receipt_is_read_in_every_form(ingest_time: str, expected_ns: int) -> None:
    entry = read_entry(wrapped(ingest_time))
    assert (entry.raw, entry.ingest_time_ns, entry.damage) == (RAW, expected_ns, None)


@pytest.mark.parametrize(
    "ingest_time", ['"yesterday"', "true", "-5", "[1]", "1e99", "99999999999999999999", '"2300-01-01"']
)
def test_a_time_of_receipt_that_is_none_is_damage_and_the_message_is_known(ingest_time: str) -> None:
    entry = read_entry(wrapped(ingest_time))
    assert entry.raw == RAW
    assert entry.damage == (
        "bad_time", f"ingest_time: expected an RFC 3339 time or an epoch, got {ingest_time}"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected_ns"),
    [
        (b'1767571200250000000 {"a": 1}', TIME_NS),
        (b'1767571200250\t{"a": 1}', TIME_NS),
        (b'1767571200.25 {"a": 1}', TIME_NS),
        (b'\xef\xbb\xbf1767571200250 {"a": 1}', TIME_NS),
        (b'\xef\xbb\xbf{"a": 1}', 0),
        (RAW, 0),
    ],
)
def test_stamped_and_bare_lines(line: bytes, expected_ns: int) -> None:
    entry = read_entry(line)
    assert (entry.raw, entry.ingest_time_ns, entry.damage) == (RAW, expected_ns, None)


def test_a_stamp_beyond_2262_is_damage() -> None:
    entry = read_entry(b"9999999999999999999 " + RAW)
    assert entry.damage == ("bad_time", "time of receipt: expected an epoch, got 9999999999999999999")


def test_a_header_holds_no_message() -> None:
    line = b'{"volcast_archive": 1, "venue": "binance", "products": ["BTCUSDT"], "connection": 5, "lost_messages": 2}'
    assert read_entry(line).header == Header(1, "binance", 5, 2)
    damage = read_entry(b'{"volcast_archive": "x"}').damage
    assert damage is not None
    assert damage[0] == "wrong_shape"


@given(st.binary() | st.text().map(lambda text: json.dumps({"payload": text, "ingest_time": text}).encode()))
def test_no_line_raises(line: bytes) -> None:
    read_entry(line)
