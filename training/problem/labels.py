"""What is to be predicted: y(t) = 1 where the realized volatility over (t, t + horizon] is at least τ.

Realized volatility is the square root of the sum of squared log-mid returns from tick to tick
(Andersen, Bollerslev, Diebold and Labys 2003, "Modeling and forecasting realized volatility",
Econometrica 71), the same quantity as the feature `volatility`, over the minute to come instead of
the minute past.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.problem.ticks import TickSeries


def future_volatility(ticks: TickSeries, horizon_ns: int) -> NDArray[np.float64]:
    """Realized volatility over (t, t + horizon] for each tick, shape (ticks,), log units.

    The sum runs over the returns of ticks whose time is in the window; a tick at the same time as t
    is not in it. NaN where the segment ends before t + horizon, since what is not fully observed has
    no label.
    """
    volatility = np.full(len(ticks), np.nan)
    for span in ticks.spans():
        time_ns = ticks.time_ns[span]
        # A running sum of squares never decreases, so a difference of two is never below zero.
        running = np.cumsum(ticks.squared_returns(span))
        last_at_t = np.searchsorted(time_ns, time_ns, side="right") - 1
        last_in_window = np.searchsorted(time_ns, time_ns + horizon_ns, side="right") - 1
        covered = time_ns + horizon_ns <= time_ns[-1]
        volatility[span] = np.where(covered, np.sqrt(running[last_in_window] - running[last_at_t]), np.nan)
    return volatility


def spike_threshold(training_volatility: NDArray[np.float64], quantile: float) -> float:
    """τ, to nine digits, from the future volatility of training rows (rows,). Pass nothing else in."""
    return float(f"{np.quantile(training_volatility, quantile):.9g}")


def labels(volatility: NDArray[np.float64], threshold: float) -> NDArray[np.int8]:
    """1 where a spike follows, else 0; shape (rows,)."""
    return (volatility >= threshold).astype(np.int8)
