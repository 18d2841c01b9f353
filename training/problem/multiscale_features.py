"""Features at many scales from a series of mids: what the research schemas are computed with.

The kernels are bare loops over whole columns; a window (t - w, t] is the ticks first[i] … i of tick i's own
segment, where first is found once a window. Sums over windows are differences of running sums, so that a
window in which nothing moved gives exactly zero. Their error is that of a sum over the whole series, about
1e-16 of it; the engine that serves (pipeline/features) is exact, and is another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from common.schema import FeatureSchema
from training.problem.schemas import QUOTES_1, window_s
from training.problem.ticks import NS_PER_S, TickSeries

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])

DECAY_PER_S = 0.94  # RiskMetrics' a day (J.P. Morgan/Reuters 1996, 4th ed.), taken a second
SLOW_HALF_LIFE_S = 300
DAY_NS = 86_400 * NS_PER_S


def _kernel(function: F) -> F:
    """Compiled at its first call, for contiguous int64 and float64, in a few tenths of a second."""
    return cast(F, numba.njit(nogil=True)(function))


@_kernel
def window_starts(time_ns: Ints, segment_start: Ints, window_ns: int) -> Ints:
    """The first tick of (t - window, t] for each tick, (n,); segment_start (n,) is its segment's first."""
    first = np.empty(len(time_ns), np.int64)
    start = 0
    for i in range(len(time_ns)):
        start = max(start, segment_start[i])
        while time_ns[start] <= time_ns[i] - window_ns:
            start += 1
        first[i] = start
    return first


@_kernel
def sums(values: Floats, first: Ints) -> Floats:
    """Σ values over first[i] … i, (n,)."""
    running = np.empty(len(values) + 1)
    running[0] = 0.0
    for i in range(len(values)):
        running[i + 1] = running[i] + values[i]
    out = np.empty(len(values))
    for i in range(len(values)):
        out[i] = running[i + 1] - running[first[i]]
    return out


@_kernel
def maxima(values: Floats, first: Ints) -> Floats:
    """The largest of values over first[i] … i, (n,); first never falls."""
    queue = np.empty(len(values), np.int64)  # ticks whose values fall from head to tail
    head, tail = 0, 0
    out = np.empty(len(values))
    for i in range(len(values)):
        while tail > head and values[queue[tail - 1]] <= values[i]:
            tail -= 1
        queue[tail] = i
        tail += 1
        while queue[head] < first[i]:
            head += 1
        out[i] = values[queue[head]]
    return out


@_kernel
def faded_sums(time_ns: Ints, values: Floats, segment_start: Ints, first: Ints, decay_per_s: float) -> Floats:
    """Σ decay^(age in s) · values over first[i] … i, (n,).

    The recursion's sum from the segment's start, less what has left the window, faded as far.
    """
    whole = np.empty(len(values))
    out = np.empty(len(values))
    log_decay = np.log(decay_per_s)
    for i in range(len(values)):
        if segment_start[i] == i:
            whole[i] = values[i]
        else:
            whole[i] = whole[i - 1] * np.exp(log_decay * (time_ns[i] - time_ns[i - 1]) * 1e-9) + values[i]
        out[i] = whole[i]
        if first[i] > segment_start[i]:
            left = first[i] - 1
            gone = whole[left] * np.exp(log_decay * (time_ns[i] - time_ns[left]) * 1e-9)
            out[i] = max(whole[i] - gone, 0.0)
    return out


class Scales:
    """A series with its windows: each method gives a column (ticks,)."""

    def __init__(self, ticks: TickSeries) -> None:
        self.time_ns = ticks.time_ns
        self.log_mid = np.log(ticks.mid)
        starts = np.zeros(len(ticks), np.int64)
        for span in ticks.spans():
            starts[span] = span.start
        self.segment_start = starts
        self.returns = np.diff(self.log_mid, prepend=self.log_mid[:1])
        self.returns[np.arange(len(ticks)) == starts] = 0.0  # none leads into a segment
        self.squares = np.square(self.returns)
        self._first: dict[int, Ints] = {}

    def first(self, window_s: int) -> Ints:
        if window_s not in self._first:
            self._first[window_s] = window_starts(self.time_ns, self.segment_start, window_s * NS_PER_S)
        return self._first[window_s]

    def warm(self, window_s: int) -> NDArray[np.bool_]:
        """Where the segment had begun by t - window."""
        return self.time_ns - window_s * NS_PER_S >= self.time_ns[self.segment_start]

    def volatility(self, window_s: int) -> Floats:
        return np.sqrt(sums(self.squares, self.first(window_s)))

    def ewma_volatility(self, window_s: int, decay_per_s: float) -> Floats:
        first = self.first(window_s)
        return np.sqrt(faded_sums(self.time_ns, self.squares, self.segment_start, first, decay_per_s))

    def bipower_volatility(self, window_s: int) -> Floats:
        """Barndorff-Nielsen and Shephard 2004, "Power and bipower variation with stochastic volatility and
        jumps", Journal of Financial Econometrics 2: jumps count for little in products of neighbours."""
        size = np.abs(self.returns)
        products = size * np.concatenate([[0.0], size[:-1]])
        products[np.arange(len(size)) == self.segment_start] = 0.0
        return np.sqrt(np.pi / 2 * sums(products, self.first(window_s)))

    def quarticity(self, window_s: int) -> Floats:
        fourth_root: Floats = np.power(sums(np.square(self.squares), self.first(window_s)), 0.25)
        return fourth_root

    def max_abs_return(self, window_s: int) -> Floats:
        return maxima(np.abs(self.returns), self.first(window_s))

    def downside_share(self, window_s: int) -> Floats:
        """Barndorff-Nielsen, Kinnebrock and Shephard 2010, "Measuring downside risk: realised semivariance"."""
        first = self.first(window_s)
        every = sums(self.squares, first)
        falls = sums(np.where(self.returns < 0, self.squares, 0.0), first)
        share: Floats = np.divide(falls, every, out=np.full(len(every), 0.5), where=every > 0)
        return share

    def returned(self, window_s: int) -> Floats:
        """Log of mid over mid as of t - window; the segment's first mid where it is younger."""
        return self.log_mid - self.log_mid[np.maximum(self.first(window_s) - 1, self.segment_start)]

    def range(self, window_s: int) -> Floats:
        first = self.first(window_s)
        return maxima(self.log_mid, first) + maxima(-self.log_mid, first)

    def deviation(self, values: Floats, window_s: int, centre: float) -> Floats:
        """Standard deviation of values over the ticks of the window.

        Values should lie within a few of `centre`: far from it the two sums would cancel. It is a constant,
        not the values' mean, which would know the series' end.
        """
        first = self.first(window_s)
        count = np.arange(1, len(first) + 1) - first
        centred = values - centre
        mean = sums(centred, first) / count
        variance: Floats = sums(np.square(centred), first) / count - np.square(mean)
        return np.sqrt(np.maximum(variance, 0.0))


def time_of_day(time_ns: Ints) -> tuple[Floats, Floats]:
    """Sine and cosine of the time of day in UTC, a day being a turn; (n,) each."""
    turn = 2 * np.pi * (time_ns % DAY_NS) / DAY_NS
    return np.sin(turn), np.cos(turn)


def quote_features(ticks: TickSeries) -> tuple[Floats, NDArray[np.bool_]]:
    """The features of quotes/1 for each poll, (ticks, features), and which rows are warm, (ticks,)."""
    scales = Scales(ticks)
    volatility = scales.volatility(60)
    sine, cosine = time_of_day(ticks.time_ns)
    columns = {
        "volatility": volatility,
        **{f"volatility_{window}s": scales.volatility(window) for window in (30, 120, 300, 900, 1800, 3600)},
        "ewma_volatility": scales.ewma_volatility(300, DECAY_PER_S),
        "ewma_volatility_3600s": scales.ewma_volatility(3600, 0.5 ** (1 / SLOW_HALF_LIFE_S)),
        "bipower_volatility": scales.bipower_volatility(60),
        "bipower_volatility_300s": scales.bipower_volatility(300),
        "quarticity_300s": scales.quarticity(300),
        "max_abs_return": scales.max_abs_return(60),
        "max_abs_return_300s": scales.max_abs_return(300),
        "max_abs_return_3600s": scales.max_abs_return(3600),
        "downside_share_300s": scales.downside_share(300),
        "return_5s": scales.returns,
        "return_60s": scales.returned(60),
        "return_300s": scales.returned(300),
        "return_3600s": scales.returned(3600),
        "range_300s": scales.range(300),
        "range_3600s": scales.range(3600),
        "volatility_of_volatility": scales.deviation(np.log(volatility + 1e-6), 1800, centre=-7.0),
        "time_of_day_sin": sine,
        "time_of_day_cos": cosine,
    }
    return stacked(QUOTES_1, columns), scales.warm(window_s(QUOTES_1))


def stacked(schema: FeatureSchema, columns: dict[str, Floats]) -> Floats:
    """Columns by name as a matrix in the schema's order. Raises KeyError where one is missing."""
    matrix = np.empty((len(next(iter(columns.values()))), len(schema)))
    for number, name in enumerate(schema.names):
        matrix[:, number] = columns[name]
    return matrix
