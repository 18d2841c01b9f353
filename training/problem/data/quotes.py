"""Polled quotes (Parquet: ts_utc, bid, ask): mids only, since a dealer's spread is not the market's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from training.problem.data.dataset import Columns, Progress, holes_between
from training.problem.data.tables import in_order, numbers, parquet_columns, times_ns
from training.problem.multiscale_features import quote_features
from training.problem.schemas import QUOTES_1
from training.problem.ticks import NS_PER_S, TickSeries

COLUMNS = ("ts_utc", "bid", "ask")
# Quotes come about every 5 s. A longer silence ends a stretch: the return over it belongs to no window.
LONGEST_SILENCE_S = 30


def read(paths: Sequence[Path], progress: Progress) -> Columns:
    """Raises InputError for a file that cannot be read, is out of order, or holds no usable quote."""
    progress(f"reading {len(paths)} files of quotes")
    parts = []
    for path in paths:
        columns = parquet_columns(path, COLUMNS)
        time_ns = times_ns(path, "ts_utc", columns["ts_utc"])
        parts.append((time_ns, numbers(path, "bid", columns["bid"]), numbers(path, "ask", columns["ask"])))
    parts.sort(key=lambda part: int(part[0][0]) if len(part[0]) else 0)
    time_ns, bid, ask = (np.concatenate(column) for column in zip(*parts, strict=True))
    where = ", ".join(str(path) for path in paths)
    finite = np.isfinite(bid) & np.isfinite(ask)
    positive = ~finite | ((bid > 0) & (ask > 0))
    crossed = finite & positive & (bid > ask)
    good = finite & positive & ~crossed
    later = np.zeros(len(time_ns), np.bool_)
    later[good] = in_order(where, "ts_utc", time_ns[good])
    if not later.any():
        raise InputError(f"{where}: no usable quote in {len(time_ns)} rows")
    time_ns, mid = time_ns[later], (bid[later] + ask[later]) / 2
    segment = np.cumsum(np.diff(time_ns, prepend=time_ns[:1]) > LONGEST_SILENCE_S * NS_PER_S, dtype=np.int64)
    ticks = TickSeries(time_ns, mid, segment)
    product = np.zeros(len(ticks), np.int64)
    progress(f"computing {QUOTES_1.name} for {len(ticks):,} quotes")
    features, warm = quote_features(ticks)
    counts = {
        "ticks": len(good),
        "gaps": int(segment[-1]),
        "not_a_number": int(np.count_nonzero(~finite)),
        "not_positive": int(np.count_nonzero(~positive)),
        "crossed_quote": int(np.count_nonzero(crossed)),
        "not_later": int(np.count_nonzero(good & ~later)),
    }
    # The file names no product; SOURCES says what it is of.
    names = ("BTC-USD",)
    return Columns(
        schema=QUOTES_1,
        products=names,
        ticks=ticks,
        product=product,
        features=features,
        warm=warm,
        counts=counts,
        gaps=holes_between(ticks, product, names, "silence"),
    )
