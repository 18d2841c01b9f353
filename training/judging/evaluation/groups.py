"""A part cut up by day, by hour, by product and by how lively the market was at the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from training.judging.evaluation.episodes import NS_PER_HOUR, NS_PER_S
from training.judging.scored_part import Scored

REGIMES = ("calm", "middling", "lively")
UNKNOWN_REGIME = "not known"


@dataclass(frozen=True, slots=True)
class GroupRows:
    name: str
    rows: NDArray[np.int64]  # row numbers


@dataclass(frozen=True, slots=True)
class GroupedRows:
    by: str
    note: str
    groups: list[GroupRows]


def groupings(scored: Scored, horizon_ns: int, products: Sequence[str]) -> list[GroupedRows]:
    days, hours = scored.time_ns // (24 * NS_PER_HOUR), scored.time_ns // NS_PER_HOUR % 24
    volatility = volatility_before(scored, horizon_ns)
    edges = regime_edges(volatility)
    note = "thirds by the volatility over the horizon that had just passed"
    if len(edges):
        note += f", at {' and '.join(f'{edge:.3g}' for edge in edges)}"
    return [
        GroupedRows("day", "UTC", _groups(days, _day)),
        GroupedRows("hour", "of the day, UTC", _groups(hours, lambda hour: f"{hour:02d}")),
        GroupedRows("product", "", _groups(scored.product, lambda code: _product(code, products))),
        GroupedRows("regime", note, _groups(_regimes(volatility, edges), lambda one: (*REGIMES, UNKNOWN_REGIME)[one])),
    ]


def volatility_before(scored: Scored, horizon_ns: int) -> NDArray[np.float64]:
    """The volatility over the horizon that ends at (or up to half a horizon before) each row, (rows,).

    Of what a row knows nothing but this is at hand: the future volatility of the row one horizon ago. NaN
    where there is no such row.
    """
    before = np.full(len(scored.y), np.nan)
    for code in np.unique(scored.product):
        mine = np.flatnonzero(scored.product == code)
        time_ns = scored.time_ns[mine]
        source = np.searchsorted(time_ns, time_ns - horizon_ns, side="right") - 1
        near = (source >= 0) & (time_ns - horizon_ns - time_ns[source] <= horizon_ns // 2)
        before[mine[near]] = scored.future_volatility[mine[source[near]]]
    return before


def regime_edges(volatility: NDArray[np.float64]) -> NDArray[np.float64]:
    known = volatility[~np.isnan(volatility)]
    return np.quantile(known, [1 / 3, 2 / 3]) if len(known) else np.empty(0)


def _regimes(volatility: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    regime = np.searchsorted(edges, volatility, side="right").astype(np.int64)
    return np.where(np.isnan(volatility), len(REGIMES), regime)


def _groups(keys: NDArray[np.int64], name: Callable[[int], str]) -> list[GroupRows]:
    return [GroupRows(name(int(key)), np.flatnonzero(keys == key)) for key in np.unique(keys)]


def _day(day: int) -> str:
    return datetime.fromtimestamp(day * 24 * NS_PER_HOUR // NS_PER_S, UTC).date().isoformat()


def _product(code: int, products: Sequence[str]) -> str:
    return products[code] if code < len(products) else f"product {code}"
