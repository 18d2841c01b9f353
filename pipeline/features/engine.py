"""The one feature engine: live ticks, replay and training get the same bits from the same ticks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.schema import CORE_1, FULL_1, FULL_2, SCHEMAS, FeatureSchema
from pipeline.features import full, kernels, state
from pipeline.features.columns import TickColumns

FIRST_PRODUCTS = 8
NO_TIME = -1  # before every event time
FIRST_RING_TICKS = 256  # a quiet market's minute: 60 s at 4 ticks/s


class Status(IntEnum):
    """What became of a record."""

    OK = kernels.OK
    GAP = kernels.GAP
    JUMPED_BACK = kernels.JUMPED_BACK
    REPEATED = kernels.REPEATED


_KERNELS = {CORE_1.name: kernels.KERNEL, FULL_1.name: full.KERNEL_1, FULL_2.name: full.KERNEL_2}


def longest_ns(schema: FeatureSchema) -> int:
    """The longest window of a schema of SCHEMAS: how much unbroken history a row needs to be warm."""
    return _KERNELS[schema.name].longest_ns


def reach_ns(schema: FeatureSchema) -> int:
    """How far back a row of a schema of SCHEMAS depends on the unbroken history.

    An engine that begins with the last tick used at or before t - reach_ns gives the row at t the same bits as an
    engine that never stopped.
    """
    return _KERNELS[schema.name].reach_ns


class FeatureBatch(NamedTuple):  # made per call, in half the time of a frozen dataclass
    """One row a record, in order."""

    status: NDArray[np.uint8]  # (n,) Status
    warm: NDArray[np.bool_]  # (n,) all features are warm
    values: NDArray[np.float64]  # (n, features) in the schema's order and units; NaN where not warm


class FeatureEngine:
    """Rolling windows (t - w, t] over each product's ticks, as of the tick at t.

    A gap starts a product's history anew. A feature over the window w is warm once t - w is at or after
    the first tick of the unbroken history, else NaN; those of the tick alone (price, mid, spreads, imbalance,
    time of day) always are. A tick older than the product's last one (JUMPED_BACK) or the same in all its
    values (REPEATED) is not used.

    The answer depends on the ticks alone: not on how they are cut into batches, and not on what came before the last
    tick at or before t - reach_ns. So an engine that starts there gives the same bits as one that never stopped.

    schema: CORE_1 (longest window 60 s), FULL_1 (300 s), whose first columns are core/1's, or FULL_2 (300 s, and as
    much of the trailing hour as is known), whose first columns are full/1's; ValueError for another.

    Memory a product: for each tick of its busiest longest window, rounded up to a power of two, 24 bytes
    (core/1) or 56 (full/1 and full/2), and 5 kB for full/1 or 28 kB for full/2.
    """

    _kernels: Mapping[str, kernels.Kernel] = _KERNELS

    def __init__(self, schema: FeatureSchema = CORE_1) -> None:
        if SCHEMAS.get(schema.name) != schema:
            raise ValueError(f"schema {schema.name} ({schema.hash}): expected {' or '.join(SCHEMAS)}")
        self.schema = schema
        self._kernel = self._kernels[schema.name]
        self._products: list[NDArray[Any]] = [np.zeros((0, *shape), dtype) for shape, dtype in self._kernel.of_product]
        # The rings of all products, one after another.
        self._rings: list[NDArray[Any]] = [np.zeros(0, dtype) for dtype in self._kernel.of_tick]
        self._ring_end = 0

    @property
    def longest_ns(self) -> int:
        """The longest window: how much unbroken history a row needs to be warm."""
        return self._kernel.longest_ns

    @property
    def memory_bytes(self) -> int:
        """What the state takes."""
        return sum(array.nbytes for array in (*self._products, *self._rings))

    def compile(self) -> None:
        """Compiles what update() runs (core/1 about two seconds, full/1 about five, once a process).

        Call before saying ready.
        """
        self._kernel.compiled()

    def update(self, ticks: TickColumns) -> FeatureBatch:
        """Takes records in order and gives a row for each. Raises ValueError for a negative product code."""
        rows = len(ticks)
        status = np.empty(rows, np.uint8)
        warm = np.empty(rows, np.bool_)
        values = np.empty((rows, self._kernel.features), np.float64)
        kernel = self._kernel.compiled()
        done = 0
        while True:
            done = kernel(
                done, ticks.product, ticks.kind, ticks.event_time_ns, ticks.sequence_num,
                ticks.price, ticks.bid, ticks.ask, ticks.bid_quantity, ticks.ask_quantity,
                *self._products, *self._rings, status, warm, values,
            )  # fmt: skip
            if done == rows:
                return FeatureBatch(status, warm, values)
            self._make_room(int(ticks.product[done]))

    def last_times_ns(self, product: NDArray[np.int32]) -> NDArray[np.int64]:
        """Event time of the last tick used of each product (n,); NO_TIME for a product without history."""
        times = np.full(len(product), NO_TIME, np.int64)
        known = np.flatnonzero(product < len(self._cursors))
        cursors = self._cursors[product[known]]
        begun = cursors[:, kernels.COUNT] > 0
        cursors = cursors[begun]
        newest = cursors[:, kernels.OFFSET] + ((cursors[:, kernels.COUNT] - 1) & cursors[:, kernels.MASK])
        times[known[begun]] = self._rings[0][newest]
        return times

    def state(self, product: int) -> bytes:
        """What restore() needs to go on with the same bits; empty for a product without history (see `state`).

        core/1: about 150 bytes and 24 for each tick of the last minute; full/1: 5 kB and 56 for each of five.
        """
        if not 0 <= product < len(self._cursors) or not self._cursors[product, kernels.COUNT]:
            return b""
        place = self._place(product)
        of_product = [array[product] for array in self._products]
        taken = state.taken(self._kernel, of_product, [ring[place] for ring in self._rings])
        return state.encoded(taken, self.schema)

    def restore(self, product: int, data: bytes) -> None:
        """Puts state(), of this engine or another, in place of the product's own.

        Raises ValueError for a negative code, another schema or format version, and damage; the engine is then
        as it was.
        """
        if product < 0:
            raise ValueError(f"product code {product}: expected 0 or more")
        restored = state.decoded(data, self._kernel, self.schema) if data else None
        if product >= len(self._cursors):
            self._grow_products(product + 1)
        if restored is None:
            self._cursors[product, kernels.COUNT] = 0
            return
        capacity = int(self._cursors[product, kernels.MASK]) + 1
        while capacity < restored.ticks:
            capacity *= 2
        if capacity > self._cursors[product, kernels.MASK] + 1:
            self._place_ring(product, capacity)
        place = self._place(product)
        for of_all, of_one in zip(self._products, restored.of_product, strict=True):
            of_all[product] = of_one
        self._cursors[product, [kernels.OFFSET, kernels.MASK]] = place.start, capacity - 1
        for ring, values in zip(self._rings, restored.of_ticks, strict=True):
            ring[place.start : place.start + restored.ticks] = values

    @property
    def _cursors(self) -> NDArray[np.int64]:
        return self._products[0]

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
        self._products = [
            np.concatenate([of_all, np.zeros((more, *of_all.shape[1:]), of_all.dtype)]) for of_all in self._products
        ]
        for product in range(known, known + more):
            self._place_ring(product, FIRST_RING_TICKS)

    def _grow_ring(self, product: int) -> None:
        """Doubles a ring. Both halves are copies of the old one, so whatever stood at i & mask still does."""
        old = self._place(product)
        kept = [ring[old].copy() for ring in self._rings]
        self._place_ring(product, 2 * len(kept[0]))
        new = self._place(product)
        for ring, values in zip(self._rings, kept, strict=True):
            ring[new] = np.tile(values, 2)

    def _place(self, product: int) -> slice:
        cursor = self._cursors[product]
        offset, mask = int(cursor[kernels.OFFSET]), int(cursor[kernels.MASK])
        return slice(offset, offset + mask + 1)

    def _place_ring(self, product: int, capacity: int) -> None:
        if self._ring_end + capacity > len(self._rings[0]):
            self._compact(capacity)
        self._cursors[product, kernels.OFFSET] = self._ring_end
        self._cursors[product, kernels.MASK] = capacity - 1
        self._ring_end += capacity

    def _compact(self, more: int) -> None:
        """Moves the rings in use to a pool twice as large as they and `more` need."""
        used = [self._place(product) for product in np.flatnonzero(self._cursors[:, kernels.MASK]).tolist()]
        capacities = [place.stop - place.start for place in used]
        end = sum(capacities)
        pools = [np.zeros(2 * (end + more), ring.dtype) for ring in self._rings]
        for pool, ring in zip(pools, self._rings, strict=True):
            moved = [ring[place] for place in used]
            pool[:end] = np.concatenate(moved) if moved else 0
        self._cursors[self._cursors[:, kernels.MASK] > 0, kernels.OFFSET] = np.cumsum([0, *capacities])[:-1]
        self._rings = pools
        self._ring_end = end
