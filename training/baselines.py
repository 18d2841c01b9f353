"""Volatilities of the past minute that a model has to beat, from ticks.

Each baseline is one of these put through a logistic regression of its own (models.py), so that it
gives probabilities too and is compared on every metric, not only on ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.labels import past_volatility
from training.ticks import NS_PER_S, TickSeries

EWMA_DECAY = 0.94  # a second: RiskMetrics (J.P. Morgan/Reuters 1996, 4th ed.) has 0.94 a day for daily returns
HAR_WINDOWS_S = (5, 30, 60)


def ewma_volatility(ticks: TickSeries, decay_per_s: float = EWMA_DECAY) -> NDArray[np.float64]:
    """Exponentially weighted volatility as of each tick, shape (ticks,), from the segment's start.

    variance(t) = Σ decay^(age in s) · r². RiskMetrics' recursion carried over to ticks that come at
    any time; its factor 1 − decay is left out, being the same for all.
    """
    volatility = np.empty(len(ticks))
    for span in ticks.spans():
        fade = decay_per_s ** (np.diff(ticks.time_ns[span], prepend=ticks.time_ns[span.start]) / NS_PER_S)
        variance = 0.0
        values = []
        for keep, square in zip(fade.tolist(), ticks.squared_returns(span).tolist(), strict=True):
            variance = variance * keep + square
            values.append(variance)
        volatility[span] = np.sqrt(values)
    return volatility


def har_volatilities(ticks: TickSeries) -> NDArray[np.float64]:
    """Realized volatility over the last 5, 30 and 60 s as of each tick, shape (ticks, 3).

    The heterogeneous autoregressive model (Corsi 2009, "A simple approximate long-memory model of
    realized volatility", Journal of Financial Econometrics 7) regresses the volatility of the next
    period on that of a short, a middle and a long one; here seconds stand for its day, week and month.
    """
    return np.column_stack([past_volatility(ticks, window_s * NS_PER_S) for window_s in HAR_WINDOWS_S])
