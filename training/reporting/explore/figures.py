"""What the report says in numbers. A core: rows in, figures out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from training.problem.data.dataset import Dataset
from training.problem.labels import labels, spike_threshold
from training.problem.rows import Rows
from training.problem.splits import SplitRules, final_split
from training.problem.ticks import NS_PER_S, TickSeries
from training.reporting.explore.result import Day, Exploration, Feature, Hour, Lag, Threshold

Floats = NDArray[np.float64]

QUANTILES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
BINS = 40
DECILES = 10
RANKED_ROWS = 20_000  # correlations of ranks rest on so many rows at most, evenly spread
FEWEST_ROWS = 100
FEWEST_PAIRS = 200
LAGS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 960, 1440, 2160, 2880)
DAY_NS = 86_400 * NS_PER_S
HOUR_NS = 3600 * NS_PER_S


def explore(dataset: Dataset, quantile: float = 0.90, final_share: float = 0.20) -> Exploration:
    """Figures of the rows that a model may be developed on.

    final_share: of the rows, the last ones are left out, with those whose windows reach into them: whoever
    chooses features by looking at the rows that judge them has judged nothing. 0 looks at all.

    Raises InputError for fewer rows than say anything.
    """
    rows = development_rows(dataset, final_share)
    if len(rows) < FEWEST_ROWS:
        raise InputError(f"too little data: {len(rows)} rows to explore, expected {FEWEST_ROWS} or more")
    threshold = spike_threshold(rows.future_volatility, quantile)
    y = labels(rows.future_volatility, threshold)
    end_ns = int(rows.time_ns[-1])
    return Exploration(
        kind=dataset.kind,
        schema=rows.schema.name,
        schema_hash=rows.schema.hash,
        products=list(dataset.products),
        files=list(dataset.files),
        sha256=dataset.sha256,
        horizon_s=dataset.horizon_s,
        sample_period_s=dataset.sample_period_s,
        counts=dataset.counts,
        gaps=len(dataset.gaps),
        longest_gap_s=max((hole.seconds for hole in dataset.gaps), default=0.0),
        notes=[*dataset.notes, *_threshold_notes(rows, threshold, dataset.horizon_s)],
        rows=len(rows),
        rows_left_out=len(dataset.rows) - len(rows),
        start=_utc(int(rows.time_ns[0])),
        end=_utc(end_ns),
        hours=recorded_s(rows, dataset.horizon_s) / 3600,
        quantile=quantile,
        threshold=threshold,
        base_rate=float(y.mean()),
        volatility_percentiles=np.percentile(rows.future_volatility, np.arange(101)).tolist(),
        thresholds=[_cost(rows, one, dataset.horizon_s) for one in sorted({*QUANTILES, quantile})],
        lags=autocorrelation(dataset.ticks, dataset.horizon_s, end_ns),
        hours_of_day=hours_of(rows, y),
        days=days_of(rows, y, dataset.horizon_s),
        features=[_feature(rows, number, y) for number in range(len(rows.schema))],
        correlations=rank_correlations(_sampled(rows.features)).tolist(),
    )


def _threshold_notes(rows: Rows, threshold: float, horizon_s: int) -> list[str]:
    if threshold > 0:
        return []
    still = np.mean(rows.future_volatility == 0)
    return [
        f"the mid does not move in the {horizon_s} s after {still:.0%} of the rows: the threshold is 0, and every row "
        "a spike; a higher quantile or a livelier recording is needed"
    ]


def development_rows(dataset: Dataset, final_share: float) -> Rows:
    """All but the final part of a split and what is purged and embargoed before it."""
    rows = dataset.rows
    if final_share == 0.0:
        return rows
    rules = SplitRules(dataset.horizon_s * NS_PER_S, dataset.window_s * NS_PER_S, final_share, folds=1)
    return rows.take(final_split(rows.time_ns, rules).train)


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _products(rows: Rows) -> Iterator[NDArray[np.int64]]:
    for code in np.unique(rows.product):
        yield np.flatnonzero(rows.product == code)


def recorded_s(rows: Rows, horizon_s: int) -> float:
    """Time between rows of a product that are no more than a horizon apart."""
    total = 0
    for mine in _products(rows):
        steps = np.diff(rows.time_ns[mine])
        total += int(steps[steps <= horizon_s * NS_PER_S].sum())
    return total / NS_PER_S


def _cost(rows: Rows, quantile: float, horizon_s: int) -> Threshold:
    threshold = spike_threshold(rows.future_volatility, quantile)
    alerts, under_alert_ns = 0, 0
    for mine in _products(rows):
        spikes = rows.time_ns[mine][rows.future_volatility[mine] >= threshold]
        apart = np.diff(spikes)
        alerts += int(np.count_nonzero(apart > horizon_s * NS_PER_S)) + (len(spikes) > 0)
        under_alert_ns += int(apart[apart <= horizon_s * NS_PER_S].sum())
    hours = max(recorded_s(rows, horizon_s) / 3600, 1e-9)
    return Threshold(
        quantile=quantile,
        threshold=threshold,
        base_rate=float(np.mean(rows.future_volatility >= threshold)),
        alerts_per_hour=alerts / hours,
        seconds_per_alert=under_alert_ns / NS_PER_S / max(alerts, 1),
        share_of_time=under_alert_ns / NS_PER_S / 3600 / hours,
    )


def autocorrelation(ticks: TickSeries, period_s: int, end_ns: int) -> list[Lag]:
    """Of log realized volatility and of returns over periods of the clock that do not overlap, up to end_ns.

    A lag is left out where fewer than 200 pairs of whole periods are that far apart. Pairs are within a
    product; they may span gaps, which time does not mind.
    """
    period_ns = period_s * NS_PER_S
    columns = []
    for segment in ticks.spans():
        inside = slice(segment.start, segment.start + int(np.searchsorted(ticks.time_ns[segment], end_ns, "right")))
        if inside.stop - inside.start > 1:
            columns.append(_periods(ticks, inside, period_ns))
    if not any(len(column[0]) for column in columns):
        return []
    period, volatility, returns = (np.concatenate(column) for column in zip(*columns, strict=True))
    first = int(period.min())
    length = int(period.max()) - first + 1
    grid = np.full((2, length), np.nan)
    # Of two products, the later one in the series stands: one market's clustering is told, not their mixture.
    grid[0, period - first], grid[1, period - first] = volatility, returns
    found = []
    for lag in LAGS:
        early, late = grid[:, :-lag], grid[:, lag:]
        both = np.isfinite(early[0]) & np.isfinite(late[0]) if lag < length else np.zeros(0, np.bool_)
        if np.count_nonzero(both) < FEWEST_PAIRS:
            continue
        values = [_correlation(early[row][both], late[row][both]) for row in (0, 1)]
        found.append(Lag(lag * period_s, int(np.count_nonzero(both)), *values))
    return found


def _periods(ticks: TickSeries, span: slice, period_ns: int) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Number, log volatility and return of the whole periods of a segment in which the mid moved."""
    time_ns, log_mid = ticks.time_ns[span], np.log(ticks.mid[span])
    period = time_ns // period_ns
    starts = np.flatnonzero(np.diff(period, prepend=period[0] - 1))
    last = np.append(starts[1:], len(period)) - 1
    squares = np.add.reduceat(np.square(np.diff(log_mid, prepend=log_mid[0])), starts)
    returns = np.diff(log_mid[last], prepend=log_mid[0])
    whole = np.ones(len(starts), np.bool_)
    whole[0] = whole[-1] = False  # cut by the segment's ends
    whole &= squares > 0
    return period[starts][whole], np.log(squares[whole]) / 2, returns[whole]


def _correlation(left: Floats, right: Floats) -> float:
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def _quartiles(values: Floats) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return low, middle, high


def hours_of(rows: Rows, y: NDArray[np.int8]) -> list[Hour]:
    hour = rows.time_ns % DAY_NS // HOUR_NS
    found = []
    for number in range(24):
        mine = hour == number
        some = bool(mine.any())
        rate = float(y[mine].mean()) if some else None
        quartiles = _quartiles(rows.future_volatility[mine]) if some else None
        found.append(Hour(number, int(np.count_nonzero(mine)), rate, quartiles))
    return found


def days_of(rows: Rows, y: NDArray[np.int8], horizon_s: int) -> list[Day]:
    low, middle, high = np.percentile(rows.features, (25, 50, 75), axis=0)
    width = np.where(high > low, high - low, np.inf)
    day = rows.time_ns // DAY_NS
    found = []
    for number in np.unique(day).tolist():
        mine = np.flatnonzero(day == number)
        shifts = (np.median(rows.features[mine], axis=0) - middle) / width
        found.append(
            Day(
                day=_utc(number * DAY_NS)[:10],
                rows=len(mine),
                hours=recorded_s(rows.take(mine), horizon_s) / 3600,
                spike_rate=float(y[mine].mean()),
                quartiles=_quartiles(rows.future_volatility[mine]),
                shifts=shifts.tolist(),
            )
        )
    return found


def _feature(rows: Rows, number: int, y: NDArray[np.int8]) -> Feature:
    values = np.ascontiguousarray(rows.features[:, number])
    edges, rates = deciles(values, y)
    counts, span, is_log = _histogram(values)
    half = len(rows) // 2
    low, high = np.percentile(values, (10, 90)).tolist()
    by_size = low < 0 < high and not rows.schema.names[number].startswith("time_of_day")
    score = np.abs(values) if by_size else values
    pair = _sampled(np.column_stack([score, rows.future_volatility]))
    return Feature(
        name=rows.schema.names[number],
        unit=rows.schema.features[number].unit,
        mean=float(values.mean()),
        standard_deviation=float(values.std()),
        percentiles=np.percentile(values, PERCENTILES).tolist(),
        share_of_zeros=float(np.mean(values == 0)),
        histogram=counts,
        histogram_range=span,
        histogram_is_of_log10=is_log,
        decile_edges=edges,
        spike_rate_by_decile=rates,
        by_size=by_size,
        roc_auc=roc_auc(score, y),
        rank_correlation=float(rank_correlations(pair)[0, 1]),
        halves_roc_auc=(roc_auc(score[:half], y[:half]), roc_auc(score[half:], y[half:])),
    )


def _histogram(values: Floats) -> tuple[list[int], tuple[float, float], bool]:
    """Counts between the percentiles 0.1 and 99.9; of log10 where all but a few are above zero and they
    spread over more than a decade."""
    low, middle, high = np.percentile(values, (1, 50, 99)).tolist()
    positive = values[values > 0]
    is_log = (low > 0 and high > 10 * low) or (middle > 0 and len(positive) > 0.9 * len(values) and high > 20 * middle)
    shown = np.log10(positive) if is_log else values
    start, stop = np.percentile(shown, (0.1, 99.9)).tolist()
    if start == stop:
        start, stop = start - 0.5, stop + 0.5
    bins = BINS
    levels = np.unique(shown[:: max(1, len(shown) // RANKED_ROWS)])
    levels = levels[(levels >= start) & (levels <= stop)]
    if 1 < len(levels) <= 2 * BINS:  # counts over a constant: a bin each, or some would stay empty
        step = float(np.diff(levels).min())
        bins = min(round((stop - start) / step) + 1, 2 * BINS)
        start, stop = start - step / 2, start + (bins - 0.5) * step
    counts, _ = np.histogram(shown, bins, (start, stop))
    return counts.tolist(), (start, stop), bool(is_log)


def deciles(values: Floats, y: NDArray[np.int8]) -> tuple[list[float], list[float | None]]:
    """Edges between tenths of the rows by value (9), and the rate of spikes in each tenth (10).

    Rows of equal value stay together, so a tenth may be empty: None.
    """
    edges = np.percentile(values, np.arange(10, 100, 10))
    tenth = np.searchsorted(edges, values, side="left")
    rows = np.bincount(tenth, minlength=DECILES)
    spikes = np.bincount(tenth, weights=y, minlength=DECILES)
    return edges.tolist(), [float(one / count) if count else None for one, count in zip(spikes, rows, strict=True)]


def roc_auc(score: Floats, y: NDArray[np.int8]) -> float | None:
    """How often a spike's score is above another row's, ties counting half; None where all are of one class."""
    spikes = int(np.count_nonzero(y))
    others = len(y) - spikes
    if spikes == 0 or others == 0:
        return None
    return float((ranks(score)[y == 1].sum() - spikes * (spikes + 1) / 2) / (spikes * others))


def ranks(values: Floats) -> Floats:
    """1 for the least; equal values share the mean of their places. (n,)"""
    order = np.argsort(values)
    ordered = values[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)
    counts = np.diff(starts, append=len(values))
    shared = np.empty(len(values))
    shared[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return shared


def rank_correlations(columns: Floats) -> Floats:
    """Spearman's, column by column, (columns, columns); 0 with a column that is constant."""
    ranked = np.column_stack([ranks(column) for column in columns.T])
    centred = ranked - ranked.mean(axis=0)
    length = np.sqrt(np.square(centred).sum(axis=0))
    scaled = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    matrix: Floats = np.clip(scaled.T @ scaled, -1.0, 1.0)
    return matrix


def _sampled(columns: Floats) -> Floats:
    step = max(1, len(columns) // RANKED_ROWS)
    return columns[::step]
