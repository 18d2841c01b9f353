"""Predictions joined with what happened. No Kafka, no clock: event time is all there is.

A prediction is of a tick, named by product, event time and sequence number. Its truth is the volatility over
(t, t + horizon], known once a tick later than that has come, or a gap. Both streams hold a product's records in the
order of its ticks, so one cursor a product finds the tick, and a record that comes again is told from a new one.

What is joined is thinned as training rows are: the first of each second and product that has a truth. What is not
joined is counted, by reason:
- thinned: another prediction stands for its second;
- missing: the record says that there is no probability;
- gap: its horizon reaches over a gap in the ticks;
- past_end: the ticks end within its horizon;
- no_tick: there is no such tick: it came before those read, or was forgotten for want of memory;
- repeated: it came before (delivery is at least once);
- overflow: too many waited for their ticks.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.monitoring.history import Stretch

PERIOD_NS = 1_000_000_000
KEPT_BEFORE_NS = 120_000_000_000  # behind the cursor: a crash repeats about a second
MAX_TICKS = 400_000  # of all products: 100 MB of full/1
MAX_WAITING = 200_000  # predictions


@dataclass(frozen=True, slots=True)
class Said:
    """One prediction."""

    product_id: str
    event_time_ns: int
    sequence_num: int
    model: str  # "NAME/VERSION"
    probability: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Joined:
    """Predictions and what followed, (n,), product by product; features (n, k) as of the tick, NaN where not warm."""

    said: list[Said]
    future_volatility: NDArray[np.float64]
    features: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.said)


@dataclass(slots=True)
class _Product:
    stretches: deque[Stretch] = field(default_factory=deque)  # the last one is open, if there is any
    unmatched: deque[Said] = field(default_factory=deque)
    pending: deque[tuple[Stretch, int, Said]] = field(default_factory=deque)
    next_number: int = 0  # in stretches[0]: what lies before is joined or was passed over
    last_period: int = -1


class Join:
    def __init__(
        self,
        horizon_ns: int,
        features: int,
        *,
        period_ns: int = PERIOD_NS,
        max_ticks: int = MAX_TICKS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._horizon_ns = horizon_ns
        self._features = features
        self._period_ns = period_ns
        self._max_ticks = max_ticks
        self._max_waiting = max_waiting
        self._products: dict[str, _Product] = {}
        self._ticks = 0
        self.unjoined: Counter[str] = Counter()
        self.joined = 0
        self.newest_tick_ns = 0
        self.newest_prediction_ns = 0

    @property
    def waiting(self) -> int:
        """Predictions without a truth yet."""
        return sum(len(one.unmatched) + len(one.pending) for one in self._products.values())

    @property
    def wants_predictions(self) -> bool:
        """Whether there is room for more: those that wait for ticks to be read fill half of it at most."""
        return self.waiting < self._max_waiting // 2

    def ticks(
        self,
        product_id: str,
        time_ns: NDArray[np.int64],
        sequence: NDArray[np.int64],
        mid: NDArray[np.float64],
        features: NDArray[np.float64],
    ) -> None:
        """The next ticks of a product, n > 0, as the feature engine used them; features (n, k)."""
        product = self._product(product_id)
        if not product.stretches or product.stretches[-1].closed:
            product.stretches.append(Stretch(self._features))
        product.stretches[-1].add(time_ns, sequence, mid, features)
        self._ticks += len(time_ns)
        self.newest_tick_ns = max(self.newest_tick_ns, int(time_ns[-1]))
        if self._ticks > self._max_ticks:
            self._forget()

    def gap(self, product_id: str) -> None:
        """What follows of the product does not join what came before."""
        product = self._product(product_id)
        if product.stretches:
            product.stretches[-1].closed = True

    def missing(self, reason: str) -> None:
        """A record that says why there is no probability."""
        self.unjoined[f"missing_{reason}"] += 1

    def predictions(self, said: Iterable[Said]) -> None:
        for one in said:
            self._product(one.product_id).unmatched.append(one)
            self.newest_prediction_ns = max(self.newest_prediction_ns, one.event_time_ns)

    def settle(self) -> Joined:
        """What has become known since the last call."""
        return self._settled(ended=False)

    def finish(self) -> Joined:
        """The streams have ended: what is not known by now never will be."""
        for product in self._products.values():
            if product.stretches:
                product.stretches[-1].closed = True
        joined = self._settled(ended=True)
        for product in self._products.values():
            self.unjoined["no_tick"] += len(product.unmatched)
            product.unmatched.clear()
        return joined

    def _product(self, product_id: str) -> _Product:
        return self._products.setdefault(product_id, _Product())

    def _settled(self, ended: bool) -> Joined:
        said: list[Said] = []
        volatility, features = [np.zeros(0)], [np.zeros((0, self._features))]
        for product in self._products.values():
            self._match(product, ended)
            for stretch, numbers, found in self._known(product):
                future = stretch.volatility_after(numbers, self._horizon_ns)
                kept = self._thin(product, found, future, ended and stretch is product.stretches[-1])
                said += [found[row] for row in kept]
                volatility.append(future[kept])
                features.append(stretch.features_of([numbers[row] for row in kept]))
            self._drop_old(product)
        self.joined += len(said)
        return Joined(said, np.concatenate(volatility), np.concatenate(features))

    def _match(self, product: _Product, ended: bool) -> None:
        """Finds the ticks of predictions, as far as they are here."""
        while product.unmatched:
            one = product.unmatched[0]
            found = self._find(product, one)
            if found is not None:
                stretch, number = found
                while product.stretches[0] is not stretch:
                    self._ticks -= len(product.stretches.popleft())
                product.next_number = number + 1
                product.pending.append((stretch, number, one))
            elif self._came_before(product, one):
                self.unjoined["repeated"] += 1
            elif ended or (product.stretches and product.stretches[-1].last_ns > one.event_time_ns):
                self.unjoined["no_tick"] += 1
            else:
                break  # its tick is still to come
            product.unmatched.popleft()
        while len(product.unmatched) > self._max_waiting:
            product.unmatched.popleft()
            self.unjoined["overflow"] += 1

    def _find(self, product: _Product, one: Said) -> tuple[Stretch, int] | None:
        for place, stretch in enumerate(product.stretches):
            first = product.next_number if place == 0 else 0
            number = stretch.find(one.event_time_ns, one.sequence_num, first)
            if number is not None:
                return stretch, number
        return None

    @staticmethod
    def _came_before(product: _Product, one: Said) -> bool:
        if not product.stretches:
            return False
        number = product.stretches[0].find(one.event_time_ns, one.sequence_num, 0)
        return number is not None and number < product.next_number

    def _known(self, product: _Product) -> Iterable[tuple[Stretch, list[int], list[Said]]]:
        """Predictions whose truth is known now, in order, by stretch."""
        while product.pending:
            stretch = product.pending[0][0]
            numbers, found = [], []
            while product.pending and product.pending[0][0] is stretch:
                _, number, one = product.pending[0]
                if not stretch.known_after(one.event_time_ns, self._horizon_ns):
                    break
                product.pending.popleft()
                numbers.append(number)
                found.append(one)
            if not numbers:
                return
            yield stretch, numbers, found

    def _thin(self, product: _Product, found: list[Said], future: NDArray[np.float64], at_end: bool) -> list[int]:
        kept = []
        for row, (one, volatility) in enumerate(zip(found, future.tolist(), strict=True)):
            period = one.event_time_ns // self._period_ns
            if volatility != volatility:
                self.unjoined["past_end" if at_end else "gap"] += 1
            elif period == product.last_period:
                self.unjoined["thinned"] += 1
            else:
                product.last_period = period
                kept.append(row)
        return kept

    def _drop_old(self, product: _Product) -> None:
        if not product.stretches or product.next_number == 0:
            return
        stretch = product.stretches[0]
        needed = product.next_number - 1
        for _, number, _ in product.pending:
            needed = min(needed, number)
            break
        if needed < stretch.dropped:
            return
        oldest_ns = int(stretch.time_ns[needed - stretch.dropped]) - KEPT_BEFORE_NS
        first = stretch.dropped + int(np.searchsorted(stretch.time_ns, oldest_ns, side="left"))
        self._ticks -= stretch.drop_before(first)

    def _forget(self) -> None:
        """Too many ticks wait for predictions that do not come: the older half of each product's go."""
        for product in self._products.values():
            while len(product.stretches) > 1:
                gone = product.stretches.popleft()
                product.next_number = 0
                self._give_up(product, gone, gone.end)
                self._ticks -= len(gone)
            for stretch in product.stretches:
                first = stretch.dropped + len(stretch) // 2
                self._give_up(product, stretch, first)
                self._ticks -= stretch.drop_before(first)

    def _give_up(self, product: _Product, stretch: Stretch, below: int) -> None:
        kept = deque(one for one in product.pending if one[0] is not stretch or one[1] >= below)
        self.unjoined["no_tick"] += len(product.pending) - len(kept)
        product.pending = kept
