"""Generated ticks: what hypothesis draws, and long seeded markets as columns."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from pipeline.features.columns import TickColumns
from pipeline.records import Gap, Record, Tick

SECOND_NS = 1_000_000_000
START_NS = 1_775_428_513_000_000_000

# Steps that stand exactly on window edges, a nanosecond beside them, equal times and long silences.
_STEPS_NS = st.one_of(
    st.sampled_from([0, 0, 1, SECOND_NS, 5 * SECOND_NS, 30 * SECOND_NS - 1, 30 * SECOND_NS, 60 * SECOND_NS, 10**12]),
    st.integers(0, 3 * SECOND_NS),
)
_SMALLEST, _LARGEST = 5e-324, 1.7976931348623157e308
_PRICES = st.one_of(
    st.sampled_from([60_000.0, 60_000.01, 60_000.02, 60_000.01]),
    st.sampled_from([_SMALLEST, 2.3e-308, 1e-8, 1.0, 1.0 + 2**-52, 1e8, _LARGEST]),
    st.floats(min_value=_SMALLEST, max_value=_LARGEST, allow_nan=False, allow_infinity=False),
)
_QUANTITIES = st.sampled_from([0.0, 0.0, 1e-8, 0.5, 1.5, 1e6])


@st.composite
def markets(draw: st.DrawFn, max_records: int = 120) -> list[Record]:
    """Records of up to three products, with gaps, times that jump back and repeated ticks among them."""
    records: list[Record] = []
    clock: dict[str, int] = {}
    for sequence in range(draw(st.integers(1, max_records))):
        product = draw(st.sampled_from(["BTC-USD", "BTC-USD", "ETH-USD", "SOL-USD"]))
        clock[product] = clock.get(product, START_NS) + draw(_STEPS_NS)
        kind = draw(st.sampled_from(["tick"] * 12 + ["gap", "late", "repeated", "nearly repeated"]))
        if kind == "gap":
            records.append(Gap(product, clock[product], 0, "sequence", 1))
            continue
        mine = [one for one in records if isinstance(one, Tick) and one.product_id == product]
        if kind.endswith("repeated") and mine:
            last = mine[-1]
            same = kind == "repeated"
            records.append(
                Tick(
                    *(last.product_id, last.event_time_ns, 0, last.sequence_num, last.price, last.bid, last.ask),
                    last.bid_quantity,
                    last.ask_quantity if same else last.ask_quantity + 1.0,
                )
            )
            continue
        low, high = sorted((draw(_PRICES), draw(_PRICES)))
        time_ns = clock[product] - (draw(st.integers(1, 90 * SECOND_NS)) if kind == "late" else 0)
        price, bid_quantity, ask_quantity = draw(_PRICES), draw(_QUANTITIES), draw(_QUANTITIES)
        records.append(Tick(product, time_ns, 0, sequence, price, low, high, bid_quantity, ask_quantity))
    return records


def walk(ticks: int, ticks_per_s: float, seed: int, products: int = 1) -> TickColumns:
    """A market whose mid moves by a cent on two ticks of five: Poisson times, two-sided book."""
    rng = np.random.default_rng(seed)
    event_time_ns = START_NS + np.cumsum(rng.exponential(1e9 / ticks_per_s, ticks)).astype(np.int64)
    steps = rng.integers(-1, 2, ticks) * (rng.random(ticks) < 0.6)
    bid = np.asarray(60_000 + 0.01 * np.cumsum(steps), np.float64)
    return TickColumns(
        rng.integers(0, products, ticks).astype(np.int32),
        np.zeros(ticks, np.uint8),
        event_time_ns,
        np.arange(ticks),
        bid,
        bid,
        bid + 0.01,
        rng.exponential(1.0, ticks),
        rng.exponential(1.0, ticks),
        event_time_ns,
    )
