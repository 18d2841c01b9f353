"""full/1 against its oracle and core/1, and against itself however its input is cut or begun."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cli.run.plan import FAST_FORWARD_S
from common.schema import CORE_1, FULL_1, SCHEMAS, FeatureSchema
from pipeline.archive import read_archive
from pipeline.datasets import coinbase_ticker_2025
from pipeline.features import full
from pipeline.features.columns import TickColumns
from pipeline.features.engine import FIRST_RING_TICKS, FeatureBatch, FeatureEngine, Status, longest_ns
from pipeline.records import Gap, Record, Tick
from tests.pipeline.features import full_oracle
from tests.pipeline.features.computing import columns, compute
from tests.pipeline.features.markets import SECOND_NS, START_NS, markets, walk

COLUMN = {name: index for index, name in enumerate(FULL_1.names)}
WINDOW_S = {
    "volatility_5s": 5, "volatility_15s": 15, "volatility_30s": 30, "volatility_120s": 120, "volatility_300s": 300,
    "ewma_volatility": 300, "bipower_volatility": 60, "max_abs_return": 60, "order_flow_imbalance": 60,
    "quote_intensity_5s": 5, "intensity_ratio": 60, "mean_spread_rel": 60, "mean_imbalance": 60, "mid_age_s": 300,
    "time_of_day_sin": 0, "time_of_day_cos": 0,
}  # fmt: skip


def of_full_1(ticks: TickColumns, cuts: Sequence[int] = ()) -> FeatureBatch:
    return compute(ticks, cuts, FULL_1)


def value(batch: FeatureBatch, name: str, row: int = -1) -> float:
    return float(batch.values[row, COLUMN[name]])


def tick(at_s: float, bid: float = 100.0, spread: float = 1.0, sizes: tuple[float, float] = (1.0, 3.0)) -> Tick:
    time_ns = START_NS + round(at_s * SECOND_NS)
    return Tick("BTC-USD", time_ns, 0, round(at_s * 1000), bid, bid, bid + spread, *sizes)


def restless(ticks: int, ticks_per_s: float, seed: int) -> TickColumns:
    """A walk with silences of up to ten minutes, spreads that change, and sides that are empty now and then."""
    rng = np.random.default_rng(seed)
    calm = walk(ticks, ticks_per_s, seed)
    silence = rng.choice([0, 0, 3, 70, 310, 600], ticks) * SECOND_NS * (rng.random(ticks) < 0.005)
    return dataclasses.replace(
        calm,
        event_time_ns=calm.event_time_ns + np.cumsum(silence),
        ask=calm.ask + 0.01 * rng.integers(0, 4, ticks),
        bid_quantity=calm.bid_quantity * (rng.random(ticks) < 0.9),
        ask_quantity=calm.ask_quantity * (rng.random(ticks) < 0.9),
    )


def assert_agrees(batch: FeatureBatch, want: np.ndarray) -> None:
    """All features of the rows of used ticks, within a few units of the last place."""
    got = batch.values[batch.status == Status.OK][:, len(CORE_1) :]
    signed = [full_oracle.NAMES.index(name) for name in full_oracle.SIGNED]
    np.testing.assert_allclose(got[:, signed], want[:, signed], rtol=0, atol=2e-15, equal_nan=True)
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=2e-15, equal_nan=True)
    positive = np.delete(np.arange(len(full_oracle.NAMES)), signed)
    np.testing.assert_allclose(got[:, positive], want[:, positive], rtol=1e-14, atol=0, equal_nan=True)


def as_records(ticks: TickColumns) -> list[Tick]:
    rows = zip(*(getattr(ticks, name).tolist() for name in Tick.__struct_fields__[1:9]), strict=True)
    return [Tick("BTC-USD", *row) for row in rows]


@given(markets())
@settings(max_examples=40)
def test_every_prefix_of_generated_ticks_agrees_with_brute_force_and_begins_with_core_1(records: list[Record]) -> None:
    whole, core = of_full_1(columns(records)), compute(columns(records))
    assert_agrees(whole, full_oracle.features(records))
    assert whole.status.tolist() == core.status.tolist()
    assert whole.values[:, : len(CORE_1)].tobytes() == core.values.tobytes()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 3.0, 20.0]))
@settings(max_examples=6)
def test_every_prefix_of_a_restless_market_agrees_with_brute_force(seed: int, ticks_per_s: float) -> None:
    ticks = restless(1000, ticks_per_s, seed)
    assert_agrees(of_full_1(ticks), full_oracle.features(as_records(ticks)))


def test_every_prefix_of_a_real_stretch_agrees_with_brute_force() -> None:
    paths = coinbase_ticker_2025()
    if not paths:
        pytest.skip("the Coinbase recordings are not on this machine (VOLCAST_DATA_DIR or ../shared/data)")
    longest = max(paths, key=lambda path: path.stat().st_size)
    records = [one for one in read_archive([longest]) if isinstance(one, Tick | Gap)][:2500]
    batch = of_full_1(columns(records))
    assert batch.warm.sum() > 500
    assert_agrees(batch, full_oracle.features(records))


@pytest.mark.parametrize("ticks_per_s", [2.0, 400.0])
def test_the_first_columns_are_those_of_core_1_bit_for_bit(ticks_per_s: float) -> None:
    ticks = restless(20_000, ticks_per_s, 4)
    whole, core = of_full_1(ticks).values, compute(ticks).values
    assert whole[:, : len(CORE_1)].tobytes() == core.tobytes()


@given(markets(), st.data())
@settings(max_examples=25)
def test_any_cut_into_batches_gives_the_same_bits(records: list[Record], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=20))
    whole, cut = of_full_1(columns(records)), of_full_1(columns(records), cuts)
    assert cut.values.tobytes() == whole.values.tobytes()
    assert cut.warm.tolist() == whole.warm.tolist()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_long_mixed_market_gives_the_same_bits_in_batches(size: int) -> None:
    ticks = walk(20_000, ticks_per_s=60, seed=3, products=12)
    whole = of_full_1(ticks)
    assert whole.warm.any()
    assert of_full_1(ticks, list(range(0, len(ticks), size))).values.tobytes() == whole.values.tobytes()


@example(seed=0, resume=3999)
@given(seed=st.integers(0, 2**32 - 1), resume=st.integers(0, 3999))
@settings(max_examples=30)
def test_a_restart_that_replays_the_last_five_minutes_gives_the_same_bits(seed: int, resume: int) -> None:
    ticks = restless(4000, 5.0, seed)
    ticks.event_time_ns[:] += seed % SECOND_NS  # windows begin anywhere within a second of the clock
    whole = of_full_1(ticks)
    edge_ns = ticks.event_time_ns[resume] - longest_ns(FULL_1)
    first = max(0, int(np.searchsorted(ticks.event_time_ns, edge_ns, "right")) - 1)
    restarted = of_full_1(ticks.part(first, len(ticks)))
    assert restarted.values[resume - first :].tobytes() == whole.values[resume:].tobytes()
    assert restarted.warm[resume - first :].tolist() == whole.warm[resume:].tolist()


@pytest.mark.slow
def test_no_drift_after_three_million_ticks(capsys: pytest.CaptureFixture[str]) -> None:
    """Prices and quantities are a thousand and 10^12 times higher in every other stretch: what is large leaves the
    sums of what is small again and again.
    """
    engine, worst, end_ns = FeatureEngine(FULL_1), 0.0, 0
    for part in range(6):
        calm = walk(500_000, ticks_per_s=100, seed=part)
        price, size = (1000.0, 1e12) if part % 2 else (1.0, 1.0)
        ticks = dataclasses.replace(
            calm,
            event_time_ns=calm.event_time_ns + max(0, end_ns - START_NS),
            bid=calm.bid * price,
            ask=calm.ask * price,
            bid_quantity=calm.bid_quantity * size,
            ask_quantity=calm.ask_quantity * size,
        )
        end_ns = int(ticks.event_time_ns[-1])
        got = engine.update(ticks).values[-1, len(CORE_1) :]
        if part >= 4:
            want = full_oracle.last_row(as_records(ticks.part(500_000 - 32_000, 500_000)))
            off = got != want
            worst = max([worst, *(np.abs(got - want)[off] / np.abs(want)[off])])
    with capsys.disabled():
        print(f"\ndrift of full/1 after 3,000,000 ticks: {worst:.1e} relative, the worst of its features")
    assert worst < 1e-12


@pytest.mark.parametrize(("name", "window_s"), WINDOW_S.items())
def test_each_feature_is_warm_once_its_window_is_full_and_not_a_nanosecond_before(name: str, window_s: int) -> None:
    full_ns = START_NS + window_s * SECOND_NS
    last = [msgspec.structs.replace(tick(window_s, 101.0), event_time_ns=full_ns - early) for early in (1, 0)]
    batch = of_full_1(columns([tick(0), *last] if window_s else [tick(0)]))
    assert not math.isnan(value(batch, name))
    assert window_s == 0 or math.isnan(value(batch, name, -2))


def test_every_feature_has_a_window_and_the_longest_makes_the_row_warm() -> None:
    assert FULL_1.names[len(CORE_1) :] == tuple(WINDOW_S)
    batch = of_full_1(columns([tick(0), tick(299.999), tick(300)]))
    assert batch.warm.tolist() == [False, False, True]
    assert np.isfinite(batch.values[2]).all()
    assert max(WINDOW_S.values()) * SECOND_NS == longest_ns(FULL_1) == FeatureEngine(FULL_1).longest_ns


def test_a_simulated_run_is_fast_forwarded_by_the_longest_window() -> None:
    assert {name: longest_ns(schema) / 1e9 for name, schema in SCHEMAS.items()} == FAST_FORWARD_S


def test_the_values_after_a_gap_are_those_of_a_new_start() -> None:
    before = [tick(at, 100 + at % 7) for at in range(400)]
    after = [tick(at, 100 + at % 5) for at in range(400, 800)]
    batch = of_full_1(columns([*before, Gap("BTC-USD", after[0].event_time_ns, 0, "sequence", 3), *after]))
    fresh = of_full_1(columns(list(after)))
    assert batch.values[401:].tobytes() == fresh.values.tobytes()
    assert batch.warm[401:].tolist() == fresh.warm.tolist() == [False] * 300 + [True] * 100


def test_the_average_weighs_a_move_by_the_whole_seconds_since() -> None:
    # The clock's second turns at START_NS + k s, so a tick half a second later is of the same second.
    ticks = [tick(0), tick(400, 101), tick(400.5, 101), tick(401.5, 101), tick(699.5, 101), tick(700.5, 101)]
    batch = of_full_1(columns(ticks))
    move = value(batch, "return_1s", 1)
    got = [value(batch, "ewma_volatility", row) for row in range(1, 6)]
    want = [move, move, move * math.sqrt(0.94), move * math.sqrt(0.94**299), 0.0]
    assert got == pytest.approx(want, rel=1e-14)


def test_order_flow_is_that_of_cont_kukanov_and_stoikov() -> None:
    """Each kind of event alone: (change of the book) -> e, the formula worked out by hand."""
    first = Tick("BTC-USD", START_NS, 0, 0, 100.0, 100.0, 102.0, 5.0, 7.0)
    events = {
        (100.0, 102.0, 8.0, 7.0): 3.0,  # bids join
        (100.0, 102.0, 2.0, 7.0): -3.0,  # bids leave
        (101.0, 102.0, 2.0, 7.0): 2.0,  # a better bid: all of it is new
        (99.0, 102.0, 9.0, 7.0): -5.0,  # the bid is gone, what stands below was there
        (100.0, 102.0, 5.0, 9.0): -2.0,  # asks join
        (100.0, 101.0, 5.0, 9.0): -9.0,  # a better ask
        (100.0, 103.0, 5.0, 9.0): 7.0,  # the ask is gone
    }
    for (bid, ask, bid_quantity, ask_quantity), flow in events.items():
        last = np.array([first.price, first.bid, first.ask, first.bid_quantity, first.ask_quantity])
        assert full.order_flow(last, bid, ask, bid_quantity, ask_quantity) == flow


@pytest.mark.parametrize("size", [5e-324, 1e-40, 2.0**-118, 1e-8, 1e12, 1e30, 1.7976931348623157e308])
def test_order_flow_of_any_size_is_summed_and_undone(size: float) -> None:
    rng = np.random.default_rng(1)
    ticks = walk(3000, 5.0, 1)
    wild = dataclasses.replace(
        ticks,
        bid_quantity=np.where(rng.random(3000) < 0.5, size, 0.0),
        ask_quantity=np.where(rng.random(3000) < 0.5, size, 0.0),
    )
    calm = np.flatnonzero(ticks.event_time_ns > ticks.event_time_ns[1500])
    for name in ("bid_quantity", "ask_quantity"):
        getattr(wild, name)[calm] = 1.0
    got = of_full_1(wild).values
    assert np.abs(got[got[:, 19] == got[:, 19], 19]).max() <= 1.0
    assert got[:, 23][~np.isnan(got[:, 23])].tolist() == of_full_1(
        dataclasses.replace(wild, bid_quantity=np.sign(wild.bid_quantity), ask_quantity=np.sign(wild.ask_quantity))
    ).values[:, 23][~np.isnan(got[:, 23])].tolist()  # fmt: skip
    after = ticks.event_time_ns > ticks.event_time_ns[1502] + 60 * SECOND_NS
    unit = dataclasses.replace(ticks, bid_quantity=np.ones(3000), ask_quantity=np.ones(3000))
    assert got[after, 19].tobytes() == of_full_1(unit).values[after, 19].tobytes()


def test_order_flow_beyond_its_bound_counts_as_much_as_the_bound() -> None:
    """All sizes here are beyond it, so each event counts alike, however large it is."""
    ticks, some = walk(1500, 5.0, 2), np.random.default_rng(2).random((2, 1500)) < 0.5
    got = [
        of_full_1(dataclasses.replace(ticks, bid_quantity=size * some[0], ask_quantity=size * some[1])).values[:, 19]
        for size in (2.0**59, 1e30, 1e308)
    ]
    assert np.isfinite(got[0]).any()
    assert got[0].tobytes() == got[1].tobytes() == got[2].tobytes()


def test_no_flow_is_no_imbalance() -> None:
    batch = of_full_1(columns([tick(at) for at in range(70)]))
    assert value(batch, "order_flow_imbalance") == 0.0


def test_the_mid_is_as_old_as_its_last_move_and_at_most_five_minutes() -> None:
    moves = [tick(0), tick(10, 101), *(tick(at, 101) for at in range(20, 701, 10))]
    batch = of_full_1(columns(moves))
    age_s = batch.values[batch.warm, COLUMN["mid_age_s"]]
    assert age_s.tolist() == [min(at - 10, 300) for at in range(300, 701, 10)]


def test_the_largest_move_leaves_after_a_minute() -> None:
    ticks = [tick(0), *(tick(at, 150.0 if at == 30 else 100 + at % 2) for at in range(1, 120))]
    largest = of_full_1(columns(ticks)).values[:, COLUMN["max_abs_return"]]
    jump = math.log(150.5 / 101.5)
    assert largest[60:90] == pytest.approx(np.full(30, jump), abs=0.02)
    assert (largest[91:] < 0.02).all()


def test_a_ring_that_overflows_again_and_again_loses_nothing() -> None:
    ticks = walk(20 * FIRST_RING_TICKS, ticks_per_s=15, seed=5)
    batch = of_full_1(ticks)
    assert batch.warm.any()
    roomy = FeatureEngine(FULL_1)
    roomy.update(walk(40 * FIRST_RING_TICKS, ticks_per_s=400, seed=6))
    roomy.update(columns([Gap("BTC-USD", START_NS, 0, "sequence", 1)]))
    assert roomy.update(ticks).values.tobytes() == batch.values.tobytes()


def test_state_stops_growing_once_the_longest_window_is_full() -> None:
    ticks = walk(40_000, ticks_per_s=20, seed=7)
    engine = FeatureEngine(FULL_1)
    engine.update(ticks.part(0, 10_000))
    held = engine.memory_bytes
    engine.update(ticks.part(10_000, 40_000))
    assert engine.memory_bytes == held < 2**21


def test_a_schema_that_no_kernel_computes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schema full/3 .*: expected core/1 or full/1 or full/2"):
        FeatureEngine(FeatureSchema("full/3", FULL_1.features))
    with pytest.raises(ValueError, match="schema full/1"):
        FeatureEngine(FeatureSchema("full/1", FULL_1.features[:-1]))
