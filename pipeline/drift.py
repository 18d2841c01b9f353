"""How far what comes in now lies from what the model was trained on. Pure NumPy: no file, no clock, no Kafka.

Distances are population stability indices (PSI): Σ (p − q) ln(p / q) over the bins of a reference, the
symmetric Kullback–Leibler divergence of the two histograms (Yurdakul 2018, "Statistical properties of
population stability index"). By custom below 0.1 is no change to speak of, 0.25 and more a large one (Siddiqi
2006, "Credit risk scorecards"). The custom takes n independent rows for granted: with n of them and B bins a
PSI of about (B − 1) / n comes of chance alone, and neighbouring rows share their windows. So short spans are
shown, and only a day is judged (docs/drift.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.bundle import Bins, DriftReference
from common.errors import BundleError

MODERATE_PSI = 0.1
LARGE_PSI = 0.25

BINS = 10
NEAREST = 0.01  # of the range of the middle nine tenths: edges closer than that are one
# An empty bin would make the index infinite. Half a row in ten thousand is what stands for nothing.
LEAST_FRACTION = 5e-5

SAMPLE_PERIOD_NS = 1_000_000_000  # a live row a second and product; training takes one in 5 s
BUCKET_NS = 300_000_000_000
WINDOWS_NS = {"1h": 3600 * 10**9, "24h": 86_400 * 10**9}
BUCKETS = max(WINDOWS_NS.values()) // BUCKET_NS


def psi(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Index of fractions (…, bins) against fractions (…, bins), shape (…,). NaN where either holds nothing."""
    p, q = (np.maximum(one, LEAST_FRACTION) for one in (actual, expected))
    index: NDArray[np.float64] = np.sum((p - q) * np.log(p / q), axis=-1)
    empty = (np.sum(actual, axis=-1) <= 0) | (np.sum(expected, axis=-1) <= 0)
    return np.where(empty, np.nan, index)


def bins_of(values: NDArray[np.float64], bins: int = BINS) -> Bins:
    """Bins at the quantiles of the finite ones of (rows,), fewer where they lie too close to mean anything.

    A spread of one cent is a slightly other share of each price: without NEAREST its bins would be the bins of
    the price. Values that repeat are a bin of their own, so that one on either side is seen.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Bins((), (1.0,))
    quantiles = np.quantile(finite, np.arange(1, bins) / bins, method="higher")
    low, high = np.quantile(finite, (0.05, 0.95))
    edges = _apart(quantiles, NEAREST * float(high - low))
    counts = np.bincount(np.searchsorted(edges, finite, side="right"), minlength=len(edges) + 1)
    return Bins(tuple(edges.tolist()), tuple((counts / len(finite)).tolist()))


def _apart(edges: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Ascending edges (k,), where those closer than `least` become two, half of it outside of them."""
    found: list[float] = []
    for run in np.split(edges, np.flatnonzero((np.diff(edges) >= least) & (np.diff(edges) > 0)) + 1):
        first, last = float(run[0]), float(run[-1])
        if len(run) == 1:
            found.append(first)
        else:
            found += [first - least / 2, max(last + least / 2, float(np.nextafter(last, np.inf)))]
    return np.array(found)


def reference_of(
    names: Sequence[str], features: NDArray[np.float64], probability: NDArray[np.float64], threshold: float
) -> DriftReference:
    """The yardstick of a model, from the rows it was trained on: features (rows, names), probability (rows,)."""
    return DriftReference(
        rows=len(features),
        features={name: bins_of(features[:, column]) for column, name in enumerate(names)},
        probability=bins_of(probability),
        positive_rate=float(np.mean(probability >= threshold)),
        missing={name: float(np.mean(~np.isfinite(features[:, column]))) for column, name in enumerate(names)},
    )


class Thinning:
    """Marks the first row of each product in each second of event time, over batches that follow one another."""

    def __init__(self, period_ns: int = SAMPLE_PERIOD_NS) -> None:
        self._period_ns = period_ns
        self._last: dict[int, int] = {}  # product -> the period last seen

    def first_of_each(self, product: NDArray[np.int32], time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of (n,) rows to take; time does not fall within a product, but for a clock that was set back."""
        period = time_ns // self._period_ns
        keep = np.empty(len(period), np.bool_)
        for code in np.flatnonzero(np.bincount(product)).tolist():  # four times as fast as np.unique
            of = product == code
            mine = period[of]
            keep[of] = np.diff(mine, prepend=self._last.get(code, mine[0] - 1)) != 0
            self._last[code] = int(mine[-1])
        return keep


class RollingCounts:
    """Sums of counters over the last buckets of event time: `width` counters a bucket.

    Memory: buckets · width · 8 bytes. Where time falls, or rises, by more than all buckets hold (another
    recording follows), counting starts anew.
    """

    def __init__(self, width: int, buckets: int = BUCKETS, bucket_ns: int = BUCKET_NS) -> None:
        self._counts = np.zeros((buckets, width), np.int64)
        self._bucket_ns = bucket_ns
        self._newest = 0  # number of the newest bucket, counted from the epoch

    def add(self, time_ns: NDArray[np.int64], counters: NDArray[np.int64]) -> None:
        """Adds 1 to counters (n, k) of the rows at time_ns (n,); a counter below 0 stands for none."""
        if len(time_ns) == 0:
            return
        bucket = time_ns // self._bucket_ns
        first, last = int(bucket.min()), int(bucket.max())
        numbers = [first] if first == last else np.unique(bucket).tolist()
        for number in numbers:
            hit = (counters[bucket == number] if len(numbers) > 1 else counters).ravel()
            slot = self._slot(number)
            slot += np.bincount(hit[hit >= 0], minlength=len(slot))

    def total(self, window_ns: int) -> NDArray[np.int64]:
        """(width,) over the buckets of the last window_ns, the one in hand included."""
        buckets = len(self._counts)
        last = min(buckets, max(1, window_ns // self._bucket_ns))
        wanted = (self._newest - np.arange(last)) % buckets
        total: NDArray[np.int64] = self._counts[wanted].sum(axis=0)
        return total

    def _slot(self, number: int) -> NDArray[np.int64]:
        buckets = len(self._counts)
        if abs(number - self._newest) >= buckets:
            self._counts[:] = 0
            self._newest = number
        elif number > self._newest:
            self._counts[np.arange(self._newest + 1, number + 1) % buckets] = 0
            self._newest = number
        slot: NDArray[np.int64] = self._counts[number % buckets]
        return slot


@dataclass(frozen=True, slots=True)
class Drift:
    """Live rows of a window against the reference of one model."""

    rows: int
    features: Mapping[str, float]  # feature -> PSI; NaN while there is no row
    probability: float  # PSI
    positive_rate: float  # of probabilities at or above the threshold they came with


class DriftCounts:
    """Histograms of live rows in the bins of one model's reference.

    Features and probabilities lie side by side in one row of counters, so that a batch is one search a column
    and one bincount.
    """

    def __init__(self, reference: DriftReference, names: Sequence[str]) -> None:
        """Raises BundleError where the reference knows other features than `names`, or its bins do not fit."""
        missing = [name for name in names if name not in reference.features]
        if missing:
            raise BundleError(f"reference: no bins of {', '.join(missing)}")
        self.reference = reference
        self.names = tuple(names)
        spread = [reference.features[name] for name in names] + [reference.probability]
        for name, one in zip((*names, "probability"), spread, strict=True):
            if len(one.fractions) != len(one.edges) + 1:
                raise BundleError(f"reference: {name}: {len(one.edges)} edges and {len(one.fractions)} fractions")
        self._edges = [np.array(one.edges) for one in spread]
        self._width = max(len(one.fractions) for one in spread)
        self._expected = np.zeros((len(spread), self._width))
        for row, one in enumerate(spread):
            self._expected[row, : len(one.fractions)] = one.fractions
        self._rolling = RollingCounts(len(spread) * self._width + 1)
        self.newest_ns = 0

    def add(
        self,
        time_ns: NDArray[np.int64],
        features: NDArray[np.float64],
        probability: NDArray[np.float64],
        threshold: float,
    ) -> None:
        """Counts rows: time_ns (n,), features (n, names), probability (n,). What is not finite has no bin."""
        if len(time_ns) == 0:
            return
        values = np.column_stack([features, probability])
        counters = np.empty((len(time_ns), len(self._edges) + 1), np.int64)
        for column, edges in enumerate(self._edges):
            counters[:, column] = np.searchsorted(edges, values[:, column], side="right")
        counters[:, :-1] += self._width * np.arange(len(self._edges))
        finite = np.isfinite(values)
        if not finite.all():
            counters[:, :-1][~finite] = -1
        counters[:, -1] = np.where(probability >= threshold, len(self._edges) * self._width, -1)
        self._rolling.add(time_ns, counters)
        self.newest_ns = int(time_ns.max())

    def drift(self, window_ns: int) -> Drift:
        total = self._rolling.total(window_ns)
        counts = total[:-1].reshape(len(self._edges), self._width)
        rows = counts.sum(axis=1)
        indices = psi(self._expected, counts / np.maximum(rows, 1)[:, np.newaxis])
        predicted = int(rows[-1])
        return Drift(
            rows=predicted,
            features=dict(zip(self.names, indices[:-1].tolist(), strict=True)),
            probability=float(indices[-1]),
            positive_rate=int(total[-1]) / predicted if predicted else float("nan"),
        )


class MissingCounts:
    """Rates of feature values that are no number, over windows of event time."""

    def __init__(self, features: int) -> None:
        self._features = features
        self._rolling = RollingCounts(features + 1)

    def add(self, time_ns: NDArray[np.int64], features: NDArray[np.float64]) -> None:
        """Counts rows: time_ns (n,), features (n, k)."""
        self._rolling.add(time_ns, np.full((len(time_ns), 1), self._features))
        finite = np.isfinite(features)
        if not finite.all():
            self._rolling.add(time_ns, np.where(finite, -1, np.arange(self._features)))

    def rates(self, window_ns: int) -> tuple[int, NDArray[np.float64]]:
        """Rows, and the rate of each feature (k,); NaN while there is no row."""
        total = self._rolling.total(window_ns)
        rows = int(total[-1])
        return rows, total[:-1] / rows if rows else np.full(self._features, np.nan)


def psi_between(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """PSI of the finite ones of (m,) in the bins of the finite ones of (n,); NaN where either has none."""
    spread, finite = bins_of(reference), current[np.isfinite(current)]
    if len(finite) == 0 or not np.isfinite(reference).any():
        return float("nan")
    counts = np.bincount(np.searchsorted(spread.edges, finite, side="right"), minlength=len(spread.fractions))
    return float(psi(np.array(spread.fractions), counts / len(finite)))
