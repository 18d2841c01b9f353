"""The rows a model learns from: usable ticks, thinned, each with what came after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.schema import FeatureSchema
from training.problem.labels import future_volatility
from training.problem.sampling import first_of_each
from training.problem.ticks import NS_PER_S, TickSeries


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of (rows,) or (rows, features), in time order."""

    schema: FeatureSchema
    time_ns: NDArray[np.int64]
    product: NDArray[np.int64]
    features: NDArray[np.float64]  # in the schema's order and units
    future_volatility: NDArray[np.float64]

    def __post_init__(self) -> None:
        rows = len(self.time_ns)
        if self.features.shape != (rows, len(self.schema)):
            raise ValueError(f"features: expected shape {(rows, len(self.schema))}, got {self.features.shape}")
        if len(self.product) != rows or len(self.future_volatility) != rows:
            raise ValueError(f"product, future_volatility: expected {rows} entries")
        if rows and int(np.diff(self.time_ns).min(initial=0)) < 0:
            raise ValueError("rows must be in time order")

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, index: NDArray[np.int64]) -> Rows:
        """The rows of these numbers, which ascend."""
        return Rows(
            schema=self.schema,
            time_ns=self.time_ns[index],
            product=self.product[index],
            features=self.features[index],
            future_volatility=self.future_volatility[index],
        )

    def column(self, name: str) -> NDArray[np.float64]:
        """A feature by name, (rows,). Raises InputError where the schema has none of that name."""
        return self.features[:, self._number(name)]

    def columns(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Features by name, (rows, names). Raises InputError where the schema lacks one."""
        return self.features[:, [self._number(name) for name in names]]

    def _number(self, name: str) -> int:
        try:
            return self.schema.names.index(name)
        except ValueError:
            raise InputError(f"schema {self.schema.name}: no feature {name!r}") from None


def build_rows(
    schema: FeatureSchema,
    ticks: TickSeries,
    product: NDArray[np.int64],
    features: NDArray[np.float64],
    warm: NDArray[np.bool_],
    horizon_s: int,
    sample_period_s: int,
) -> tuple[Rows, dict[str, int]]:
    """Labels, drops, thins and orders the ticks; says how many it dropped, by reason.

    product, features (ticks, features) and warm run along the ticks. A tick counts under the first reason
    that applies to it:
    - not_warm: its feature window reaches over a gap or the start of the recording;
    - not_finite: a feature is NaN or infinite although the row is warm;
    - label_crosses_gap, label_past_end: its label window does, over a gap or the last tick;
    - thinned: another row of its product stands for its period.
    """
    return select_rows(
        schema, ticks, product, features, warm, future_volatility(ticks, horizon_s * NS_PER_S), sample_period_s
    )


def select_rows(
    schema: FeatureSchema,
    ticks: TickSeries,
    product: NDArray[np.int64],
    features: NDArray[np.float64],
    warm: NDArray[np.bool_],
    volatility: NDArray[np.float64],
    sample_period_s: int,
) -> tuple[Rows, dict[str, int]]:
    """As build_rows, with the volatility to come given, (ticks,): NaN where it was not fully observed."""
    labelled = ~np.isnan(volatility)
    finite = np.isfinite(features).all(axis=1)
    good = warm & finite
    crosses = good & ~labelled & ~_in_last_segment(ticks, product)
    usable = np.flatnonzero(good & labelled)
    keep = usable[first_of_each(product[usable], ticks.time_ns[usable], sample_period_s * NS_PER_S)]
    dropped = {
        "not_warm": int(np.count_nonzero(~warm)),
        "not_finite": int(np.count_nonzero(warm & ~finite)),
        "label_crosses_gap": int(np.count_nonzero(crosses)),
        "label_past_end": int(np.count_nonzero(good & ~labelled & ~crosses)),
        "thinned": len(usable) - len(keep),
    }
    keep = keep[np.argsort(ticks.time_ns[keep], kind="stable")]
    rows = Rows(
        schema=schema,
        time_ns=ticks.time_ns[keep],
        product=product[keep],
        features=features[keep],
        future_volatility=volatility[keep],
    )
    return rows, dropped


def _in_last_segment(ticks: TickSeries, product: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks ticks with no later segment of their product: segments are numbered in time order."""
    last = {code: ticks.segment[product == code].max() for code in np.unique(product)}
    mask = np.zeros(len(ticks), dtype=np.bool_)
    for code, segment in last.items():
        mask |= (product == code) & (ticks.segment == segment)
    return mask
