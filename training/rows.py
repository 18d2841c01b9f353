"""The rows a model learns from: usable ticks, thinned, each with what came after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training import baselines
from training.labels import future_volatility
from training.sampling import first_of_each
from training.ticks import NS_PER_S, TickSeries


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of (rows,) or (rows, k), in time order."""

    time_ns: NDArray[np.int64]
    product: NDArray[np.int64]
    features: NDArray[np.float64]  # (rows, 11), core/1
    har: NDArray[np.float64]  # (rows, 3), past realized volatility over baselines.HAR_WINDOWS_S
    ewma: NDArray[np.float64]
    future_volatility: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, index: NDArray[np.int64]) -> Rows:
        return Rows(
            time_ns=self.time_ns[index],
            product=self.product[index],
            features=self.features[index],
            har=self.har[index],
            ewma=self.ewma[index],
            future_volatility=self.future_volatility[index],
        )


def build_rows(
    ticks: TickSeries,
    product: NDArray[np.int64],
    features: NDArray[np.float64],
    warm: NDArray[np.bool_],
    horizon_s: int,
    sample_period_s: int,
) -> tuple[Rows, dict[str, int]]:
    """Labels, drops, thins and orders the ticks; says how many it dropped, by reason.

    product, features (ticks, 11) and warm run along the ticks. A tick counts under the first reason
    that applies to it:
    - not_warm: its feature window reaches over a gap or the start of the recording;
    - label_crosses_gap, label_past_end: its label window does, over a gap or the last tick;
    - thinned: another row of its product stands for its second.
    """
    volatility = future_volatility(ticks, horizon_s * NS_PER_S)
    labelled = ~np.isnan(volatility)
    crosses = warm & ~labelled & ~_in_last_segment(ticks, product)
    usable = np.flatnonzero(warm & labelled)
    keep = usable[first_of_each(product[usable], ticks.time_ns[usable], sample_period_s * NS_PER_S)]
    dropped = {
        "not_warm": int(np.count_nonzero(~warm)),
        "label_crosses_gap": int(np.count_nonzero(crosses)),
        "label_past_end": int(np.count_nonzero(warm & ~labelled & ~crosses)),
        "thinned": len(usable) - len(keep),
    }
    keep = keep[np.argsort(ticks.time_ns[keep], kind="stable")]
    rows = Rows(
        time_ns=ticks.time_ns,
        product=product,
        features=features,
        har=baselines.har_volatilities(ticks),
        ewma=baselines.ewma_volatility(ticks),
        future_volatility=volatility,
    )
    return rows.take(keep), dropped


def _in_last_segment(ticks: TickSeries, product: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks ticks with no later segment of their product: segments are numbered in time order."""
    last = {code: ticks.segment[product == code].max() for code in np.unique(product)}
    mask = np.zeros(len(ticks), dtype=np.bool_)
    for code, segment in last.items():
        mask |= (product == code) & (ticks.segment == segment)
    return mask
