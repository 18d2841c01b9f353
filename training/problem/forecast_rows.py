"""Rows to learn from: features of the project's own engine, and the outcome after each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import FeatureSchema
from training.problem.target import Floats, Ints


@dataclass(frozen=True, slots=True)
class ForecastRows:
    """Rows (n,) or (n, features), recording after recording and in time order within a recording."""

    schema: FeatureSchema
    time_ns: Ints
    features: Floats  # in the schema's order and units
    outcome_bps: Floats  # NaN if it is not known, as for live rows
    product: Ints  # number in `products`
    recording: Ints  # number in `recordings`
    products: tuple[str, ...]
    recordings: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)  # ticks read, rows dropped by reason, rows kept

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice) -> ForecastRows:
        """The rows at these places."""
        columns = ("time_ns", "features", "outcome_bps", "product", "recording")
        return replace(self, **{name: getattr(self, name)[which] for name in columns})

    def columns(self, names: Sequence[str]) -> Floats:
        """Features by name, (rows, names). Raises InputError if the schema lacks a name."""
        for name in names:
            if name not in self.schema.names:
                raise InputError(f"schema {self.schema.name}: no feature {name!r}")
        return self.features[:, [self.schema.names.index(name) for name in names]]

    def column(self, name: str) -> Floats:
        """A feature by name, (rows,). Raises InputError if the schema lacks it."""
        return self.columns([name])[:, 0]


def pooled(parts: Sequence[ForecastRows]) -> ForecastRows:
    """The rows of several recordings, one after another. Raises ValueError for no part or different schemas."""
    if len({part.schema.hash for part in parts}) != 1:
        raise ValueError("pooled: expected rows of one schema")
    products = tuple(dict.fromkeys(name for part in parts for name in part.products))
    recordings = tuple(name for part in parts for name in part.recordings)
    starts = np.cumsum([0, *(len(part.recordings) for part in parts)])
    code_of = [np.array([products.index(name) for name in part.products]) for part in parts]
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    return ForecastRows(
        schema=parts[0].schema,
        time_ns=np.concatenate([part.time_ns for part in parts]),
        features=np.concatenate([part.features for part in parts]),
        outcome_bps=np.concatenate([part.outcome_bps for part in parts]),
        product=np.concatenate([codes[part.product] for codes, part in zip(code_of, parts, strict=True)]),
        recording=np.concatenate([part.recording + start for part, start in zip(parts, starts, strict=False)]),
        products=products,
        recordings=recordings,
        counts=dict(counts),
    )
