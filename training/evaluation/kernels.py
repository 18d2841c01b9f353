"""The one loop that NumPy is too slow for: ranks, weighted anew for each draw.

60,000 rows under 500 draws take 0.05 s here and 1.2 s in NumPy, whose (draws, rows) arrays go through
memory several times. scikit-learn with sample_weight is its twin in the tests.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np

_SIGNATURE = "void(boolean[::1], int64[::1], boolean[::1], float64[:, ::1], float64[::1], float64[::1])"


@cache
def areas() -> Any:
    """The kernel, compiled at the first call (about half a second)."""
    return numba.njit(_SIGNATURE, nogil=True)(_areas)


def _areas(spike: Any, block: Any, ends_tie: Any, draws: Any, pr_auc: Any, roc_auc: Any) -> None:
    """Rows (n,) come from the highest probability down; draws is (d, blocks), results are (d,)."""
    for draw in range(draws.shape[0]):
        weights = draws[draw]
        hits, false, hits_before, false_before = 0.0, 0.0, 0.0, 0.0
        precision_sum, above = 0.0, 0.0
        for row in range(spike.shape[0]):
            weight = weights[block[row]]
            if spike[row]:
                hits += weight
            else:
                false += weight
            if ends_tie[row]:
                gained = hits - hits_before
                if gained > 0.0:
                    precision_sum += gained * hits / (hits + false)
                above += (false - false_before) * (hits_before + hits) / 2
                hits_before, false_before = hits, false
        pr_auc[draw] = precision_sum / hits if hits > 0.0 else np.nan
        roc_auc[draw] = above / (hits * false) if hits > 0.0 and false > 0.0 else np.nan
