"""Figures of a data set before training. A core: rows in, figures out."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from common.errors import InputError
from training.fitting.forecast_experiment import Settings
from training.forecasting.bundle import SPIKE_QUANTILE
from training.forecasting.kinds import SIZE_LEVELS
from training.problem.data.dataset import Dataset
from training.problem.forecast_rows import ForecastRows
from training.problem.splits import final_split
from training.problem.target import NS_PER_S, Floats, Ints
from training.reporting.explore.result import Exploration, FeatureFigures, Lag, Period, Quartiles, SpikeSize

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
RANKED_ROWS = 20_000  # correlations use at most so many rows, evenly spread
MIN_ROWS = 100
MIN_PAIRS = 200
LAGS = (1, 2, 3, 5, 10, 15, 30, 60, 120, 240, 480, 1440)  # in horizons
DAY_NS, HOUR_NS = 86_400 * NS_PER_S, 3600 * NS_PER_S


def explore(dataset: Dataset, settings: Settings | None = None) -> Exploration:
    """Figures of the training part. The final part judges models, so nothing is chosen by looking at it.

    Spike sizes are those of `volcast train`. Raises InputError for too few rows.
    """
    settings = settings or Settings(target=dataset.target)
    rows = training_rows(dataset.rows, settings)
    if len(rows) < MIN_ROWS:
        raise InputError(f"too little data: {len(rows)} rows to explore, expected {MIN_ROWS} or more")
    spike_bps = settings.spike_bps or default_spike_bps(rows)
    horizon_s = dataset.target.horizon_s
    return Exploration(
        kind=dataset.kind,
        schema=rows.schema.name,
        schema_hash=rows.schema.hash,
        products=dataset.products,
        recordings=rows.recordings,
        files=dataset.files,
        sha256=dataset.sha256,
        horizon_s=horizon_s,
        sample_period_s=dataset.sample_period_s,
        counts=dict(dataset.counts),
        gaps=len(dataset.gaps),
        longest_gap_s=max((hole.seconds for hole in dataset.gaps), default=0.0),
        notes=dataset.notes,
        rows=len(rows),
        rows_left_out=len(dataset.rows) - len(rows),
        start=_utc(int(rows.time_ns.min())),
        end=_utc(int(rows.time_ns.max())),
        hours=recorded_s(rows, horizon_s) / 3600,
        spike_bps=spike_bps,
        outcome_percentiles_bps=tuple(np.percentile(rows.outcome_bps, np.arange(101)).tolist()),
        sizes=tuple(_size(rows, quantile, horizon_s) for quantile in SIZE_LEVELS),
        lags=memory(rows, horizon_s),
        hours_of_day=hours_of_day(rows, spike_bps, horizon_s),
        days=days(rows, spike_bps, horizon_s),
        features=tuple(_feature(rows, number) for number in range(len(rows.schema))),
        correlations=tuple(tuple(row) for row in rank_correlations(_sampled(rows.features)).tolist()),
    )


def training_rows(rows: ForecastRows, settings: Settings) -> ForecastRows:
    """The training part of every recording: without the final part, and rows whose outcome or windows touch it."""
    rules = settings.split_rules(rows)
    parts = [np.zeros(0, np.int64)]
    for number in range(len(rows.recordings)):
        places = np.flatnonzero(rows.recording == number)
        parts.append(places[final_split(rows.time_ns[places], rules).train])
    return rows.take(np.concatenate(parts))


def default_spike_bps(train: ForecastRows) -> float:
    """The default spike size of `volcast train`: a quantile of the outcomes of the training rows."""
    return float(f"{np.quantile(train.outcome_bps, SPIKE_QUANTILE):.9g}")


def recorded_s(rows: ForecastRows, horizon_s: int) -> float:
    """Time between rows of a product and recording that are at most a horizon apart."""
    return sum(float(steps[steps <= horizon_s].sum()) for steps in map(_steps_s, _series(rows)))


def memory(rows: ForecastRows, horizon_s: int) -> tuple[Lag, ...]:
    """Autocorrelation of log outcomes that do not overlap, within a product and recording.

    Pairs may span gaps. A lag with fewer than MIN_PAIRS pairs is left out.
    """
    grids = []
    for series in _series(rows):
        period = series.time_ns // (horizon_s * NS_PER_S)
        first = np.flatnonzero(np.diff(period, prepend=period[0] - 1))
        grid = np.full(int(period[-1] - period[0]) + 1, np.nan)
        grid[period[first] - period[0]] = np.log(series.outcome_bps[first])
        grids.append(grid)
    lags = []
    for lag in LAGS:
        pairs = np.concatenate([np.column_stack([grid[:-lag], grid[lag:]]) for grid in grids if len(grid) > lag] or
                               [np.zeros((0, 2))])  # fmt: skip
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        if len(pairs) >= MIN_PAIRS and (pairs.std(axis=0) > 0).all():
            lags.append(Lag(lag * horizon_s, len(pairs), float(np.corrcoef(pairs.T)[0, 1])))
    return tuple(lags)


def hours_of_day(rows: ForecastRows, spike_bps: float, horizon_s: int) -> tuple[Period, ...]:
    """The hours of the day that have rows."""
    hour = rows.time_ns % DAY_NS // HOUR_NS
    return tuple(_period(rows.take(hour == each), f"{each:02d}", spike_bps, horizon_s) for each in np.unique(hour))


def days(rows: ForecastRows, spike_bps: float, horizon_s: int) -> tuple[Period, ...]:
    """The days that have rows."""
    day = rows.time_ns // DAY_NS
    return tuple(
        _period(rows.take(day == each), _utc(int(each) * DAY_NS)[:10], spike_bps, horizon_s) for each in np.unique(day)
    )


def rank_correlations(columns: Floats) -> Floats:
    """Spearman's rho of columns (rows, columns), as (columns, columns); 0 with a constant column."""
    centred = rankdata(columns, axis=0) - (len(columns) + 1) / 2
    length = np.sqrt(np.square(centred).sum(axis=0))
    scaled = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    matrix: Floats = np.clip(scaled.T @ scaled, -1.0, 1.0)
    return matrix


def _series(rows: ForecastRows) -> list[ForecastRows]:
    """The rows of each product within each recording, in time order."""
    number = rows.recording * len(rows.products) + rows.product
    return [rows.take(number == each) for each in np.unique(number)]


def _steps_s(rows: ForecastRows) -> Floats:
    return np.asarray(np.diff(rows.time_ns) / NS_PER_S)


def _size(rows: ForecastRows, quantile: float, horizon_s: int) -> SpikeSize:
    spike_bps = float(np.quantile(rows.outcome_bps, quantile))
    alerts, under_alert_s = 0, 0.0
    for series in _series(rows):
        steps = _steps_s(series.take(series.outcome_bps >= spike_bps))
        alerts += int(np.count_nonzero(steps > horizon_s)) + bool((series.outcome_bps >= spike_bps).any())
        under_alert_s += float(steps[steps <= horizon_s].sum())
    seconds = max(recorded_s(rows, horizon_s), 1e-9)
    base_rate = float(np.mean(rows.outcome_bps >= spike_bps))
    return SpikeSize(quantile, spike_bps, base_rate, 3600 * alerts / seconds, under_alert_s / seconds)


def _period(rows: ForecastRows, name: str, spike_bps: float, horizon_s: int) -> Period:
    base_rate = float(np.mean(rows.outcome_bps >= spike_bps))
    low, middle, high = np.percentile(rows.outcome_bps, (25, 50, 75)).tolist()
    quartiles: Quartiles = (low, middle, high)
    return Period(name, len(rows), recorded_s(rows, horizon_s) / 3600, base_rate, quartiles)


def _feature(rows: ForecastRows, number: int) -> FeatureFigures:
    feature, values = rows.schema.features[number], rows.features[:, number]
    low, high = np.percentile(values, (10, 90)).tolist()
    by_size = low < 0 < high and not feature.name.startswith("time_of_day")
    pairs = np.column_stack([np.abs(values) if by_size else values, rows.outcome_bps])
    half = len(pairs) // 2
    whole, first, second = (
        float(rank_correlations(_sampled(part))[0, 1]) for part in (pairs, pairs[:half], pairs[half:])
    )
    return FeatureFigures(
        name=feature.name,
        unit=feature.unit,
        percentiles=tuple(np.percentile(values, PERCENTILES).tolist()),
        share_of_zeros=float(np.mean(values == 0)),
        by_size=by_size,
        rank_correlation=whole,
        halves=(first, second),
        outcome_by_decile_bps=outcome_by_decile(values, rows.outcome_bps),
    )


def outcome_by_decile(values: Floats, outcome_bps: Floats) -> tuple[float | None, ...]:
    """Median outcome in each tenth of the rows (n,) by value. Equal values share a tenth, so a tenth may be empty."""
    tenth: Ints = np.searchsorted(np.percentile(values, np.arange(10, 100, 10)), values, side="left")
    members: list[NDArray[np.bool_]] = [tenth == each for each in range(10)]
    return tuple(float(np.median(outcome_bps[inside])) if inside.any() else None for inside in members)


def _sampled(columns: Floats) -> Floats:
    return columns[:: max(1, len(columns) // RANKED_ROWS)]


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
