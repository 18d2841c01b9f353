"""The worker on in-memory ports: what goes where, and what is counted."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from pipeline.features.table import compute_features
from pipeline.records import DeadLetter, DeadReason, Gap, LateTick, Tick, decode_dead, decode_late, encode
from tests.pipeline.features.markets import markets
from tests.pipeline.stream.fakes import TOPICS, Bench, FakeMessage, answer, cut, messages_of, outcome
from tests.pipeline.stream.ticks import market
from volcast.v1 import FeatureRow, MissingReason

SOUND = Tick("BTC-USD", 1_000_000_000, 5, 3, 100.0, 99.0, 101.0, 1.0, 2.0)


DAMAGED = st.sampled_from([b"", b"{", b"null", b'{"type":"tick"}', encode(msgspec.structs.replace(SOUND, bid=102.0))])


@settings(max_examples=60)
@given(st.data())
def test_however_messages_are_cut_into_batches_what_comes_out_is_the_same(data: st.DataObject) -> None:
    values: list[Any] = list(data.draw(markets()))
    for damaged in data.draw(st.lists(DAMAGED, max_size=4)):
        values.insert(data.draw(st.integers(0, len(values))), damaged)
    messages = messages_of(values)
    at_once = outcome(Bench([messages]).run())
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    assert outcome(Bench(cut(messages, sizes)).run()) == at_once


@pytest.mark.parametrize("schema", [CORE_1, FULL_1], ids=lambda schema: schema.name)
def test_features_are_those_of_the_offline_path_bit_for_bit(schema: FeatureSchema) -> None:
    ticks = market(4000, rate_per_s=2)
    bench = Bench(cut(messages_of(ticks), [1, 7, 300]), schema=schema).run()
    offline = compute_features(ticks, schema).rows
    rows = {(row.product_id, row.sequence_num): row for row in bench.delivery.features()}
    assert len(rows) == len(offline) == 4000
    assert offline.warm.sum() > 1000
    for number, product in enumerate(offline.product_ids):
        row = rows[product, int(offline.sequence_num[number])]
        assert np.array(row.values).tobytes() == offline.values[number].tobytes()
        assert (row.warm, row.schema_hash) == (offline.warm[number], schema.hash)
        assert (row.event_time_ns, row.ingest_time_ns) == (
            offline.event_time_ns[number],
            offline.ingest_time_ns[number],
        )


def test_each_warm_row_has_the_prediction_of_its_own_values_and_no_other_row_has_one() -> None:
    bench = Bench(cut(messages_of(market(1500)), [13])).run()
    warm = {(row.product_id, row.sequence_num): row for row in bench.delivery.features() if row.warm}
    predictions = bench.delivery.predictions()
    assert bench.worker.totals.predictions == len(predictions) == len(warm) > 500
    assert bench.worker.totals.not_warm == 1500 - len(warm)
    for one in predictions:
        row = warm.pop((one.product_id, one.sequence_num))
        assert one.probability == answer(np.array([row.values]))[0]
        assert (one.event_time_ns, one.model_name, one.model_version) == (row.event_time_ns, "fake", "7")
        assert (one.threshold, one.missing_reason) == (0.5, MissingReason.MISSING_REASON_UNSPECIFIED)
        assert one.latency_ns > 0
    assert not warm
    assert bench.worker.stages.total.count == len(predictions)


@pytest.mark.parametrize(("schema", "model"), [(CORE_1, ""), (CORE_1, "other"), (FULL_1, "volatility-full")])
def test_rows_of_the_schema_are_asked_of_the_model(schema: FeatureSchema, model: str) -> None:
    bench = Bench([messages_of(market(4000, rate_per_s=2))], schema=schema, model=model).run()
    warm = {(row.product_id, row.sequence_num): row for row in bench.delivery.features() if row.warm}
    predictions = {(one.product_id, one.sequence_num): one.probability for one in bench.delivery.predictions()}
    assert predictions == {key: answer(np.array([row.values]))[0] for key, row in warm.items()} != {}


def test_latencies_are_kept_by_stage() -> None:
    bench = Bench([messages_of(market(1000))]).run()
    stages = bench.worker.stages
    counts = {one.count for one in (stages.transport, stages.features, stages.predict, stages.total)}
    assert counts == {bench.worker.totals.predictions} != {0}
    assert set(bench.worker.stats()["latency_ms"]) == {"transport", "features", "predict", "total"}


def tick_json(**changed: object) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(SOUND), **changed})


@pytest.mark.parametrize(
    ("raw", "reason", "detail"),
    [
        (None, "not_json", "truncated"),
        (b"", "not_json", "truncated"),
        (b"{", "not_json", "truncated"),
        (b"tick", "not_json", "malformed"),
        (b"\xff\xfe", "not_json", "malformed"),
        (tick_json().replace(b"100.0", b"NaN"), "not_json", "malformed"),
        (tick_json().replace(b"BTC", b"B\xff"), "not_json", "utf-8"),
        (b'{"a":' + b"[" * 140_000, "not_json", "while deserializing an object|truncated"),  # Python 3.14 nests deeper
        (b"[]", "wrong_shape", "Expected `object`"),
        (b'{"type":"trade"}', "wrong_shape", "Invalid value 'trade' - at `$.type`"),
        (b'{"type":"tick"}', "wrong_shape", "missing required field `product_id`"),
        (tick_json(price="100"), "wrong_shape", "$.price"),
        (tick_json(price=None), "wrong_shape", "$.price"),
        (tick_json().replace(b"100.0", b"1e999"), "wrong_shape", "$.price"),
        (tick_json(event_time_ns=10**30), "wrong_shape", "$.event_time_ns"),
        (tick_json(event_time_ns=2**63), "wrong_shape", "$.event_time_ns"),
        (tick_json(event_time_ns=-1), "wrong_shape", "$.event_time_ns"),
        (tick_json(sequence_num=-1), "wrong_shape", "$.sequence_num"),
        (tick_json(ingest_time_ns=2**64), "wrong_shape", "$.ingest_time_ns"),
        (tick_json(product_id=""), "wrong_shape", "$.product_id"),
        (tick_json(product_id="X" * 101), "wrong_shape", "$.product_id"),
        (tick_json(price=0.0), "not_positive", "price: expected a positive number, got 0.0"),
        (tick_json(price=-1), "not_positive", "price: expected a positive number, got -1.0"),
        (tick_json(bid=-2.5), "not_positive", "bid: expected a positive number, got -2.5"),
        (tick_json(ask=0), "not_positive", "ask: "),
        (tick_json(bid_quantity=-1e-9), "not_positive", "bid_quantity: "),
        (tick_json(ask_quantity=-1), "not_positive", "ask_quantity: "),
        (tick_json(bid=101.5), "crossed_quote", "bid: expected at most the ask 101.0, got 101.5"),
    ],
)
def test_what_is_no_tick_is_kept_with_reason_and_source_and_the_rest_goes_on(
    raw: bytes | None, reason: DeadReason, detail: str
) -> None:
    before, after = messages_of([SOUND, msgspec.structs.replace(SOUND, event_time_ns=2 * 10**9)])
    bad = FakeMessage(raw, 41)
    bench = Bench([[before, bad, FakeMessage(after.raw, 42)]]).run()
    (letter,) = map(decode_dead, bench.delivery.values(TOPICS.dead))
    assert (letter.reason, letter.source) == (reason, "ticks.raw[0]@41")
    assert any(part in letter.detail for part in detail.split("|"))
    assert letter == DeadLetter.of(cast(DeadReason, letter.reason), letter.detail, letter.source, raw or b"")
    assert bench.worker.totals.records.dead == {reason: 1}
    assert bench.worker.totals.features == 2
    assert bench.delivery.offsets[0] == 43


def test_zero_quantities_and_a_locked_quote_are_sound() -> None:
    sound = [
        msgspec.structs.replace(SOUND, bid_quantity=0.0, ask_quantity=0.0),
        msgspec.structs.replace(SOUND, bid=101.0, event_time_ns=2 * 10**9),
    ]
    assert Bench([messages_of(sound)]).run().worker.totals.features == 2


def test_of_a_message_too_large_for_kafka_the_beginning_is_kept() -> None:
    bench = Bench([[FakeMessage(b"\x01" * 900_000, 7)]]).run()
    (raw,) = bench.delivery.values(TOPICS.dead)
    assert len(raw) < 1_000_000
    assert "(the first 150000 of 900000 characters are kept)" in decode_dead(raw).detail


def test_late_and_repeated_ticks_are_kept_with_reason_and_source() -> None:
    later = msgspec.structs.replace(SOUND, event_time_ns=2 * 10**9)
    bench = Bench([messages_of([later, SOUND, later])]).run()
    late = [decode_late(value) for value in bench.delivery.values(TOPICS.late)]
    assert late == [
        LateTick("time_jumped_back", "ticks.raw[0]@1", SOUND),
        LateTick("repeated", "ticks.raw[0]@2", later),
    ]
    assert bench.worker.totals.records.late == {"time_jumped_back": 1, "repeated": 1}
    assert bench.worker.totals.features == 1


def test_gaps_are_counted_and_start_windows_anew() -> None:
    ticks = market(1000)
    gap = Gap("BTC-USD", ticks[800].event_time_ns, 0, "sequence", 3)
    bench = Bench([messages_of([*ticks[:800], gap, *ticks[800:]])]).run()
    assert bench.worker.totals.records.gaps == {"sequence": 1}
    after = [row for row in bench.delivery.features() if row.sequence_num >= 800]
    assert not any(row.warm for row in after if row.product_id == "BTC-USD")
    assert all(row.warm for row in after if row.product_id == "ETH-USD")


def test_every_record_is_accounted_for() -> None:
    values: list[Any] = [*market(50), b"{", Gap("BTC-USD", 1, 1, "reconnect", 0), SOUND, SOUND]
    stats = Bench([messages_of(values)]).run().worker.stats()
    assert stats["consumed"] == len(values)
    assert stats["features"] + stats["late"] + stats["dead"] + stats["gaps"] == len(values)


def test_two_venues_may_use_one_product_name() -> None:
    here = market(1000)
    there = [msgspec.structs.replace(tick, venue="binance", price=tick.price * 2) for tick in here]
    both = [tick for pair in zip(here, there, strict=True) for tick in pair]
    bench = Bench([messages_of(both)]).run()
    assert set(bench.delivery.sent[TOPICS.features]) == {
        f"{venue}:{product}".encode() for venue in ("coinbase", "binance") for product in ("BTC-USD", "ETH-USD")
    }
    alone = Bench([messages_of(here)]).run()
    for product in ("BTC-USD", "ETH-USD"):
        key = f"coinbase:{product}".encode()
        rows = [
            [
                np.array(FeatureRow.FromString(value).values).tobytes()
                for value in one.delivery.sent[TOPICS.features][key]
            ]
            for one in (bench, alone)
        ]
        assert rows[0] == rows[1]


def test_products_are_reported_until_the_whole_trailing_hour_is_known() -> None:
    ticks = [
        msgspec.structs.replace(
            SOUND, product_id=product, event_time_ns=at_s * 10**9, ingest_time_ns=at_s * 10**9, sequence_num=at_s
        )
        for at_s in range(5, 3700, 5)
        for product in ("BTC-USD", "ETH-USD")
        if product == "BTC-USD" or at_s > 1800
    ]
    bench = Bench(schema=FULL_2)
    assert bench.worker.stats()["trailing_known_s"] == {}
    messages = messages_of(ticks)
    bench.feed(messages[:120])
    assert bench.worker.stats()["trailing_known_s"] == {"BTC-USD": 590.0}
    bench.feed(messages[120:])
    assert bench.worker.stats()["trailing_known_s"] == {"ETH-USD": 1885.0}
    bench.revoke(0)
    assert bench.worker.stats()["trailing_known_s"] == {}


def test_schemas_without_the_trailing_hour_report_no_product() -> None:
    assert Bench([messages_of(market(100))]).run().worker.stats()["trailing_known_s"] == {}
