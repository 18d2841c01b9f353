"""What happened after each tick, and the predictions that were made there.

A tick's truth is its label's source, the realized volatility over (t, t + horizon] (labels.py), known once
the recording has gone on for the horizon. Predictions and rows are named by product, event time and
sequence number; ticks of one time share one truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ANY_SEQUENCE = -1


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of ticks, (n,) each. sequence_num is ANY_SEQUENCE where it is not known."""

    product: NDArray[np.int64]  # codes, the same in all that is joined
    event_time_ns: NDArray[np.int64]
    sequence_num: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.event_time_ns)

    @classmethod
    def without_sequence(cls, product: NDArray[np.int64], event_time_ns: NDArray[np.int64]) -> Keys:
        return cls(product, event_time_ns, np.full(len(event_time_ns), ANY_SEQUENCE))


def match(wanted: Keys, given: Keys) -> NDArray[np.int64]:
    """For each key wanted its row in `given`, else -1; shape (wanted,).

    Where either side knows no sequence number, product and time decide, and the lowest sequence number of
    that time is taken. Of rows given twice under one key (delivery is at least once) the first is taken.
    """
    if len(given) == 0:
        return np.full(len(wanted), -1)
    by_time = _first(
        np.stack([wanted.product, wanted.event_time_ns], axis=1),
        np.stack([given.product, given.event_time_ns], axis=1),
        np.lexsort((np.arange(len(given)), given.sequence_num)),
    )
    by_sequence = _first(_triples(wanted), _triples(given), np.arange(len(given)))
    unknown = (wanted.sequence_num == ANY_SEQUENCE) | (given.sequence_num[by_time] == ANY_SEQUENCE)
    return np.where(unknown, by_time, by_sequence)


def _triples(keys: Keys) -> NDArray[np.int64]:
    return np.stack([keys.product, keys.event_time_ns, keys.sequence_num], axis=1)


def _first(wanted: NDArray[np.int64], given: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row of wanted (w, k) the equal row of given (g, k) that comes first in `order`, else -1."""
    unique, number = np.unique(np.concatenate([wanted, given[order]]), axis=0, return_inverse=True)
    number = number.reshape(-1)
    first = np.full(len(unique), -1)
    # Written from the back, so that the first of equal ones stays.
    first[number[len(wanted) :][::-1]] = order[::-1]
    found: NDArray[np.int64] = first[number[: len(wanted)]]
    return found
