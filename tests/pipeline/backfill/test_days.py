"""A day computed from its stretch has the bits of the stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from pipeline.backfill import days
from pipeline.backfill.days import DAY_NS, Stretch, stretches
from pipeline.features.columns import GAP, TICK, ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine, reach_ns
from pipeline.records import Gap, Record
from tests.pipeline.features.markets import SECOND_NS, markets, walk
from tests.pipeline.features.test_full import restless

BOTH = pytest.mark.parametrize("schema", [CORE_1, FULL_1, FULL_2], ids=lambda schema: schema.name)
MINUTE_NS = 60 * SECOND_NS


def found(kind: Sequence[int], seconds: Sequence[float], day: int = 20) -> list[tuple[int, int, int, int]]:
    """Stretches of times that are given in seconds after midnight of `day`; the day as counted from that one."""
    times = np.array([day * DAY_NS + round(at * SECOND_NS) for at in seconds])
    parts = stretches(np.array(kind, np.uint8), times, MINUTE_NS)
    return [(part.day - day, part.first, part.start, part.stop) for part in parts]


def assert_days_have_the_bits_of_the_stream(ticks: TickColumns, schema: FeatureSchema) -> list[Stretch]:
    whole = FeatureEngine(schema).update(ticks)
    parts = stretches(ticks.kind, ticks.event_time_ns, reach_ns(schema))
    done = 0
    for part in parts:
        assert part.start == done
        assert part.first <= part.start < part.stop
        batch = FeatureEngine(schema).update(ticks.part(part.first, part.stop))
        own = slice(part.start - part.first, None)
        assert batch.values[own].tobytes() == whole.values[part.start : part.stop].tobytes()
        assert batch.status[own].tolist() == whole.status[part.start : part.stop].tolist()
        assert batch.warm[own].tolist() == whole.warm[part.start : part.stop].tolist()
        done = part.stop
    assert done == (len(ticks) if (ticks.kind == TICK).any() else 0)
    return parts


@BOTH
@given(markets(), st.integers(1, 400))
@settings(max_examples=40)
def test_generated_ticks(schema: FeatureSchema, records: list[Record], day_s: int) -> None:
    mine = [one for one in records if one.product_id == records[0].product_id]
    ticks = TickColumns.from_records(mine, ProductCodes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(days, "DAY_NS", day_s * SECOND_NS)
        assert_days_have_the_bits_of_the_stream(ticks, schema)


@BOTH
@pytest.mark.parametrize(("rate", "seed"), [(0.01, 1), (0.5, 2), (20.0, 3)])
def test_a_restless_market_with_gaps_and_late_ticks(
    schema: FeatureSchema, rate: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(days, "DAY_NS", 400 * SECOND_NS)
    rng = np.random.default_rng(seed)
    ticks = restless(4_000, rate, seed)
    late = rng.integers(0, 100 * SECOND_NS, len(ticks)) * (rng.random(len(ticks)) < 0.1)
    kind = np.where(rng.random(len(ticks)) < 0.002, GAP, TICK).astype(np.uint8)
    ticks = dataclasses.replace(ticks, kind=kind, event_time_ns=ticks.event_time_ns - late)
    assert len(assert_days_have_the_bits_of_the_stream(ticks, schema)) > 5


def test_a_day_begins_with_its_first_nanosecond() -> None:
    assert found([TICK] * 2, [-1e-9, 0.0]) == [(-1, 0, 0, 1), (0, 0, 1, 2)]


def test_the_overlap_begins_with_the_last_tick_at_or_before_the_longest_window() -> None:
    before = [-61.0, -60.0, -60.0, -59.0]
    assert found([TICK] * 5, [*before, 0.0])[1] == (0, 2, 4, 5)
    assert found([TICK] * 5, [*before, 1e-9])[1] == (0, 2, 4, 5)
    assert found([TICK] * 5, [-61.0, -60.0 + 1e-9, -60.0 + 2e-9, -59.0, 0.0])[1] == (0, 0, 4, 5)


def test_a_quiet_product_needs_its_last_tick_however_old() -> None:
    assert found([TICK] * 3, [-400_000.0, -300_000.0, 0.0])[-1] == (0, 1, 2, 3)


def test_the_overlap_ends_at_a_gap() -> None:
    assert found([TICK, GAP, TICK, TICK], [-100, -30, -20, 0.0])[1] == (0, 2, 3, 4)
    assert found([TICK, GAP, TICK], [-100, -30, 0.0])[1] == (0, 1, 1, 3)
    assert found([TICK, TICK, GAP], [-100, -30, 0.0]) == [(-1, 0, 0, 3)]


def test_a_late_tick_stays_with_the_day_before_it_and_is_no_beginning() -> None:
    assert found([TICK] * 4, [-100, 0.0, -50, 1.0]) == [(-1, 0, 0, 1), (0, 0, 1, 4)]
    # The tick at -70 came late, so an engine that begins there would take it, and the one at -61 is refused.
    assert found([TICK] * 5, [-90, -61, -70, -65, 0.0])[1] == (0, 1, 4, 5)


def test_a_clock_that_jumps_back_gives_its_day_another_stretch() -> None:
    kinds = [TICK, TICK, GAP, TICK, TICK]
    assert found(kinds, [-10, 5, -9, -8, 6]) == [(-1, 0, 0, 1), (0, 0, 1, 2), (-1, 2, 2, 4), (0, 3, 4, 5)]


def test_gaps_alone_are_no_day() -> None:
    gaps = TickColumns.from_records([Gap("BTC-USD", DAY_NS, 0, "clock", 1)] * 2, ProductCodes())
    assert stretches(gaps.kind, gaps.event_time_ns, MINUTE_NS) == []
    assert stretches(gaps.kind[:0], gaps.event_time_ns[:0], MINUTE_NS) == []


def test_a_busy_day_reads_no_more_of_the_day_before_than_the_window() -> None:
    ticks = walk(20_000, ticks_per_s=10, seed=1)
    shift = DAY_NS - int(ticks.event_time_ns[10_000]) % DAY_NS
    ticks = dataclasses.replace(ticks, event_time_ns=ticks.event_time_ns + shift)
    second = stretches(ticks.kind, ticks.event_time_ns, MINUTE_NS)[1]
    assert 500 < second.start - second.first < 700
