"""Two stretches of rows side by side, column by column. No file, no clock.

The distance is the population stability index (PSI) of the worker's live metrics (pipeline/drift.py). A column has
drifted if its PSI exceeds its limit: the largest PSI between any stretch of the reference as long as the current
stretch, and the rest of the reference. Neighbouring rows share their windows and volatility has regimes, so two
stretches of one market differ by far more than the custom of 0.25 for independent rows. Whole stretches of time keep
that dependence (block resampling: H. Künsch, "The jackknife and the bootstrap for general
stationary observations", Annals of Statistics 17, 1989). No number is tuned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from pipeline.drift import LARGE_PSI, bins_of, psi

Floats = NDArray[np.float64]

PROBABILITY = "probability"
OUTCOME = "outcome_bps"
MIN_ROWS = 100  # of either stretch: ten in each bin
PLACES = 64  # of stretches of the reference, at even distances
# Price levels drift by nature, and a stretch shorter than a day has the time of day of its hours.
NOT_JUDGED = frozenset({"price", "midprice", "spread_abs", "time_of_day_sin", "time_of_day_cos"})


@dataclass(frozen=True, slots=True)
class Stretch:
    """Columns of rows by name, (rows,) each in time order, and the event times of the first and last row."""

    name: str
    start_ns: int
    end_ns: int
    columns: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


class StretchSummary(msgspec.Struct, frozen=True):
    name: str
    rows: int
    start_ns: int  # event time, UTC
    end_ns: int


class ColumnSummary(msgspec.Struct, frozen=True):
    column: str
    psi: float | None  # null if either stretch has no number
    limit: float | None  # a larger PSI is drift
    judged: bool  # whether it counts for `drifted`
    reference_median: float | None
    current_median: float | None
    reference_missing: float  # share of values that are no finite number
    current_missing: float

    @property
    def beyond(self) -> bool:
        return self.psi is not None and self.limit is not None and self.psi > self.limit


class DriftSummary(msgspec.Struct, frozen=True):
    format: int
    threshold: float  # the smallest limit
    reference: StretchSummary
    current: StretchSummary
    columns: tuple[ColumnSummary, ...]  # by PSI over limit, the largest first
    drifted: tuple[str, ...]


def compare(
    reference: Stretch, current: Stretch, threshold: float = LARGE_PSI, inputs: Collection[str] = ()
) -> DriftSummary:
    """The columns that both stretches have.

    threshold: no PSI below it is drift. inputs: features that a model uses; by default all except NOT_JUDGED. The
    outcome is not judged: it may change without any fault of the inputs. Raises InputError for too few rows.
    """
    for each in (reference, current):
        if len(each) < MIN_ROWS:
            raise InputError(f"{each.name}: {len(each)} rows; a comparison needs at least {MIN_ROWS}")
    columns = [
        _column(name, reference.columns[name], current.columns[name], threshold, _judged(name, inputs))
        for name in reference.columns
        if name in current.columns
    ]
    columns.sort(key=lambda each: -(each.psi or 0.0) / (each.limit or np.inf))
    return DriftSummary(
        format=2,
        threshold=threshold,
        reference=_stretch(reference),
        current=_stretch(current),
        columns=tuple(columns),
        drifted=tuple(each.column for each in columns if each.judged and each.beyond),
    )


def stretch_psis(values: Floats, rows: int) -> Floats:
    """PSI between each of PLACES stretches of `rows` values and the rest of the values (n,), in time order.

    A stretch is at most half of the values.
    """
    bins = bins_of(values)
    rows = min(rows, len(values) // 2)
    bin_of = np.searchsorted(bins.edges, values, side="right")
    running = np.zeros((len(values) + 1, len(bins.fractions)))
    np.cumsum(bin_of[:, None] == np.arange(len(bins.fractions)), axis=0, out=running[1:])
    starts = np.unique(np.linspace(0, len(values) - rows, PLACES).astype(np.int64))
    inside = running[starts + rows] - running[starts]
    return psi((running[-1] - inside) / (len(values) - rows), inside / rows)


def _judged(name: str, inputs: Collection[str]) -> bool:
    if name in (OUTCOME, PROBABILITY):
        return name == PROBABILITY
    return name in inputs if inputs else name not in NOT_JUDGED


def _stretch(stretch: Stretch) -> StretchSummary:
    return StretchSummary(stretch.name, len(stretch), stretch.start_ns, stretch.end_ns)


def _column(name: str, reference: Floats, current: Floats, threshold: float, judged: bool) -> ColumnSummary:
    before, after = (values[np.isfinite(values)] for values in (reference, current))
    known = len(before) >= MIN_ROWS and len(after) > 0
    return ColumnSummary(
        column=name,
        psi=psi_of(before, after) if known else None,
        limit=max(threshold, float(stretch_psis(before, len(after)).max())) if known else None,
        judged=judged,
        reference_median=float(np.median(before)) if len(before) else None,
        current_median=float(np.median(after)) if len(after) else None,
        reference_missing=1 - len(before) / len(reference),
        current_missing=1 - len(after) / len(current),
    )


def psi_of(before: Floats, after: Floats) -> float:
    """PSI of values (m,) in the bins of earlier values (n,)."""
    bins = bins_of(before)
    counts = np.bincount(np.searchsorted(bins.edges, after, side="right"), minlength=len(bins.fractions))
    return float(psi(np.array(bins.fractions), counts / len(after)))
