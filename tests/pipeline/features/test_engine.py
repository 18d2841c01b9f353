"""The engine against the oracle, and against itself however its input is cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.schema import CORE_1
from pipeline.archive import read_archive
from pipeline.datasets import coinbase_ticker_2025, coinbase_ticker_2026
from pipeline.features.columns import TickColumns
from pipeline.features.engine import FIRST_RING_TICKS, FeatureBatch, FeatureEngine, Status
from pipeline.records import Gap, Record, Tick
from tests.pipeline.features import oracle
from tests.pipeline.features.computing import columns, compute
from tests.pipeline.features.markets import SECOND_NS, START_NS, markets, walk

COLUMN = {name: index for index, name in enumerate(CORE_1.names)}


def assert_same_bits(first: FeatureBatch, second: FeatureBatch) -> None:
    assert first.status.tolist() == second.status.tolist()
    assert first.warm.tolist() == second.warm.tolist()
    assert first.values.tobytes() == second.values.tobytes()


def assert_agrees(batch: FeatureBatch, rows: list[oracle.Row]) -> None:
    """Every feature of every row: the same bits, but for the log's last digit, which is the platform's."""
    assert [Status(status).name for status in batch.status] == [row.status for row in rows]
    assert batch.warm.tolist() == [row.warm for row in rows]
    used = batch.status == Status.OK
    want = np.array([row.values for row in rows if row.status == "OK"]).reshape(-1, len(CORE_1))
    np.testing.assert_allclose(batch.values[used], want, rtol=1e-15, atol=0, equal_nan=True)


def tick(at_s: float, bid: float = 100.0, ask: float = 101.0, sequence: int = 0, product: str = "BTC-USD") -> Tick:
    return Tick(product, START_NS + round(at_s * SECOND_NS), 0, sequence, bid, bid, ask, 1.0, 3.0)


@given(markets())
@settings(max_examples=100, deadline=None)
def test_every_prefix_of_generated_ticks_agrees_with_brute_force(records: list[Record]) -> None:
    # Row i is as of record i, so comparing all rows compares every prefix; that a prefix alone gives the
    # same rows is the batching test below.
    assert_agrees(compute(columns(records)), oracle.features(records))


@pytest.mark.parametrize("files", [coinbase_ticker_2026, coinbase_ticker_2025])
def test_every_prefix_of_a_real_stretch_agrees_with_brute_force(files: Callable[[], list[Path]]) -> None:
    paths = files()[:8]
    if not paths:
        pytest.skip("the Coinbase recordings are not on this machine (VOLCAST_DATA_DIR or ../shared/data)")
    records = [one for one in read_archive(paths) if isinstance(one, Tick | Gap)][:2500]
    batch = compute(columns(records))
    assert batch.warm.sum() > 1000
    assert_agrees(batch, oracle.features(records))


@given(markets(), st.data())
@settings(max_examples=100, deadline=None)
def test_any_cut_into_batches_gives_the_same_bits(records: list[Record], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=20))
    ticks = columns(records)
    assert_same_bits(compute(ticks, cuts), compute(ticks))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_long_mixed_market_gives_the_same_bits_in_batches(size: int) -> None:
    ticks = walk(20_000, ticks_per_s=100, seed=3, products=12)
    assert_same_bits(compute(ticks, list(range(0, len(ticks), size))), compute(ticks))


@given(st.integers(0, 2**32 - 1), st.integers(0, 4_000))
@settings(max_examples=30, deadline=None)
def test_a_restart_that_replays_the_last_window_gives_the_same_bits(seed: int, stop: int) -> None:
    ticks = walk(6_000, ticks_per_s=30, seed=seed)
    whole = compute(ticks)
    resume = stop + 1
    replay_from = int(np.searchsorted(ticks.event_time_ns, ticks.event_time_ns[resume] - 60 * SECOND_NS, "right")) - 1
    if replay_from < 0:
        replay_from = 0
    restarted = compute(ticks.part(replay_from, len(ticks)))
    assert restarted.values[resume - replay_from :].tobytes() == whole.values[resume:].tobytes()
    assert restarted.warm[resume - replay_from :].tolist() == whole.warm[resume:].tolist()


@example(offset_ns=0)
@example(offset_ns=-1)
@given(offset_ns=st.integers(-2 * SECOND_NS, 2 * SECOND_NS))
@settings(deadline=None)
def test_a_feature_is_warm_once_its_window_fits_the_unbroken_history(offset_ns: int) -> None:
    for window_s, name in [(1, "return_1s"), (5, "return_5s"), (30, "return_30s"), (60, "return_60s")]:
        later = tick(window_s + offset_ns / SECOND_NS, bid=102.0) if window_s * SECOND_NS + offset_ns >= 0 else None
        if later is None:
            continue
        batch = compute(columns([tick(0), later]))
        assert math.isnan(batch.values[1, COLUMN[name]]) == (offset_ns < 0)


def test_a_row_is_warm_after_sixty_seconds_and_not_a_nanosecond_before() -> None:
    first = tick(0)
    almost = Tick("BTC-USD", START_NS + 60 * SECOND_NS - 1, 0, 1, 100.0, 100.0, 101.0, 1.0, 1.0)
    full = Tick("BTC-USD", START_NS + 60 * SECOND_NS, 0, 2, 100.0, 100.0, 101.0, 1.0, 1.0)
    batch = compute(columns([first, almost, full]))
    assert batch.warm.tolist() == [False, False, True]
    windowed = [COLUMN[name] for name in ("return_60s", "volatility", "trade_intensity")]
    assert np.isnan(batch.values[1, windowed]).all()
    assert not np.isnan(batch.values[2]).any()
    always = [COLUMN[n] for n in ("price", "midprice", "spread_abs", "spread_rel", "order_book_imbalance")]
    assert not np.isnan(batch.values[0, always]).any()


def test_the_values_after_a_gap_are_those_of_a_new_start() -> None:
    before = [tick(at, bid=100 + at % 7, sequence=at) for at in range(100)]
    after = [tick(at, bid=100 + at % 5, sequence=at) for at in range(100, 300)]
    gap = Gap("BTC-USD", after[0].event_time_ns, 0, "sequence", 3)
    batch, fresh = compute(columns([*before, gap, *after])), compute(columns(after))
    assert batch.status[100] == Status.GAP
    assert batch.values[101:].tobytes() == fresh.values.tobytes()
    assert batch.warm[101:].tolist() == fresh.warm.tolist()
    assert not batch.warm[101:161].any()


def test_a_gap_of_one_product_leaves_the_others_alone() -> None:
    ether = [tick(at, bid=50 + at % 3, sequence=at, product="ETH-USD") for at in range(90)]
    mixed: list[Record] = []
    for one in ether:
        mixed += [
            tick(one.sequence_num, sequence=one.sequence_num),
            Gap("BTC-USD", one.event_time_ns, 0, "sequence", 1),
        ]
        mixed.append(one)
    batch, alone = compute(columns(mixed)), compute(columns(ether))
    assert batch.values[2::3].tobytes() == alone.values.tobytes()


def test_a_tick_from_before_the_last_one_is_not_used() -> None:
    history = [tick(at, sequence=at) for at in range(70)]
    late = tick(68.5, bid=1.0, sequence=70)
    batch = compute(columns([*history, late, tick(70, sequence=71)]))
    assert batch.status[70] == Status.JUMPED_BACK
    without = compute(columns([*history, tick(70, sequence=71)]))
    assert batch.values[71].tobytes() == without.values[70].tobytes()


def test_a_tick_older_than_what_came_before_a_gap_is_a_new_start() -> None:
    batch = compute(columns([tick(50), Gap("BTC-USD", START_NS, 0, "reconnect", 0), tick(0)]))
    assert batch.status[2] == Status.OK


@pytest.mark.parametrize("field", ["sequence_num", "price", "bid", "ask", "bid_quantity", "ask_quantity"])
def test_a_tick_is_repeated_only_where_all_its_values_are(field: str) -> None:
    names = ("event_time_ns", "ingest_time_ns", "sequence_num", "price", "bid", "ask", "bid_quantity", "ask_quantity")
    first: dict[str, Any] = dict(zip(names, (START_NS, 0, 7, 100.0, 100.0, 101.0, 1.0, 3.0), strict=True))
    other = first | {field: first[field] * 1.001 if field != "sequence_num" else 8}
    batch = compute(columns([Tick("BTC-USD", **first), Tick("BTC-USD", **first), Tick("BTC-USD", **other)]))
    assert batch.status.tolist() == [Status.OK, Status.REPEATED, Status.OK]


def test_ticks_of_equal_time_see_those_before_them_and_not_those_after() -> None:
    batch = compute(columns([tick(0, bid=100), tick(60, bid=101), tick(60, bid=102), tick(60, bid=103)]))
    assert (batch.values[1:, COLUMN["trade_intensity"]] * 60).tolist() == [1, 2, 3]
    assert (np.diff(batch.values[1:, COLUMN["volatility"]]) > 0).all()


def test_the_reference_is_the_last_of_the_ticks_at_the_windows_edge() -> None:
    batch = compute(columns([tick(0, bid=100), tick(0, bid=110, ask=111), tick(1, bid=120, ask=121)]))
    assert batch.values[2, COLUMN["return_1s"]] == pytest.approx(math.log(120.5 / 110.5), rel=1e-15)


def test_a_move_far_smaller_than_the_price_keeps_its_digits() -> None:
    # A step of 2^-40 on a mid of 1: log of the quotient would keep 13 of 53 bits.
    step = 2.0**-40
    batch = compute(columns([tick(0, 1.0, 1.0), tick(60, 1.0 + step, 1.0 + step)]))
    assert batch.values[1, COLUMN["return_60s"]] == pytest.approx(step - step * step / 2, rel=1e-15)


def test_returns_up_and_down_are_exact_opposites() -> None:
    up = compute(columns([tick(0, 100, 100), tick(60, 101, 101)])).values[1, COLUMN["return_60s"]]
    down = compute(columns([tick(0, 101, 101), tick(60, 100, 100)])).values[1, COLUMN["return_60s"]]
    assert up == -down > 0


def test_no_quantity_on_either_side_is_no_imbalance() -> None:
    empty = Tick("BTC-USD", START_NS, 0, 0, 100.0, 100.0, 101.0, 0.0, 0.0)
    assert compute(columns([empty])).values[0, COLUMN["order_book_imbalance"]] == 0.0


def test_a_ring_that_overflows_again_and_again_loses_nothing() -> None:
    ticks = walk(40 * FIRST_RING_TICKS, ticks_per_s=400, seed=5, products=2)
    batch = compute(ticks)
    assert not batch.warm.any()  # all of it within a minute, so all of it is kept
    later = walk(1, 1, seed=6)
    engine = FeatureEngine()
    engine.update(ticks)
    at_ns = int(ticks.event_time_ns[0]) + 60 * SECOND_NS
    mine = np.flatnonzero(ticks.product == 0)
    at_ns = int(ticks.event_time_ns[mine[0]]) + 60 * SECOND_NS
    last = TickColumns(
        *(later.product, later.kind, np.array([at_ns]), later.sequence_num, later.price, later.bid, later.ask),
        *(later.bid_quantity, later.ask_quantity, np.array([at_ns])),
    )
    values = engine.update(last).values[0]
    mids = np.append(ticks.bid[mine] + 0.5 * (ticks.ask[mine] - ticks.bid[mine]), values[COLUMN["midprice"]])
    squares = [oracle.log_return(b, a) * oracle.log_return(b, a) for a, b in pairwise(mids.tolist())]
    assert values[COLUMN["volatility"]] == math.sqrt(math.fsum(squares))
    assert values[COLUMN["trade_intensity"]] == len(mine) / 60


def test_state_stops_growing_once_a_window_is_full() -> None:
    ticks = walk(60_000, ticks_per_s=100, seed=7)
    engine = FeatureEngine()
    engine.update(ticks.part(0, 12_000))
    held = engine.memory_bytes
    engine.update(ticks.part(12_000, 60_000))
    assert engine.memory_bytes == held < 2**20


def test_many_products_take_no_more_than_their_rings_need() -> None:
    ticks = walk(20_000, ticks_per_s=100, seed=8, products=500)
    engine = FeatureEngine()
    engine.update(ticks)
    assert engine.memory_bytes < 4 * 500 * FIRST_RING_TICKS * 24


def test_input_is_not_written_to() -> None:
    ticks = walk(1_000, ticks_per_s=10, seed=9)
    for name in TickColumns.__slots__:
        getattr(ticks, name).flags.writeable = False
    assert len(compute(ticks).values) == 1_000


def test_no_records_are_no_rows() -> None:
    batch = FeatureEngine().update(columns([]))
    assert batch.values.shape == (0, 11)
    assert batch.status.shape == batch.warm.shape == (0,)


def test_a_negative_product_code_is_refused() -> None:
    ticks = walk(3, 1, seed=1)
    ticks.product[1] = -1
    with pytest.raises(ValueError, match="product code -1"):
        FeatureEngine().update(ticks)


def test_engines_do_not_share_state() -> None:
    ticks = walk(3_000, ticks_per_s=10, seed=10)
    first, second = FeatureEngine(), FeatureEngine()
    once = first.update(ticks)
    assert_same_bits(second.update(ticks), once)


@pytest.mark.parametrize("window_s", [1, 5, 30, 60])
def test_a_window_excludes_a_tick_exactly_as_old_as_the_window(window_s: int) -> None:
    """Windows are (t - w, t]: the tick at t - w is the reference of the return."""
    at_s = 100 + window_s
    ticks = [tick(0, 90, 92), tick(100, 100, 102, 1), tick(at_s, 110, 112, 2)]
    batch = compute(columns([*ticks, tick(at_s + 1e-9, 120, 122, 3)]))
    assert batch.values[2, COLUMN[f"return_{window_s}s"]] == pytest.approx(math.log(111 / 101), rel=1e-14)
    assert batch.values[3, COLUMN[f"return_{window_s}s"]] == pytest.approx(math.log(121 / 101), rel=1e-14)


def test_the_intensity_counts_a_tick_until_it_is_sixty_seconds_old() -> None:
    just_inside = [tick(0), tick(100, sequence=1), tick(160 - 1e-9, sequence=2)]
    assert compute(columns(just_inside)).values[2, COLUMN["trade_intensity"]] == 2 / 60
    exactly = [tick(0), tick(100, sequence=1), tick(160, sequence=2)]
    assert compute(columns(exactly)).values[2, COLUMN["trade_intensity"]] == 1 / 60
