"""The one feature engine: live ticks, replay and training get the same bits from the same ticks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from common.schema import CORE_1, FeatureSchema
from pipeline.features import kernels
from pipeline.features.columns import TickColumns
from pipeline.features.sums import WORDS

FIRST_PRODUCTS = 8
FIRST_RING_TICKS = 256  # a quiet market's minute: 60 s at 4 ticks/s


class Status(IntEnum):
    """What became of a record."""

    OK = kernels.OK
    GAP = kernels.GAP
    JUMPED_BACK = kernels.JUMPED_BACK
    REPEATED = kernels.REPEATED


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """One row a record, in order."""

    status: NDArray[np.uint8]  # (n,) Status
    warm: NDArray[np.bool_]  # (n,) all features are warm
    values: NDArray[np.float64]  # (n, 11) in the schema's order and units; NaN where not warm


class FeatureEngine:
    """Rolling windows (t - w, t] over each product's ticks, as of the tick at t.

    A gap starts a product's history anew. A feature over the window w is warm once t - w is at or after
    the first tick of the unbroken history, else NaN; price, mid, spreads and imbalance always are. A tick
    older than the product's last one (JUMPED_BACK) or the same in all its values (REPEATED) is not used.

    The answer depends on the ticks alone: not on how they are cut into batches, and, once the window is
    full, not on what came before the last tick at or before t - 60 s. So an engine that starts there
    gives the same bits as one that never stopped.

    Memory a product: 24 bytes for each tick of its busiest minute, rounded up to a power of two.
    """

    schema: FeatureSchema = CORE_1
    _kernel = staticmethod(kernels.compiled)  # benchmarks put others here

    def __init__(self) -> None:
        self._cursors = np.zeros((0, kernels.CURSORS), np.int64)
        self._last = np.zeros((0, kernels.LAST_VALUES), np.float64)
        self._sums = np.zeros((0, WORDS), np.uint64)
        # The rings of all products, one after another.
        self._times = np.zeros(0, np.int64)
        self._mids = np.zeros(0, np.float64)
        self._squares = np.zeros(0, np.float64)
        self._ring_end = 0

    @property
    def memory_bytes(self) -> int:
        """What the state takes."""
        state = (self._cursors, self._last, self._sums, self._times, self._mids, self._squares)
        return sum(array.nbytes for array in state)

    def compile(self) -> None:
        """Compiles what update() runs (about two seconds, once a process). Call before saying ready."""
        self._kernel()

    def update(self, ticks: TickColumns) -> FeatureBatch:
        """Takes records in order and gives a row for each. Raises ValueError for a negative product code."""
        rows = len(ticks)
        status = np.empty(rows, np.uint8)
        warm = np.empty(rows, np.bool_)
        values = np.empty((rows, kernels.FEATURES), np.float64)
        kernel = self._kernel()
        done = 0
        while True:
            done = kernel(
                done, ticks.product, ticks.kind, ticks.event_time_ns, ticks.sequence_num,
                ticks.price, ticks.bid, ticks.ask, ticks.bid_quantity, ticks.ask_quantity,
                self._cursors, self._last, self._sums, self._times, self._mids, self._squares,
                status, warm, values,
            )  # fmt: skip
            if done == rows:
                return FeatureBatch(status, warm, values)
            self._make_room(int(ticks.product[done]))

    def _make_room(self, product: int) -> None:
        if product < 0:
            raise ValueError(f"product code {product}: expected 0 or more")
        if product < len(self._cursors):
            self._grow_ring(product)
        else:
            self._grow_products(product + 1)

    def _grow_products(self, least: int) -> None:
        known = len(self._cursors)
        more = max(least, 2 * known, FIRST_PRODUCTS) - known
        self._cursors = np.concatenate([self._cursors, np.zeros((more, kernels.CURSORS), np.int64)])
        self._last = np.concatenate([self._last, np.zeros((more, kernels.LAST_VALUES))])
        self._sums = np.concatenate([self._sums, np.zeros((more, WORDS), np.uint64)])
        for product in range(known, known + more):
            self._place_ring(product, FIRST_RING_TICKS)

    def _grow_ring(self, product: int) -> None:
        """Doubles a ring: a copy at the end of the pool, in which tick i keeps its number."""
        cursor = self._cursors[product]
        old_offset, old_mask = cursor[kernels.OFFSET], cursor[kernels.MASK]
        kept = np.arange(cursor[kernels.OLDEST], cursor[kernels.COUNT])
        source = old_offset + (kept & old_mask)
        ticks = self._times[source], self._mids[source], self._squares[source]
        self._place_ring(product, 2 * (int(old_mask) + 1))
        target = cursor[kernels.OFFSET] + (kept & cursor[kernels.MASK])
        self._times[target], self._mids[target], self._squares[target] = ticks

    def _place_ring(self, product: int, capacity: int) -> None:
        if self._ring_end + capacity > len(self._times):
            self._compact(capacity)
        self._cursors[product, kernels.OFFSET] = self._ring_end
        self._cursors[product, kernels.MASK] = capacity - 1
        self._ring_end += capacity

    def _compact(self, more: int) -> None:
        """Moves the rings in use to a pool twice as large as they and `more` need."""
        offsets = self._cursors[:, kernels.OFFSET]
        capacities = np.where(self._cursors[:, kernels.MASK] > 0, self._cursors[:, kernels.MASK] + 1, 0)
        ends = np.cumsum(capacities)
        pool = 2 * (int(ends[-1]) + more)
        times, mids, squares = np.zeros(pool, np.int64), np.zeros(pool), np.zeros(pool)
        for product, (old, end, capacity) in enumerate(zip(offsets, ends, capacities, strict=True)):
            source, target = slice(old, old + capacity), slice(end - capacity, end)
            times[target], mids[target], squares[target] = (
                self._times[source],
                self._mids[source],
                self._squares[source],
            )
            self._cursors[product, kernels.OFFSET] = end - capacity
        self._times, self._mids, self._squares = times, mids, squares
        self._ring_end = int(ends[-1])
