"""Latency distributions in constant memory: buckets a thirty-second of an octave wide, so 2 % apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS_PER_OCTAVE = 32
OCTAVES = 48  # 1 ns to 78 hours


class LatencyHistogram:
    """Counts of durations in ns; quantiles are off by at most a bucket."""

    def __init__(self) -> None:
        self._counts = np.zeros(OCTAVES * BUCKETS_PER_OCTAVE, np.int64)
        self.count = 0
        self.sum_ns = 0

    def add(self, durations_ns: NDArray[np.int64]) -> None:
        """Takes durations of shape (n,), ns. A duration below 1 ns (clocks that disagree) counts as 1 ns."""
        if not durations_ns.size:
            return
        positive = np.maximum(durations_ns, 1)
        buckets = (np.log2(positive) * BUCKETS_PER_OCTAVE).astype(np.int64)
        np.add.at(self._counts, np.minimum(buckets, len(self._counts) - 1), 1)
        self.count += durations_ns.size
        self.sum_ns += int(positive.sum())

    def quantile_ns(self, q: float) -> float:
        """The q-quantile, ns; NaN if nothing was counted."""
        if not self.count:
            return float("nan")
        bucket = int(np.searchsorted(np.cumsum(self._counts), q * self.count, side="left"))
        return float(2.0 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE))

    def as_ms(self) -> dict[str, float | None]:
        """p50 and p99 in ms; None if nothing was counted."""
        return {f"p{round(q * 100)}": self._ms(q) for q in (0.5, 0.99)}

    def below(self, limits_ns: list[float]) -> list[int]:
        """How many durations lie below each limit: Prometheus' cumulative buckets."""
        totals = np.concatenate([[0], np.cumsum(self._counts)])
        edges = np.clip(np.round(np.log2(limits_ns) * BUCKETS_PER_OCTAVE).astype(np.int64), 0, len(self._counts))
        return [int(total) for total in totals[edges]]

    def _ms(self, q: float) -> float | None:
        return round(self.quantile_ns(q) / 1e6, 4) if self.count else None


class Stages:
    """The time from a tick to its prediction, by stage. Rows without a prediction are left out."""

    NAMES = ("transport", "features", "predict", "total")

    def __init__(self) -> None:
        self.transport = LatencyHistogram()  # received from the exchange -> read from Kafka
        self.features = LatencyHistogram()  # read -> features computed
        self.predict = LatencyHistogram()  # features computed -> answered by the inference server
        self.total = LatencyHistogram()  # received from the exchange -> prediction

    def as_ms(self) -> dict[str, Any]:
        return {name: getattr(self, name).as_ms() for name in self.NAMES}
