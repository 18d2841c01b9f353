"""full/2 against its oracle and full/1, and against itself however its input is cut or begun."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.schema import FULL_1, FULL_2
from pipeline.features.columns import TickColumns
from pipeline.features.engine import FeatureEngine, longest_ns, reach_ns
from pipeline.records import Gap, Record, Tick
from tests.pipeline.features import trailing_oracle
from tests.pipeline.features.computing import columns, compute
from tests.pipeline.features.markets import SECOND_NS, markets, walk
from tests.pipeline.features.test_full import as_records, restless, tick

COLUMN = {name: index for index, name in enumerate(FULL_2.names)}
SIGNED = trailing_oracle.NAMES.index("reference_error_mean")


def assert_agrees_at(ticks: TickColumns, rows: list[int]) -> None:
    got = compute(ticks, schema=FULL_2).values[:, len(FULL_1) :]
    records = as_records(ticks)
    for row in rows:
        want = trailing_oracle.last_row(records[: row + 1])
        np.testing.assert_allclose(got[row], want, rtol=1e-9, atol=1e-12, err_msg=str(trailing_oracle.NAMES))


def shifted(ticks: TickColumns, silences_s: dict[int, float]) -> TickColumns:
    """The ticks with silences before some of them."""
    shift = np.zeros(len(ticks), np.int64)
    for row, silence_s in silences_s.items():
        shift[row] = round(silence_s * SECOND_NS)
    return dataclasses.replace(ticks, event_time_ns=ticks.event_time_ns + np.cumsum(shift))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rows_of_a_restless_market_agree_with_brute_force(seed: int) -> None:
    ticks = restless(3000, 0.5, seed)
    rows = [*range(200), *np.random.default_rng(seed).integers(200, 3000, 20).tolist(), 2999]
    assert_agrees_at(ticks, rows)


@pytest.mark.parametrize("silence_s", [7255, 7260, 7265, 20_000])
def test_rows_after_hours_of_silence_agree_with_brute_force(silence_s: float) -> None:
    ticks = shifted(walk(600, 0.5, 3), {300: silence_s})
    assert_agrees_at(ticks, [299, 300, 301, 310, 400, 599])


def test_a_tick_at_a_point_of_the_grid_counts_for_the_point_and_the_last_of_several_does() -> None:
    records = [tick(0), tick(5, 101.0), tick(5, 103.0), tick(10, 102.0), tick(10.001, 99.0)]
    # START_NS lies 3 s after a point, so the points are at 2, 7, … s.
    moved = columns([later(record, 2) for record in records])
    row = compute(moved, schema=FULL_2).values[-1]
    assert row[COLUMN["grid_max_abs_return"]] == pytest.approx(np.log(103.5 / 100.5))
    assert row[COLUMN["trailing_known_s"]] == 10.0


def later(record: Tick, by_s: float) -> Tick:
    return msgspec.structs.replace(record, event_time_ns=record.event_time_ns + round(by_s * SECOND_NS))


@given(markets(), st.data())
@settings(max_examples=20)
def test_any_cut_gives_the_same_bits_and_the_first_columns_are_those_of_full_1(
    records: list[Record], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=20))
    whole, cut = compute(columns(records), schema=FULL_2), compute(columns(records), cuts, FULL_2)
    assert cut.values.tobytes() == whole.values.tobytes()
    full = compute(columns(records), schema=FULL_1)
    assert whole.values[:, : len(FULL_1)].tobytes() == full.values.tobytes()
    assert whole.warm.tolist() == full.warm.tolist()
    assert np.isfinite(whole.values[whole.warm]).all()


@given(st.integers(0, 2**32 - 1), st.integers(2000, 3999))
@settings(max_examples=15)
def test_an_engine_that_begins_as_far_back_as_rows_reach_gives_the_same_bits(seed: int, resume: int) -> None:
    ticks = restless(4000, 0.4, seed)
    ticks.event_time_ns[:] += seed % (5 * SECOND_NS)
    whole = compute(ticks, schema=FULL_2)
    edge_ns = ticks.event_time_ns[resume] - reach_ns(FULL_2)
    first = max(0, int(np.searchsorted(ticks.event_time_ns, edge_ns, "right")) - 1)
    restarted = compute(ticks.part(first, len(ticks)), schema=FULL_2)
    assert restarted.values[resume - first :].tobytes() == whole.values[resume:].tobytes()


def test_rows_reach_back_no_less() -> None:
    """A move that is just within reach shows in a row; a move before does not."""
    records = [tick(0), *(tick(at, 100 + 3 * (at % 2)) for at in range(1, 7300))]
    whole, edge = compute(columns(records), schema=FULL_2).values[-1], reach_ns(FULL_2) // SECOND_NS
    enough = compute(columns(records[len(records) - 1 - edge :]), schema=FULL_2).values[-1]
    short = compute(columns(records[len(records) - 1 - edge + 60 :]), schema=FULL_2).values[-1]
    assert enough.tobytes() == whole.tobytes()
    assert short.tobytes() != whole.tobytes()


def test_rows_are_warm_as_early_as_those_of_full_1_and_say_how_much_they_know() -> None:
    assert longest_ns(FULL_2) == longest_ns(FULL_1)
    batch = compute(columns([tick(at) for at in range(5000)]), schema=FULL_2)
    assert int(np.argmax(batch.warm)) == 300
    known_s = batch.values[:, COLUMN["trailing_known_s"]]
    assert known_s[300] == 295.0
    assert known_s.max() == known_s[-1] == 3600.0


def test_a_market_that_stands_still_is_known_as_such_and_every_feature_stays_bounded() -> None:
    batch = compute(columns([tick(at) for at in range(0, 8000, 2)]), schema=FULL_2)
    last = batch.values[-1]
    assert last[COLUMN["still_share"]] == pytest.approx((720 + 3) / 780)
    assert last[COLUMN["grid_volatility_60s"]] > 0.0
    wild = [tick(at, 100.0 * 2.0 ** (20 * (at % 2))) for at in range(0, 8000, 2)]
    values = compute(columns(wild), schema=FULL_2).values[-1]
    assert abs(values[COLUMN["reference_error_mean"]]) <= 3.0
    assert values[COLUMN["reference_error_size"]] <= 3.0


def test_a_gap_begins_the_hour_anew() -> None:
    before = [tick(at, 100 + at % 7) for at in range(4000)]
    after = [tick(at, 100 + at % 5) for at in range(4000, 4400)]
    batch = compute(columns([*before, Gap("BTC-USD", after[0].event_time_ns, 0, "sequence", 3), *after]), schema=FULL_2)
    fresh = compute(columns(list(after)), schema=FULL_2)
    assert batch.values[4001:].tobytes() == fresh.values.tobytes()


def test_a_full_2_engine_takes_the_memory_it_states() -> None:
    engine = FeatureEngine(FULL_2)
    engine.update(walk(2000, 1.0, 1))
    full = FeatureEngine(FULL_1)
    full.update(walk(2000, 1.0, 1))
    assert len(engine.state(0)) - len(full.state(0)) == 8 * (2 + 12 + 4 * 720)
