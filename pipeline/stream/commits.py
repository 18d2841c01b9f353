"""A commit of the worker in flight, and the counts that become final when it succeeds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.features.columns import TickColumns
from pipeline.stream.publish import RecordCounts

# Product ids, ticks, values and warmth, as FeatureWriter.write takes them.
FeatureRows = tuple[list[str], TickColumns, NDArray[np.float64], NDArray[np.bool_]]


@dataclass(slots=True)
class Totals:
    """Counts of records that are committed or will be with the next commit."""

    records: RecordCounts = field(default_factory=RecordCounts)
    consumed: int = 0  # records of ticks.raw
    features: int = 0
    not_warm: int = 0
    predictions: int = 0
    missing: Counter[str] = field(default_factory=Counter)  # warm rows without a prediction, by reason
    lost_records: int = 0  # that retention took before they were read

    def copy(self) -> Totals:
        return replace(self, records=self.records.copy(), missing=self.missing.copy())


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit in flight. If it is aborted, all of this is void."""

    offsets: dict[int, tuple[int, str]]  # partition -> offset and marker
    totals: Totals
    rows: list[FeatureRows]
