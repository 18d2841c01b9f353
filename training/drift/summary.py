"""Two stretches of rows side by side, column by column. No file, no clock.

Beside the features stand, where they are known, the model's probability and the volatility that followed. PSI is
that of the worker's live metrics (pipeline/drift.py), so a report and a dashboard say the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from pipeline.drift import LARGE_PSI, MODERATE_PSI, psi_between

Verdict = Literal["none", "moderate", "large", "unknown"]

# Price levels drift by nature, and any stretch shorter than a day has the clock of its hours: shown, and not
# judged unless a model looks at them.
NOT_JUDGED = frozenset({"price", "midprice", "spread_abs", "time_of_day_sin", "time_of_day_cos"})
PROBABILITY = "probability"
FUTURE_VOLATILITY = "future_volatility"
LEAST_ROWS = 100  # of either stretch: ten a bin


@dataclass(frozen=True, slots=True)
class Stretch:
    """Columns of rows by name, (rows,) each, and where they are from."""

    name: str
    start_ns: int
    end_ns: int
    columns: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


class StretchSummary(msgspec.Struct, frozen=True):
    name: str
    rows: int
    start_ns: int  # event time, UTC
    end_ns: int


class ColumnSummary(msgspec.Struct, frozen=True):
    column: str
    psi: float | None  # null where either stretch has no number there
    verdict: Verdict
    judged: bool  # whether it counts for `drifted`
    reference_median: float | None
    current_median: float | None
    reference_missing: float  # rate of values that are no finite number
    current_missing: float


class DriftSummary(msgspec.Struct, frozen=True):
    format: int
    threshold: float  # PSI from which a judged column has drifted
    reference: StretchSummary
    current: StretchSummary
    columns: tuple[ColumnSummary, ...]  # the farthest first
    drifted: tuple[str, ...]


def compare(
    reference: Stretch, current: Stretch, threshold: float = LARGE_PSI, inputs: Collection[str] = ()
) -> DriftSummary:
    """All columns that both have. inputs: features that a model looks at; by default all but NOT_JUDGED.

    Raises InputError where a stretch is too short to say anything.
    """
    for one in (reference, current):
        if len(one) < LEAST_ROWS:
            raise InputError(f"{one.name}: {len(one)} rows; a comparison needs at least {LEAST_ROWS}")
    columns = [
        _column(name, reference.columns[name], current.columns[name], _judged(name, inputs))
        for name in reference.columns
        if name in current.columns
    ]
    columns.sort(key=lambda one: -1.0 if one.psi is None else one.psi, reverse=True)
    return DriftSummary(
        format=1,
        threshold=threshold,
        reference=_stretch(reference),
        current=_stretch(current),
        columns=tuple(columns),
        drifted=tuple(one.column for one in columns if one.judged and one.psi is not None and one.psi >= threshold),
    )


def verdict(index: float) -> Verdict:
    if np.isnan(index):
        return "unknown"
    return "none" if index < MODERATE_PSI else "moderate" if index < LARGE_PSI else "large"


def _judged(name: str, inputs: Collection[str]) -> bool:
    """What was to be predicted may change without any fault of the inputs: it is shown and not judged."""
    if name == FUTURE_VOLATILITY:
        return False
    if name == PROBABILITY:
        return True
    return name in inputs if inputs else name not in NOT_JUDGED


def _stretch(one: Stretch) -> StretchSummary:
    return StretchSummary(one.name, len(one), one.start_ns, one.end_ns)


def _column(name: str, reference: NDArray[np.float64], current: NDArray[np.float64], judged: bool) -> ColumnSummary:
    index = psi_between(reference, current)
    return ColumnSummary(
        column=name,
        psi=None if np.isnan(index) else index,
        verdict=verdict(index),
        judged=judged,
        reference_median=_median(reference),
        current_median=_median(current),
        reference_missing=_missing(reference),
        current_missing=_missing(current),
    )


def _median(values: NDArray[np.float64]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _missing(values: NDArray[np.float64]) -> float:
    return float(np.mean(~np.isfinite(values)))
