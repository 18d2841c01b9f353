"""A product's state as bytes: an engine that takes it goes on with the same bits."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from pipeline.features import kernels
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FIRST_RING_TICKS, FeatureEngine
from pipeline.records import Gap, Record, Tick
from tests.pipeline.features.markets import SECOND_NS, START_NS, markets, walk
from tests.pipeline.features.test_full import restless

BOTH = pytest.mark.parametrize("schema", [CORE_1, FULL_1, FULL_2], ids=lambda schema: schema.name)


def moved(engine: FeatureEngine, products: int) -> FeatureEngine:
    other = FeatureEngine(engine.schema)
    for product in reversed(range(products)):
        other.restore(product, engine.state(product))
    return other


def assert_goes_on_alike(schema: FeatureSchema, ticks: TickColumns, cut: int, products: int) -> None:
    engine = FeatureEngine(schema)
    engine.update(ticks.part(0, cut))
    other = moved(engine, products)
    assert [other.state(p) for p in range(products)] == [engine.state(p) for p in range(products)]
    want, got = engine.update(ticks.part(cut, len(ticks))), other.update(ticks.part(cut, len(ticks)))
    assert got.values.tobytes() == want.values.tobytes()
    assert got.status.tolist() == want.status.tolist()
    assert got.warm.tolist() == want.warm.tolist()


@BOTH
@given(markets(), st.data())
@settings(max_examples=40)
def test_a_restored_engine_goes_on_with_the_same_bits(
    schema: FeatureSchema, records: list[Record], data: st.DataObject
) -> None:
    codes = ProductCodes()
    ticks = TickColumns.from_records(records, codes)
    assert_goes_on_alike(schema, ticks, data.draw(st.integers(0, len(records))), len(codes))


@BOTH
@pytest.mark.parametrize("cut", [1, 256, 257, 5_000, 15_000])
def test_a_restored_engine_of_a_busy_and_restless_market_goes_on_with_the_same_bits(
    schema: FeatureSchema, cut: int
) -> None:
    assert_goes_on_alike(schema, walk(20_000, ticks_per_s=300, seed=1, products=3), cut, 3)
    assert_goes_on_alike(schema, restless(20_000, 20.0, seed=2), cut, 1)


def test_the_bytes_depend_on_the_window_and_not_on_the_rings_or_the_length_of_the_history() -> None:
    ticks = restless(8_000, 20.0, seed=3)
    engine, late = FeatureEngine(), FeatureEngine()
    engine.update(walk(4 * FIRST_RING_TICKS, ticks_per_s=1000, seed=4))
    engine.update(TickColumns.from_records([Gap("", int(ticks.event_time_ns[0]), 0, "clock", 1)], ProductCodes()))
    engine.update(ticks)
    first = int(np.searchsorted(ticks.event_time_ns, ticks.event_time_ns[-1] - 2 * engine.longest_ns))
    late.update(ticks.part(first, len(ticks)))
    assert first > 0
    # All but the start of the history, which says no more than that the row is warm.
    header = 10 + len(f"{CORE_1.name} {CORE_1.hash}")
    start, stop = header + 8 * kernels.START_NS, header + 8 * kernels.START_NS + 8
    mine, other = engine.state(0), late.state(0)
    assert mine[:start] + mine[stop:] == other[:start] + other[stop:]


@BOTH
def test_restoring_replaces_what_the_product_had_and_leaves_other_products_alone(schema: FeatureSchema) -> None:
    ticks = walk(9_000, ticks_per_s=100, seed=5, products=2)
    engine, other = FeatureEngine(schema), FeatureEngine(schema)
    engine.update(ticks.part(0, 6_000))
    other.update(walk(2_000, ticks_per_s=500, seed=6, products=2))
    kept = other.state(1)
    other.restore(0, engine.state(0))
    assert other.state(0) == engine.state(0)
    assert other.state(1) == kept


@BOTH
def test_no_history_is_no_bytes_and_restoring_none_begins_anew(schema: FeatureSchema) -> None:
    engine = FeatureEngine(schema)
    assert engine.state(0) == engine.state(-1) == engine.state(10**6) == b""
    engine.update(walk(10, 1, seed=7))
    engine.restore(0, b"")
    assert engine.state(0) == b""
    assert engine.update(walk(10, 1, seed=8)).values.tobytes() == (
        FeatureEngine(schema).update(walk(10, 1, seed=8)).values.tobytes()
    )


def test_the_state_of_a_minute_takes_24_bytes_a_tick_and_that_of_five_56() -> None:
    for schema, each, window_s in ((CORE_1, 24, 60), (FULL_1, 56, 300)):
        engine = FeatureEngine(schema)
        ticks = walk(20_000, ticks_per_s=50, seed=9)
        engine.update(ticks)
        inside = int((ticks.event_time_ns > ticks.event_time_ns[-1] - window_s * SECOND_NS).sum()) + 1
        fixed = len(engine.state(0)) - each * inside
        assert fixed == {"core/1": 173, "full/1": 4_717}[schema.name]


def test_what_is_no_state_of_this_engine_is_refused_and_changes_nothing() -> None:
    engine, full = FeatureEngine(), FeatureEngine(FULL_1)
    ticks = walk(100, 1, seed=10)
    engine.update(ticks)
    full.update(ticks)
    state = engine.state(0)
    newer = struct.pack("<H", 2) + state[2:]
    fewer = state[:2] + struct.pack("<I", 1) + state[6:]
    cases = {
        "format version 2": newer,
        "schema 'full/1": full.state(0),
        "expected at least 10": state[:9],
        f"state of {len(state) - 1} bytes": state[:-1],
        f"state of {len(state) + 1} bytes": state + b"\0",
        "bytes: expected": fewer,
    }
    for message, damaged in cases.items():
        with pytest.raises(ValueError, match=message):
            engine.restore(0, damaged)
    with pytest.raises(ValueError, match="product code -1"):
        engine.restore(-1, state)
    assert engine.state(0) == state


def test_a_late_or_repeated_first_tick_after_a_restore_is_judged_as_before() -> None:
    def tick(at_s: int) -> Tick:
        return Tick("BTC-USD", START_NS + at_s * SECOND_NS, 0, at_s, 100.0, 100.0, 101.0, 1.0, 2.0)

    ticks = TickColumns.from_records([tick(0), tick(100), tick(99), tick(100), tick(101)], ProductCodes())
    assert_goes_on_alike(CORE_1, ticks, 2, 1)
