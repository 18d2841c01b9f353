"""Compares the faults that an exchange injected with the gaps that `volcast check` names.

Both are placed by the position of their messages in the feed, since numbers begin anew with each connection.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from pipeline.exchange.faults import CLOCK_JUMP_S, Fault
from pipeline.exchange.items import Item, Restart
from pipeline.records import Tick
from pipeline.stream.gaps import GapSpan, Place

# The message does not arrive in time as a tick, and nothing later makes up for it.
LOSES_MESSAGE = frozenset((Fault.DROP, Fault.REORDER, Fault.DELAY, Fault.GARBAGE, Fault.CUT))
# The connection ends, so ingest cannot know what it missed. A silence ends it after `ingest.silence_s`.
ENDS_CONNECTION = frozenset((Fault.CUT, Fault.SILENCE, Fault.RECONNECT_STORM, Fault.REFUSED_SUBSCRIPTION))
HARMLESS = frozenset((Fault.REPEAT, Fault.SPLIT, Fault.SLOW))
CLOCK_JUMP_NS = CLOCK_JUMP_S * 10**9


class InjectedFault(msgspec.Struct, frozen=True):
    """A line of `volcast exchange --fault-log`."""

    fault: Fault
    position: int
    connection: int
    products: tuple[str, ...]
    sequence_num: int | None
    event_time_ns: int | None


@dataclass(frozen=True, slots=True)
class Naming:
    """The result. Both lists should be empty."""

    unnamed: list[str] = field(default_factory=list)  # injected faults that lose messages, without a gap
    unexplained: list[str] = field(default_factory=list)  # gaps without an injected fault
    expected: int = 0  # pairs of an injected fault and a product that must have a gap


class Positions:
    """The messages of a feed by product and event time, and the places where the feed itself has gaps."""

    def __init__(self, feed: Iterable[Item | Restart]) -> None:
        self._by_time: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.breaks: list[int] = []  # positions of messages before which the recording breaks off or lacks messages
        position, broken = 0, False
        for item in feed:
            if isinstance(item, Restart):
                broken = True
                continue
            if broken or item.lost:
                self.breaks.append(position)
                broken = False
            for product in item.products:
                self._by_time[product, item.event_time_ns or 0].append(position)
            position += 1

    def of(self, product: str, event_time_ns: int) -> list[int]:
        """Positions of the product's messages of that time, also if the fault clock-jump moved the time."""
        for moved_ns in (0, -CLOCK_JUMP_NS, CLOCK_JUMP_NS):
            known = self._by_time.get((product, event_time_ns + moved_ns))
            if known:
                return known
        return []


def compare(
    injected: Sequence[InjectedFault], spans: Sequence[GapSpan], ticks: Iterable[Tick], positions: Positions
) -> Naming:
    """ticks: those of ticks.raw. A fault before a product's first tick or after its last tick needs no gap."""
    limits: dict[str, tuple[float, float]] = {}
    for tick in ticks:
        first, last = limits.get(tick.product_id, (math.inf, -1.0))
        at = positions.of(tick.product_id, tick.event_time_ns)
        limits[tick.product_id] = min([first, *at]), max([last, *at])
    placed = [(span, *_bounds(span, positions)) for span in spans]
    unnamed, expected = [], 0
    for fault in injected:
        if fault.fault not in LOSES_MESSAGE | ENDS_CONNECTION:
            continue
        # A message that is lost is its products' alone; the end of a connection concerns every product.
        products = fault.products if fault.fault not in ENDS_CONNECTION else tuple(limits)
        for product in products:
            first, last = limits.get(product, (math.inf, -1.0))
            if not first <= fault.position <= last or (fault.fault in ENDS_CONNECTION and fault.position == last):
                continue
            expected += 1
            if not any(
                span.product_id == product and after <= fault.position <= until for span, after, until in placed
            ):
                unnamed.append(f"{fault.fault} at message {fault.position} of {product}")
    causes = [fault.position for fault in injected if fault.fault not in HARMLESS]
    unexplained = [
        f"{span.reason} of {span.product_id} at offset {span.offset}, between messages {after} and {until}"
        for span, after, until in placed
        if not any(after <= cause <= until for cause in causes)
        and not any(after < each <= until for each in positions.breaks)
    ]
    return Naming(unnamed, unexplained, expected)


def _bounds(span: GapSpan, positions: Positions) -> tuple[float, float]:
    """Positions of the ticks before and after a gap; infinite if there is none."""

    def at(place: Place | None) -> list[int]:
        return [] if place is None else positions.of(span.product_id, place.event_time_ns)

    return min(at(span.after), default=-math.inf), max(at(span.until), default=math.inf)
