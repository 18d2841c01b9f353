"""Records of this version and of newer ones."""

from __future__ import annotations

import msgspec
import pytest

from pipeline.records import (
    DeadLetter,
    Gap,
    LateTick,
    Tick,
    decode_dead,
    decode_late,
    decode_record,
    encode,
    record_key,
)

TICK = Tick("BTC-USD", 10, 20, 3, 1.0, 1.0, 1.0, 1.0, 1.0)
GAP = Gap("BTC-USD", 15, 25, "sequence", 4)


def with_fields(value: object, **fields: object) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(encode(value)), **fields})


def test_a_record_without_a_venue_is_of_coinbase() -> None:
    old = b'{"type":"gap","product_id":"BTC-USD","event_time_ns":15,"ingest_time_ns":25,"reason":"sequence","missed":4}'
    assert decode_record(old) == GAP
    assert GAP.venue == "coinbase"


@pytest.mark.parametrize("record", [TICK, msgspec.structs.replace(TICK, venue="binance"), GAP])
def test_a_record_reads_back_as_it_was(record: Tick | Gap) -> None:
    assert decode_record(encode(record)) == record


def test_unknown_fields_and_reasons_of_newer_versions_are_read() -> None:
    assert decode_record(with_fields(TICK, imbalance=0.5)) == TICK
    assert decode_record(with_fields(GAP, reason="retention", hint=1)) == msgspec.structs.replace(
        GAP, reason="retention"
    )
    late, dead = LateTick("repeated", "here", TICK), DeadLetter("not_json", "why", "here", "{")
    assert decode_late(with_fields(late, reason="new", x=1)).reason == "new"
    assert decode_dead(with_fields(dead, reason="new", x=1)).reason == "new"


def test_the_key_holds_venue_and_product() -> None:
    assert record_key("binance", "BTCUSDT") == "binance:BTCUSDT"
