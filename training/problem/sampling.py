"""Thinning: neighbouring ticks share almost all of their label window, so few of them are evidence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def first_of_each(group: NDArray[np.int64], time_ns: NDArray[np.int64], period_ns: int) -> NDArray[np.bool_]:
    """Marks the first row of each group (product) in each period of the clock, shape (rows,).

    The choice looks at times only, never at values: live, every tick may be asked about, and none is
    more typical than the first of its second. A period of 0 keeps all.
    """
    if period_ns == 0:
        return np.ones(len(time_ns), dtype=np.bool_)
    period = time_ns // period_ns
    order = np.lexsort((np.arange(len(time_ns)), time_ns, group))
    first = np.ones(len(time_ns), dtype=np.bool_)
    first[1:] = (np.diff(period[order]) != 0) | (np.diff(group[order]) != 0)
    keep = np.empty(len(time_ns), dtype=np.bool_)
    keep[order] = first
    return keep
