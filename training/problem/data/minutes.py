"""Minute files (CSV): one row a minute with close, high, low, trades and the book's imbalance.

A minute without high and low is one in which the recorder stood still: its close is the last one seen, in 995
of 1,000 such minutes. It is dropped, and a run of more than five ends the stretch.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from training.problem.data.dataset import Columns, Progress, holes_between
from training.problem.data.tables import in_order
from training.problem.multiscale_features import Scales, stacked, sums, time_of_day, window_starts
from training.problem.schemas import MINUTES_1, window_s
from training.problem.ticks import NS_PER_S, TickSeries

COLUMNS = ("minute_epoch", "close", "book_imb", "ofi", "trades", "volume", "buy_share", "high", "low")
_NEEDED = ("minute_epoch", "close", "book_imb", "ofi")
MINUTE_NS = 60 * NS_PER_S
LONGEST_SILENCE_S = 300
# Parkinson 1980, "The extreme value method for estimating the variance of the rate of return", Journal of
# Business 53: the variance over a period is its squared log range over 4 log 2.
_PARKINSON = 1 / (4 * np.log(2))


def read(paths: Sequence[Path], horizon_s: int, progress: Progress) -> Columns:
    """Raises InputError for a file that cannot be read, a field that is no number, or a horizon that is no
    whole number of minutes."""
    if horizon_s % 60 or horizon_s <= 0:
        raise InputError(f"horizon: minute files take whole minutes, got {horizon_s} s")
    progress(f"reading {len(paths)} minute files")
    table = np.concatenate([_read_csv(path) for path in paths])
    where = str(paths[0]) if len(paths) == 1 else f"{len(paths)} minute files"
    table = table[np.argsort(table[:, 0], kind="stable")] if len(paths) > 1 else table
    read_rows = len(table)
    usable = np.isfinite(table).all(axis=1) & (table[:, 1] > 0) & (table[:, 8] > 0) & (table[:, 7] >= table[:, 8])
    later = np.zeros(read_rows, np.bool_)
    later[usable] = in_order(where, "minute_epoch", table[usable, 0].astype(np.int64))
    if not later.any():
        raise InputError(f"{where}: no usable minute in {read_rows} rows")
    table = np.ascontiguousarray(table[later])
    # The row is known at its minute's end.
    time_ns = (table[:, 0].astype(np.int64) + 1) * MINUTE_NS
    segment = np.cumsum(np.diff(time_ns, prepend=time_ns[:1]) > LONGEST_SILENCE_S * NS_PER_S, dtype=np.int64)
    ticks = TickSeries(time_ns, np.ascontiguousarray(table[:, 1]), segment)
    product = np.zeros(len(ticks), np.int64)
    variance = np.square(np.log(table[:, 7] / table[:, 8])) * _PARKINSON
    names = (paths[0].name.split("_")[0],)
    counts = {
        "ticks": read_rows,
        "gaps": int(segment[-1]),
        "recorder_stood_still": int(np.count_nonzero(~usable)),
        "not_later": int(np.count_nonzero(usable & ~later)),
    }
    return Columns(
        schema=MINUTES_1,
        products=names,
        ticks=ticks,
        product=product,
        features=_features(ticks, table, variance),
        warm=Scales(ticks).warm(window_s(MINUTES_1)),
        counts=counts,
        gaps=holes_between(ticks, product, names, "silence"),
        volatility=volatility_to_come(ticks, variance, horizon_s // 60),
    )


def volatility_to_come(ticks: TickSeries, variance: NDArray[np.float64], minutes: int) -> NDArray[np.float64]:
    """Square root of the variance (ticks,) of the next minutes; NaN where one of them is missing."""
    volatility = np.full(len(ticks), np.nan)
    if len(ticks) <= minutes:
        return volatility
    running = np.concatenate([[0.0], np.cumsum(variance)])
    unbroken = ticks.time_ns[minutes:] - ticks.time_ns[:-minutes] == minutes * MINUTE_NS
    total = running[1 + minutes :] - running[1:-minutes]
    volatility[:-minutes] = np.where(unbroken, np.sqrt(np.maximum(total, 0.0)), np.nan)
    return volatility


def _features(ticks: TickSeries, table: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    scales = Scales(ticks)
    _, _, book, flow, trades, volume, buys, _, _ = (np.ascontiguousarray(column) for column in table.T)

    def parkinson(minutes: int) -> NDArray[np.float64]:
        """As if the missing minutes of a window were like the others."""
        first = window_starts(ticks.time_ns, scales.segment_start, minutes * MINUTE_NS)
        count = np.arange(1, len(first) + 1) - first
        return np.sqrt(np.maximum(sums(variance, first), 0.0) * (minutes / count))

    quarter = scales.first(900)
    sine, cosine = time_of_day(ticks.time_ns)
    return stacked(
        MINUTES_1,
        {
            "volatility": np.sqrt(variance),
            "volatility_300s": parkinson(5),
            "volatility_900s": parkinson(15),
            "volatility_3600s": parkinson(60),
            "close_volatility_900s": scales.volatility(900),
            "close_volatility_3600s": scales.volatility(3600),
            "return_60s": scales.returned(60),
            "return_300s": scales.returned(300),
            "return_3600s": scales.returned(3600),
            "book_imbalance": book,
            "order_flow_imbalance": flow,
            "trade_intensity": trades / 60,
            "trade_intensity_900s": sums(trades, quarter) / (60 * (np.arange(1, len(quarter) + 1) - quarter)),
            "volume": volume,
            "buy_share": buys,
            "time_of_day_sin": sine,
            "time_of_day_cos": cosine,
        },
    )


def _read_csv(path: Path) -> NDArray[np.float64]:
    """The columns, (rows, columns), NaN for what is empty."""
    open_text = gzip.open if path.name.endswith(".gz") else open
    try:
        with open_text(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise InputError(f"{path}: no column {missing[0]}; the first line is {','.join(header)[:120]!r}")
            numbers = [header.index(name) for name in COLUMNS]
            rows = [_numbers(path, reader.line_num, line, numbers) for line in reader if line]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: damaged: {error}") from None
    return np.array(rows, np.float64).reshape(-1, len(COLUMNS))


def _numbers(path: Path, line_number: int, line: list[str], numbers: list[int]) -> list[float]:
    if len(line) <= max(numbers):
        raise InputError(f"{path}:{line_number}: expected {max(numbers) + 1} fields or more, got {len(line)}")
    values = []
    for name, number in zip(COLUMNS, numbers, strict=True):
        text = line[number]
        try:
            values.append(float(text) if text else np.nan)
        except ValueError:
            raise InputError(f"{path}:{line_number}: {name}: expected a number, got {text[:40]!r}") from None
        if name in _NEEDED and not text:
            raise InputError(f"{path}:{line_number}: {name}: expected a number, got nothing")
    return values
