"""Rows become events: spike episodes, alarms, false alarms and lead times.

Neighbouring rows share most of their outcome, so alerts are judged by events. With y(t) = 1 if the volatility over
(t, t + h] reaches the spike size, and an alert at t if the probability reaches the alert level:

- A *stretch* is rows of a product whose distances are at most the larger of h and three times the usual distance. No
  event spans two stretches.
- A *spike episode* is a run of rows with y = 1 in a stretch; rows at most h apart are in the same run. It begins at its
  first row, t0. The volatility of the past minute shows the spike at t0 + h.
- An *alarm* is a message to a person. The first alert raises an alarm, which covers the h after it; the first alert
  after that raises the next alarm. So permanent alerts raise an alarm every h.
- An episode is *caught* if an alert falls on a row of it. Its *lead time* is t0 + h minus the time of the first such
  alert: at most h, and below zero if the spike was visible before the alert. It is caught *in advance* if its lead time
  is above zero.
- An alarm is *false* if no alert in its h falls on a row with y = 1.
- *Observed time* is the sum of the distances between rows of a stretch; a stretch's last row counts the usual distance.
  Rates per hour refer to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.judging import kernels

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """Rows product by product, each in time order, cut into stretches. Arrays are (rows,)."""

    order: NDArray[np.int64]  # row numbers; the other arrays are in this order
    time_ns: NDArray[np.int64]
    stretch: NDArray[np.int64]
    seconds: NDArray[np.float64]  # observed until the next row
    horizon_ns: int

    @classmethod
    def of(cls, product: NDArray[np.int64], time_ns: NDArray[np.int64], horizon_ns: int) -> Self:
        order = np.lexsort((time_ns, product))
        time, code = time_ns[order], product[order]
        distance = np.diff(time)
        same = np.diff(code) == 0
        usual = int(np.median(distance[same])) if same.any() else horizon_ns
        broken = ~same | (distance > max(horizon_ns, 3 * usual))
        stretch = np.concatenate([[0], np.cumsum(broken)]).astype(np.int64)
        until_next = np.append(np.where(broken, usual, distance), usual)
        return cls(order, time, stretch, until_next / NS_PER_S, horizon_ns)

    @property
    def hours(self) -> float:
        return float(self.seconds.sum()) / 3600

    def runs(self, marked: NDArray[np.bool_]) -> Runs:
        """Runs of marked rows (rows, in line order) at most the horizon apart."""
        rows = np.flatnonzero(marked)
        apart = (np.diff(self.time_ns[rows]) > self.horizon_ns) | (np.diff(self.stretch[rows]) != 0)
        first = np.concatenate([[True], apart]) if len(rows) else np.zeros(0, np.bool_)
        last = np.concatenate([apart, [True]]) if len(rows) else np.zeros(0, np.bool_)
        return Runs(rows[first], rows[last])

    def alarms(self, alert: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Where an alarm is raised, given alerts (rows, in line order); (alarms,)."""
        rows = np.flatnonzero(alert)
        raises: NDArray[np.bool_] = kernels.raises()(self.time_ns[rows], self.stretch[rows], self.horizon_ns)
        return rows[raises]


@dataclass(frozen=True, slots=True)
class Runs:
    """First and last row of each run, places in the line, (runs,)."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, slots=True)
class Alarms:
    """What an alert rule did: for each episode and each alarm."""

    episodes: Runs
    lead_s: NDArray[np.float64]  # (episodes,) NaN where not caught
    raised: NDArray[np.int64]  # place in the line of each alarm's first alert, (alarms,)
    false: NDArray[np.bool_]  # (alarms,)


def alarms(line: Line, y: NDArray[np.int8], alert: NDArray[np.bool_]) -> Alarms:
    """y and alert are (rows,) in the rows' own order."""
    spike, warned = y[line.order] == 1, alert[line.order]
    episodes, raised = line.runs(spike), line.alarms(warned)
    hits = np.flatnonzero(spike & warned)
    first_hit = np.searchsorted(hits, episodes.first)
    caught = first_hit < np.searchsorted(hits, episodes.last, side="right")
    lead_s = np.full(len(episodes), np.nan)
    seen_ns = line.time_ns[episodes.first[caught]] + line.horizon_ns
    lead_s[caught] = (seen_ns - line.time_ns[hits[first_hit[caught]]]) / NS_PER_S
    # Alerts from one alarm up to the next are the first one's.
    following = np.append(raised[1:], len(warned))
    false = np.searchsorted(hits, raised) == np.searchsorted(hits, following)
    return Alarms(episodes, lead_s, raised, false)
