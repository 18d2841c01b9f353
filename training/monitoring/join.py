"""Predictions joined with outcomes. No Kafka, no clock: event time decides.

A prediction belongs to a tick, named by product, event time and sequence number. Its outcome is the realized volatility
of the next minute (training/problem/target.py). It is known once a tick later than its last point has come, or a
gap. Both streams hold a product's records in the order of its ticks, so a cursor for each product finds the tick, and
a repeated record is recognized.

Joined predictions are thinned as training rows are: the first in each period and product that has an outcome. The rest
is counted, by reason:
- thinned: an earlier prediction stands for its period;
- missing: the record states that there is no probability;
- gap: its outcome reaches over a gap in the ticks;
- past_end: the ticks end before its outcome is known;
- no_tick: there is no such tick: it came before the first tick read, or was dropped to bound memory;
- repeated: it came before (delivery is at least once);
- overflow: too many predictions waited for their ticks.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.monitoring.history import Stretch
from training.problem.target import NS_PER_S, Target

PERIOD_NS = 5 * NS_PER_S
KEPT_BEFORE_NS = 120_000_000_000  # behind the cursor: a crash repeats about a second
MAX_TICKS = 400_000  # of all products: 130 MB of full/2
MAX_WAITING = 200_000  # predictions


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction. spike_bps: the size that the probability refers to; 0 if the record states none."""

    product_id: str
    event_time_ns: int
    sequence_num: int
    model: str  # "NAME/VERSION"
    probability: float
    threshold: float
    spike_bps: float = 0.0
    base_rate: float = 0.0
    median_bps: float = 0.0


@dataclass(frozen=True, slots=True)
class Joined:
    """Predictions and outcomes, (n,), product by product; features (n, k) as of the tick, NaN where not warm."""

    answers: list[Answer]
    outcome_bps: NDArray[np.float64]
    features: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.answers)


@dataclass(slots=True)
class _Product:
    stretches: deque[Stretch] = field(default_factory=deque)  # the last one is open, if there is any
    unmatched: deque[Answer] = field(default_factory=deque)
    pending: deque[tuple[Stretch, int, Answer]] = field(default_factory=deque)
    next_number: int = 0  # in stretches[0]: what lies before is joined or was passed over
    last_period: int = -1


class Join:
    def __init__(
        self,
        target: Target,
        features: int,
        *,
        period_ns: int = PERIOD_NS,
        max_ticks: int = MAX_TICKS,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._target = target
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
        """Predictions without an outcome yet."""
        return sum(len(product.unmatched) + len(product.pending) for product in self._products.values())

    @property
    def wants_predictions(self) -> bool:
        """Whether there is room for more predictions: waiting predictions fill at most half of it."""
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
            product.stretches.append(Stretch(self._target, self._features))
        product.stretches[-1].add(time_ns, sequence, mid, features)
        self._ticks += len(time_ns)
        self.newest_tick_ns = max(self.newest_tick_ns, int(time_ns[-1]))
        if self._ticks > self._max_ticks:
            self._forget()

    def gap(self, product_id: str) -> None:
        """Later ticks of the product begin a new stretch."""
        product = self._product(product_id)
        if product.stretches:
            product.stretches[-1].closed = True

    def missing(self, reason: str) -> None:
        """Counts a record that gives the reason for a missing probability."""
        self.unjoined[f"missing_{reason}"] += 1

    def predictions(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            self._product(answer.product_id).unmatched.append(answer)
            self.newest_prediction_ns = max(self.newest_prediction_ns, answer.event_time_ns)

    def settle(self) -> Joined:
        """Predictions whose outcome has become known since the last call."""
        return self._settled(ended=False)

    def finish(self) -> Joined:
        """The last joined predictions: the streams have ended."""
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
        answers: list[Answer] = []
        outcomes, features = [np.zeros(0)], [np.zeros((0, self._features))]
        for product in self._products.values():
            self._match(product, ended)
            for stretch, numbers, known in self._known(product):
                outcome = stretch.outcomes_bps(numbers)
                kept = self._thin(product, known, outcome, ended and stretch is product.stretches[-1])
                answers += [known[row] for row in kept]
                outcomes.append(outcome[kept])
                features.append(stretch.features_of([numbers[row] for row in kept]))
            self._drop_old(product)
        self.joined += len(answers)
        return Joined(answers, np.concatenate(outcomes), np.concatenate(features))

    def _match(self, product: _Product, ended: bool) -> None:
        """Finds the ticks of predictions, as far as they have come."""
        while product.unmatched:
            answer = product.unmatched[0]
            place = self._find(product, answer)
            if place is not None:
                stretch, number = place
                while product.stretches[0] is not stretch:
                    self._ticks -= len(product.stretches.popleft())
                product.next_number = number + 1
                product.pending.append((stretch, number, answer))
            elif self._came_before(product, answer):
                self.unjoined["repeated"] += 1
            elif ended or (product.stretches and product.stretches[-1].last_ns > answer.event_time_ns):
                self.unjoined["no_tick"] += 1
            else:
                break  # its tick may still come
            product.unmatched.popleft()
        while len(product.unmatched) > self._max_waiting:
            product.unmatched.popleft()
            self.unjoined["overflow"] += 1

    def _find(self, product: _Product, answer: Answer) -> tuple[Stretch, int] | None:
        for place, stretch in enumerate(product.stretches):
            first = product.next_number if place == 0 else 0
            number = stretch.find(answer.event_time_ns, answer.sequence_num, first)
            if number is not None:
                return stretch, number
        return None

    @staticmethod
    def _came_before(product: _Product, answer: Answer) -> bool:
        if not product.stretches:
            return False
        number = product.stretches[0].find(answer.event_time_ns, answer.sequence_num, 0)
        return number is not None and number < product.next_number

    def _known(self, product: _Product) -> Iterable[tuple[Stretch, list[int], list[Answer]]]:
        """Predictions whose outcome is known now, in order, by stretch."""
        while product.pending:
            stretch = product.pending[0][0]
            numbers, answers = [], []
            while product.pending and product.pending[0][0] is stretch:
                _, number, answer = product.pending[0]
                if not stretch.known_after(answer.event_time_ns):
                    break
                product.pending.popleft()
                numbers.append(number)
                answers.append(answer)
            if not numbers:
                return
            yield stretch, numbers, answers

    def _thin(self, product: _Product, answers: list[Answer], outcome: NDArray[np.float64], at_end: bool) -> list[int]:
        kept = []
        for row, (answer, volatility) in enumerate(zip(answers, outcome.tolist(), strict=True)):
            period = answer.event_time_ns // self._period_ns
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
        """Drops the older half of each product's ticks: too many wait for predictions."""
        for product in self._products.values():
            while len(product.stretches) > 1:
                oldest = product.stretches.popleft()
                product.next_number = 0
                self._give_up(product, oldest, oldest.end)
                self._ticks -= len(oldest)
            for stretch in product.stretches:
                first = stretch.dropped + len(stretch) // 2
                self._give_up(product, stretch, first)
                self._ticks -= stretch.drop_before(first)

    def _give_up(self, product: _Product, stretch: Stretch, below: int) -> None:
        kept = deque(entry for entry in product.pending if entry[0] is not stretch or entry[1] >= below)
        self.unjoined["no_tick"] += len(product.pending) - len(kept)
        product.pending = kept
