"""The loops that NumPy is too slow for: ranks, weighted anew for each draw; and alarms, each after the last.

60,000 rows under 1,000 draws take 0.04 s here and 2.4 s in NumPy, whose (draws, rows) arrays go through
memory several times. scikit-learn with sample_weight is its twin in the tests.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np

LANES = 64  # 60,000 rows, 1,000 draws: 16 take 0.07 s, 64 take 0.04 s
_AREAS = "void(boolean[::1], int64[::1], boolean[::1], float64[:, ::1], float64[::1], float64[::1])"

_RAISES = "boolean[::1](int64[::1], int64[::1], int64)"


@cache
def areas() -> Any:
    """The kernel, compiled at the first call (about half a second)."""
    return numba.njit(_AREAS, nogil=True, error_model="numpy")(_areas)


@cache
def raises() -> Any:
    """The kernel of alarms, compiled at the first call."""
    return numba.njit(_RAISES, nogil=True)(_raises)


def _raises(time_ns: Any, stretch: Any, horizon_ns: Any) -> Any:
    """Marks the alerts (n,) that no earlier alarm speaks for."""
    marked = np.zeros(time_ns.shape[0], np.bool_)
    until, of_stretch = np.int64(0), np.int64(-1)
    for row in range(time_ns.shape[0]):
        if stretch[row] != of_stretch or time_ns[row] > until:
            marked[row] = True
            until, of_stretch = time_ns[row] + horizon_ns, stretch[row]
    return marked


def _areas(spike: Any, block: Any, ends_tie: Any, draws: Any, pr_auc: Any, roc_auc: Any) -> None:
    """Rows (n,) come from the highest probability down; draws is (blocks, d), results are (d,).

    LANES draws go along the rows together: the branch on a row's class, which nothing predicts, is taken once
    for all of them, and the rest is vector arithmetic. 6 times as fast as draw by draw, with the same bits.
    """
    lanes = np.zeros((draws.shape[0], LANES))
    hits, false, gained, gained_false = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    precision_sum, above = np.zeros(LANES), np.zeros(LANES)
    for first in range(0, draws.shape[1], LANES):
        width = min(LANES, draws.shape[1] - first)
        lanes[:, :width] = draws[:, first : first + width]
        for sums in (hits, false, gained, gained_false, precision_sum, above):
            sums[:] = 0.0
        for row in range(spike.shape[0]):
            weights = lanes[block[row]]
            if spike[row]:
                for lane in range(LANES):
                    gained[lane] += weights[lane]
            else:
                for lane in range(LANES):
                    gained_false[lane] += weights[lane]
            if ends_tie[row]:
                for lane in range(LANES):
                    above[lane] += gained_false[lane] * (hits[lane] + gained[lane] / 2)
                    hits[lane] += gained[lane]
                    false[lane] += gained_false[lane]
                    # A tie that no drawn row is in gains nothing; draws are whole, so any other is at least 1.
                    precision_sum[lane] += gained[lane] * hits[lane] / max(hits[lane] + false[lane], 1.0)
                    gained[lane] = 0.0
                    gained_false[lane] = 0.0
        for lane in range(width):
            spikes, others = hits[lane], false[lane]
            both = spikes > 0.0 and others > 0.0  # of one class, every order is as good as any other
            pr_auc[first + lane] = precision_sum[lane] / spikes if both else np.nan
            roc_auc[first + lane] = above[lane] / (spikes * others) if both else np.nan
