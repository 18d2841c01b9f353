"""Features of records by one engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from common.schema import CORE_1, FeatureSchema
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureBatch, FeatureEngine
from pipeline.records import Record


def columns(records: Sequence[Record]) -> TickColumns:
    return TickColumns.from_records(records, ProductCodes())


def compute(ticks: TickColumns, cuts: Sequence[int] = (), schema: FeatureSchema = CORE_1) -> FeatureBatch:
    """One engine over all ticks, cut into batches before the records `cuts`."""
    engine = FeatureEngine(schema)
    edges = [0, *sorted(cuts), len(ticks)]
    batches = [engine.update(ticks.part(start, stop)) for start, stop in pairwise(edges)]
    return FeatureBatch(
        np.concatenate([one.status for one in batches]),
        np.concatenate([one.warm for one in batches]),
        np.concatenate([one.values for one in batches]),
    )
