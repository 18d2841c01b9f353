"""The figures of an exploration, as `volcast explore --json` prints them."""

from __future__ import annotations

import msgspec

FORMAT = 1


class Threshold(msgspec.Struct, frozen=True):
    """What a threshold at this quantile would have asked of whoever acts on alerts."""

    quantile: float
    threshold: float  # realized volatility, log
    base_rate: float  # of rows
    alerts_per_hour: float  # of recorded time; an alert is a run of spikes with less than a horizon between them
    seconds_per_alert: float
    share_of_time: float  # under alert


class Feature(msgspec.Struct, frozen=True):
    """Of a column: its spread, and what it says of the label on its own."""

    name: str
    unit: str
    mean: float
    standard_deviation: float
    percentiles: list[float]  # 0, 1, 5, 25, 50, 75, 95, 99, 100
    share_of_zeros: float
    histogram: list[int]  # rows in equal bins over `histogram_range`
    histogram_range: tuple[float, float]
    histogram_is_of_log10: bool  # of what is above zero
    decile_edges: list[float]
    spike_rate_by_decile: list[float | None]  # None: no rows, as many values are equal
    by_size: bool  # both signs are common, so what follows is of absolute values
    roc_auc: float | None  # of the column as a score; None where the label is one class
    rank_correlation: float  # Spearman's, with the volatility to come
    halves_roc_auc: tuple[float | None, float | None]  # the same in the first and second half of the rows


class Hour(msgspec.Struct, frozen=True):
    """An hour of the day in UTC."""

    hour: int
    rows: int
    spike_rate: float | None
    quartiles: tuple[float, float, float] | None  # of the volatility to come


class Day(msgspec.Struct, frozen=True):
    """A day in UTC."""

    day: str
    rows: int
    hours: float  # recorded
    spike_rate: float
    quartiles: tuple[float, float, float]
    shifts: list[float]  # by feature: its median less that of all rows, in interquartile ranges


class Lag(msgspec.Struct, frozen=True):
    seconds: int
    pairs: int
    volatility: float  # autocorrelation of log realized volatility over one horizon
    returns: float  # of log-mid returns over one horizon


class Exploration(msgspec.Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    kind: str
    schema: str
    schema_hash: str
    products: list[str]
    files: list[str]
    sha256: str
    horizon_s: int
    sample_period_s: int
    counts: dict[str, int]
    gaps: int
    longest_gap_s: float
    notes: list[str]
    rows: int  # explored
    rows_left_out: int  # the last ones: those a model is judged on, and those next to them
    start: str  # of the explored rows, RFC 3339
    end: str
    hours: float  # recorded, of the explored rows
    quantile: float
    threshold: float
    base_rate: float
    volatility_percentiles: list[float]  # 0 … 100 of the volatility to come
    thresholds: list[Threshold]
    lags: list[Lag]
    hours_of_day: list[Hour]
    days: list[Day]
    features: list[Feature]
    correlations: list[list[float]]  # Spearman's, feature by feature
