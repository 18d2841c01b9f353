"""The figures of an exploration, as `volcast explore --json` prints them."""

from __future__ import annotations

import msgspec

FORMAT = 2
Quartiles = tuple[float, float, float]


class SpikeSize(msgspec.Struct, frozen=True):
    """The load of alerts if every row at or above the size gave an alert."""

    quantile: float
    spike_bps: float
    base_rate: float  # share of rows at or above the size
    alerts_per_hour: float  # of recorded time; an alert is a run of spikes less than a horizon apart
    share_of_time: float  # under alert


class Period(msgspec.Struct, frozen=True):
    """An hour of the day or a day, in UTC."""

    name: str
    rows: int
    hours: float  # recorded
    base_rate: float  # at the default spike size
    quartiles_bps: Quartiles  # of the outcome


class Lag(msgspec.Struct, frozen=True):
    seconds: int
    pairs: int
    autocorrelation: float  # of the log outcome


class FeatureFigures(msgspec.Struct, frozen=True):
    name: str
    unit: str
    percentiles: tuple[float, ...]  # at PERCENTILES
    share_of_zeros: float
    by_size: bool  # both signs are common, so the correlations are of absolute values
    rank_correlation: float  # Spearman's, with the outcome
    halves: tuple[float, float]  # the correlation in the first and second half of the rows
    outcome_by_decile_bps: tuple[float | None, ...]  # median outcome in each tenth of the rows; None: no rows


class Exploration(msgspec.Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    kind: str
    schema: str
    schema_hash: str
    products: tuple[str, ...]
    recordings: tuple[str, ...]
    files: tuple[str, ...]
    sha256: str
    horizon_s: int
    sample_period_s: int
    counts: dict[str, int]
    gaps: int
    longest_gap_s: float
    notes: tuple[str, ...]
    rows: int  # explored: the training part of `volcast train`
    rows_left_out: int  # the final part, and rows next to it
    start: str  # of the explored rows, RFC 3339
    end: str
    hours: float  # recorded, of the explored rows
    spike_bps: float  # default spike size of `volcast train`
    outcome_percentiles_bps: tuple[float, ...]  # 0 … 100
    sizes: tuple[SpikeSize, ...]
    lags: tuple[Lag, ...]
    hours_of_day: tuple[Period, ...]
    days: tuple[Period, ...]
    features: tuple[FeatureFigures, ...]
    correlations: tuple[tuple[float, ...], ...]  # Spearman's, feature by feature
