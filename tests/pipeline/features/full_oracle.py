"""What full/1 adds to core/1, by brute force in NumPy: for each tick, the windows are cut out of the history anew.

It shares nothing with the engine but the definitions, which are written out here a second time: windows
(t - w, t], sums by math.fsum, ages in whole seconds of the clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.schema import CORE_1, FULL_1
from pipeline.records import Gap, Record, Tick
from tests.pipeline.features.oracle import SECOND_NS, log_return, mid_of

DAY_NS = 86_400 * SECOND_NS
NAMES = FULL_1.names[len(CORE_1) :]
# Ratios of sums of either sign, and the time of day, are near 0 now and then: as good as their range.
SIGNED = ("order_flow_imbalance", "mean_imbalance", "time_of_day_sin", "time_of_day_cos")


class History:
    """The ticks of one product since its last gap, as columns."""

    def __init__(self, room: int) -> None:
        self.ticks: list[Tick] = []
        self.times, self.columns = np.zeros(room, np.int64), np.zeros((4, room))

    def push(self, tick: Tick) -> None:
        """move is the absolute return, flow the order flow of Cont, Kukanov and Stoikov; 0 of the first tick."""
        move = flow = 0.0
        if self.ticks:
            last = self.ticks[-1]
            move = abs(log_return(mid_of(tick), mid_of(last)))
            flow += tick.bid_quantity if tick.bid >= last.bid else 0.0
            flow -= last.bid_quantity if tick.bid <= last.bid else 0.0
            flow -= tick.ask_quantity if tick.ask <= last.ask else 0.0
            flow += last.ask_quantity if tick.ask >= last.ask else 0.0
        depth = tick.bid_quantity + tick.ask_quantity
        imbalance = (tick.bid_quantity - tick.ask_quantity) / depth if depth else 0.0
        self.times[len(self.ticks)] = tick.event_time_ns
        self.columns[:, len(self.ticks)] = move, flow, (tick.ask - tick.bid) / mid_of(tick), imbalance
        self.ticks.append(tick)


def features(records: Sequence[Record]) -> NDArray[np.float64]:
    """(ticks used, 16): a row for each tick that is neither late nor repeated, in order."""
    histories: dict[str, History] = {}
    rows = []
    for record in records:
        product = record.product_id
        if isinstance(record, Gap):
            histories.pop(product, None)
            continue
        history = histories.setdefault(product, History(len(records)))
        if history.ticks and (record.event_time_ns < history.times[len(history.ticks) - 1]):
            continue
        if history.ticks and _content(history.ticks[-1]) == _content(record):
            continue
        history.push(record)
        rows.append(_row(history))
    return np.array(rows).reshape(-1, len(NAMES))


def last_row(ticks: Sequence[Tick]) -> NDArray[np.float64]:
    """(16,): the row of the last of a product's ticks, each of which is used."""
    history = History(len(ticks))
    for one in ticks:
        history.push(one)
    return np.array(_row(history))


def _content(tick: Tick) -> tuple[float, ...]:
    values = (tick.price, tick.bid, tick.ask, tick.bid_quantity, tick.ask_quantity)
    return (tick.event_time_ns, tick.sequence_num, *values)


def _row(history: History) -> list[float]:
    count = len(history.ticks)
    times, (moves, flows, spreads, imbalances) = history.times[:count], history.columns[:, :count]
    now_ns = int(times[-1])
    history_s = (now_ns - int(times[0])) / SECOND_NS
    found = dict.fromkeys(NAMES, math.nan)
    turn = 2 * math.pi * (now_ns % DAY_NS / DAY_NS)
    found["time_of_day_sin"], found["time_of_day_cos"] = math.sin(turn), math.cos(turn)
    for window_s in (5, 15, 30, 120, 300):
        if history_s >= window_s:
            inside = moves[times > now_ns - window_s * SECOND_NS]
            found[f"volatility_{window_s}s"] = math.sqrt(math.fsum(inside * inside))
    if history_s >= 5:
        found["quote_intensity_5s"] = np.count_nonzero(times > now_ns - 5 * SECOND_NS) / 5
    if history_s >= 60:
        inside = times > now_ns - 60 * SECOND_NS
        ticks, minute, flow = np.count_nonzero(inside), moves[inside], flows[inside]
        found["bipower_volatility"] = math.sqrt(math.pi / 2 * math.fsum(minute[1:] * minute[:-1]))
        found["max_abs_return"] = minute.max()
        either = math.fsum(np.abs(flow))
        found["order_flow_imbalance"] = math.fsum(flow) / either if either else 0.0
        found["intensity_ratio"] = found["quote_intensity_5s"] / (ticks / 60)
        found["mean_spread_rel"] = math.fsum(spreads[inside]) / ticks
        found["mean_imbalance"] = math.fsum(imbalances[inside]) / ticks
    if history_s >= 300:
        age = now_ns // SECOND_NS - times // SECOND_NS
        aged = age < 300
        found["ewma_volatility"] = math.sqrt(math.fsum(0.94 ** age[aged] * moves[aged] ** 2))
        moved = times[np.flatnonzero(moves > 0)]
        found["mid_age_s"] = min((now_ns - moved[-1]) / SECOND_NS, 300.0) if len(moved) else 300.0
    return list(found.values())
