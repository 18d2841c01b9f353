"""Features by brute force in plain Python: for each tick, the whole history is looked through again.

It shares nothing with the engine but the definitions, which are written out here a second time: windows
(t - w, t], returns by log1p of the relative move, sums by math.fsum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.records import Gap, Record, Tick

SECOND_NS = 1_000_000_000
WINDOWS_S = (1, 5, 30, 60)


@dataclass(frozen=True)
class Row:
    status: str
    warm: bool = False
    values: tuple[float, ...] = ()


@dataclass
class History:
    ticks: list[Tick] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)


def features(records: Sequence[Record]) -> list[Row]:
    histories: dict[str, History] = {}
    return [_row(histories.setdefault(record.product_id, History()), record) for record in records]


def mid_of(tick: Tick) -> float:
    return tick.bid + 0.5 * (tick.ask - tick.bid)


def log_return(after: float, before: float) -> float:
    if after < before:
        return -log_return(before, after)
    ratio = (after - before) / before
    return math.log1p(ratio) if math.isfinite(ratio) else math.log(after) - math.log(before)


def _row(history: History, record: Record) -> Row:
    if isinstance(record, Gap):
        history.ticks.clear()
        history.squares.clear()
        return Row("GAP")
    if history.ticks:
        last = history.ticks[-1]
        if record.event_time_ns < last.event_time_ns:
            return Row("JUMPED_BACK")
        if _content(record) == _content(last):
            return Row("REPEATED")
    move = log_return(mid_of(record), mid_of(history.ticks[-1])) if history.ticks else 0.0
    history.ticks.append(record)
    history.squares.append(move * move)
    return _features(history)


def _content(tick: Tick) -> tuple[float, ...]:
    values = (tick.price, tick.bid, tick.ask, tick.bid_quantity, tick.ask_quantity)
    return (tick.event_time_ns, tick.sequence_num, *values)


def _features(history: History) -> Row:
    tick, start_ns = history.ticks[-1], history.ticks[0].event_time_ns
    mid, now_ns = mid_of(tick), tick.event_time_ns
    returns = []
    for window_s in WINDOWS_S:
        earlier = [one for one in history.ticks if one.event_time_ns <= now_ns - window_s * SECOND_NS]
        returns.append(log_return(mid, mid_of(earlier[-1])) if earlier else math.nan)
    volatility = intensity = math.nan
    warm = now_ns - 60 * SECOND_NS >= start_ns
    if warm:
        pairs = zip(history.ticks, history.squares, strict=True)
        window = [square for one, square in pairs if one.event_time_ns > now_ns - 60 * SECOND_NS]
        volatility, intensity = math.sqrt(math.fsum(window)), len(window) / 60
    depth = tick.bid_quantity + tick.ask_quantity
    imbalance = (tick.bid_quantity - tick.ask_quantity) / depth if depth else 0.0
    spread = tick.ask - tick.bid
    values = (tick.price, mid, *returns, volatility, intensity, spread, spread / mid, imbalance)
    return Row("OK", warm, values)
