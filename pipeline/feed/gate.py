"""The rules by which ticks of one connection are accepted; the same for every exchange.

- A tick whose time is far from its product's last tick is set aside until the next tick confirms either
  time, so that a single bad timestamp costs one tick and not all later ticks.
- A product that had ticks on an earlier connection has a gap before its first tick on this one.
- By the time rule, a product's silence is the gap instead (reason "silence").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.feed.message import Message
from pipeline.feed.protocol import Result
from pipeline.feed.rfc3339 import NS_PER_S, format_ns
from pipeline.records import DeadLetter, Gap, GapReason, LateTick, Tick

# If a tick's time is further than this from its product's last tick, and from its own receipt, it is doubted. Smaller
# errors are bounded by ingest.max_future_s on a live feed.
MAX_TIME_JUMP_NS = 600 * NS_PER_S

_NEVER_NS = 2**63


@dataclass(frozen=True, slots=True)
class GapRule:
    """reconnect: a new connection is a gap. silence_ns: a longer silence of a product is a gap; 0: never."""

    reconnect: bool = True
    silence_ns: int = 0


def is_current(tick: Tick, last_ns: int) -> bool:
    """Whether a tick's time agrees with our clock, so that the product was only quiet since its last tick."""
    return (
        tick.event_time_ns > last_ns
        and tick.ingest_time_ns > 0
        and abs(tick.event_time_ns - tick.ingest_time_ns) <= MAX_TIME_JUMP_NS
    )


class TickGate:
    """Accepts the ticks of one connection.

    earlier: products that had ticks before this connection, each with its latest event time.
    max_future_ns: a message stamped further ahead of its ingest time is a dead letter; 0: no check.
    """

    def __init__(
        self, venue: str, rule: GapRule, *, earlier: Mapping[str, int] | None = None, max_future_ns: int = 0
    ) -> None:
        self.venue = venue
        self.rule = rule
        self._awaited = dict(earlier or {})  # products without a tick here yet
        self._last_ns: dict[str, int] = {}  # product with ticks here -> latest time among them
        self._suspects: dict[str, tuple[int, int]] = {}  # product -> time and number of its tick that was set aside
        self._silence_ns = rule.silence_ns or _NEVER_NS
        self._max_jump_ns = max(MAX_TIME_JUMP_NS, rule.silence_ns)
        self._max_future_ns = max_future_ns

    @property
    def products(self) -> frozenset[str]:
        return frozenset(self._last_ns.keys() | self._awaited)

    def reconnected(self, max_future_ns: int | None = None) -> TickGate:
        """The gate of the next connection. max_future_ns: its limit; None: the same."""
        earlier = {**self._awaited, **self._last_ns}
        max_future_ns = self._max_future_ns if max_future_ns is None else max_future_ns
        return TickGate(self.venue, self.rule, earlier=earlier, max_future_ns=max_future_ns)

    def lost(self, message: Message, time_ns: int, missed: int) -> list[Gap]:
        """A gap for every product: the products of lost messages are unknown."""
        return [self._gap(product, time_ns, message, "sequence", missed) for product in sorted(self.products)]

    def in_future(self, message: Message, time_ns: int, field: str) -> DeadLetter | None:
        """A dead letter if the time of a message is too far ahead of our clock."""
        ahead_ns = time_ns - message.ingest_time_ns
        if not self._max_future_ns or not message.ingest_time_ns or ahead_ns <= self._max_future_ns:
            return None
        expected_s = self._max_future_ns / 1e9
        detail = f"{field}: {ahead_ns / 1e9:.3f} s ahead of our clock, expected at most {expected_s:g} s"
        return message.dead("time_in_future", detail)

    def accept(self, results: list[Result], tick: Tick, message: Message) -> None:
        """Appends the tick, after the gaps that it shows, or the record of its refusal."""
        product, time_ns = tick.product_id, tick.event_time_ns
        last_ns = self._last_ns.get(product)
        if last_ns is None:
            self._last_ns[product] = time_ns
            if product in self._awaited:
                results.extend(self._return_gap(product, time_ns, self._awaited.pop(product), message))
        elif abs(time_ns - last_ns) <= self._max_jump_ns or is_current(tick, last_ns):
            if time_ns > last_ns:
                self._last_ns[product] = time_ns
                if time_ns - last_ns > self._silence_ns:
                    results.append(self._gap(product, time_ns, message, "silence", 0))
            if self._suspects:
                self._suspects.pop(product, None)
        else:
            results.append(self._judge_jump(tick, last_ns, message))
            if product in self._suspects:
                return
        results.append(tick)

    def _return_gap(self, product: str, time_ns: int, before_ns: int, message: Message) -> list[Gap]:
        """The gap before a product's first tick on a connection that is not its first."""
        if self.rule.reconnect or time_ns < before_ns - self._silence_ns:
            return [self._gap(product, time_ns, message, "reconnect", 0)]
        if time_ns - before_ns > self._silence_ns:
            return [self._gap(product, time_ns, message, "silence", 0)]
        return []

    def _judge_jump(self, tick: Tick, last_ns: int, message: Message) -> Result:
        """For a time far from the last tick: a gap if the tick that was set aside before it agrees, since then the time
        did jump. Otherwise this tick is set aside, and the next tick decides.
        """
        product, time_ns = tick.product_id, tick.event_time_ns
        # Ticks of one message share time and number, so they do not confirm each other. The number alone does not
        # identify a message: all rows of a flat recording may have the same.
        identity = time_ns, tick.sequence_num
        suspect = self._suspects.pop(product, identity)
        if suspect != identity and 0 <= time_ns - suspect[0] <= self._max_jump_ns:
            self._last_ns[product] = time_ns
            return self._gap(product, time_ns, message, "clock", 1)
        self._suspects[product] = identity
        if time_ns < last_ns:
            return LateTick("time_jumped_back", message.source, tick)
        bound_s = self._max_jump_ns // NS_PER_S
        expected = f"at most {bound_s} s after {product}'s last tick at {format_ns(last_ns)}"
        return message.dead("time_jumped_ahead", f"timestamp: expected {expected}, got {format_ns(time_ns)}")

    def _gap(self, product: str, time_ns: int, message: Message, reason: GapReason, missed: int) -> Gap:
        return Gap(product, time_ns, message.ingest_time_ns, reason, missed, self.venue)
