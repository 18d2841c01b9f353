"""Faults that the exchange injects into its feed, with a rate and a seed. Each fault is recorded.

A fault is due at a message of the feed. All connections meet the same faults, and the same seed and rates give the
same faults at the same messages. At most one fault is due per message; a second one waits for the next message.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from pipeline.exchange.items import Item
from pipeline.feed.rfc3339 import NS_PER_S, format_ns


class Fault(StrEnum):
    """A kind of fault."""

    DROP = "drop"  # the message is numbered and not sent
    REPEAT = "repeat"  # the message is sent twice
    REORDER = "reorder"  # the message is sent behind the next one
    DELAY = "delay"  # the message is sent behind 2 to 20 later ones
    SPLIT = "split"  # the message is sent in three WebSocket fragments
    CUT = "cut"  # the connection ends in the middle of the message
    GARBAGE = "garbage"  # half of the message, bytes or another JSON value is sent in its place
    SLOW = "slow"  # the feed pauses for SLOW_S before the message
    SILENCE = "silence"  # nothing is sent for `silence_s`, not even heartbeats
    RECONNECT_STORM = "reconnect-storm"  # closes with code 1008, and closes the next connections once acknowledged
    REFUSED_SUBSCRIPTION = "refused-subscription"  # closes, and refuses the next subscription
    CLOCK_JUMP = "clock-jump"  # the message's timestamp is an hour off


SLOW_S = 0.5
SILENCE_S = 20.0  # longer than ingest.silence_s
STORM_CONNECTIONS = 5
CLOCK_JUMP_S = 3600
MAX_DELAY_MESSAGES = 20

_TIMESTAMP = re.compile(rb'("timestamp"\s*:\s*")[^"]*(")')


class Injected(NamedTuple):
    """A fault on a connection."""

    fault: str
    position: int  # of the message in the feed, from 0
    connection: int  # counted from 1
    products: tuple[str, ...]  # of the message
    sequence_num: int | None  # of the message on its connection
    event_time_ns: int | None  # of the message, before a clock jump


class Faults:
    """Decides which fault is due at which message, and keeps the record of all that were injected.

    rates: faults per message, each above 0 and at most 1. ValueError for another.
    """

    def __init__(self, rates: Mapping[Fault, float], seed: int = 0, *, silence_s: float = SILENCE_S) -> None:
        for fault, rate in rates.items():
            if not 0 < rate <= 1:
                raise ValueError(f"fault {fault}: expected a rate above 0 and at most 1, got {rate}")
        self.silence_s = silence_s
        self.injected: list[Injected] = []
        self._rates = {fault: rates[fault] for fault in Fault if fault in rates}
        # Each fault has a generator of its own, so that its messages do not depend on the rates of other faults.
        self._draws = {fault: random.Random(f"{seed} {fault}") for fault in self._rates}
        self._next = {fault: self._gap(fault) - 1 for fault in self._rates}
        self._soonest = min(self._next.values(), default=-1)
        self._position = -1

    def due(self) -> Fault | None:
        """The fault of the next message of the feed. Call once per message, in order."""
        self._position += 1
        if self._position < self._soonest or not self._next:
            return None
        fault = min(self._next, key=self._next.__getitem__)
        self._next[fault] = self._position + self._gap(fault)
        self._soonest = min(self._next.values())
        return fault

    def _gap(self, fault: Fault) -> int:
        """Messages until the next fault of this kind: geometric, so that each message has the same chance."""
        rate, draw = self._rates[fault], self._draws[fault]
        if rate == 1.0:
            return 1
        return 1 + int(min(draw.expovariate(-math.log1p(-rate)), 2.0**62))

    def distorted(self, item: Item, fault: Fault | None) -> Item:
        """The item with another time, if its fault is a clock jump."""
        if fault is not Fault.CLOCK_JUMP or item.event_time_ns is None:
            return item
        sign = self._draws[fault].choice((-1, 1))
        moved = format_ns(item.event_time_ns + sign * CLOCK_JUMP_S * NS_PER_S).encode()
        head, changed = _TIMESTAMP.subn(rb"\g<1>%b\g<2>" % moved, item.head, count=1)
        tail = item.tail if changed else _TIMESTAMP.sub(rb"\g<1>%b\g<2>" % moved, item.tail, count=1)
        return replace(item, head=head, tail=tail)

    def delay_messages(self) -> int:
        return self._draws[Fault.DELAY].randint(2, MAX_DELAY_MESSAGES)

    def garbage(self, message: bytes) -> bytes:
        """The bytes that replace a message."""
        draw = self._draws[Fault.GARBAGE]
        return draw.choice((message[: len(message) // 2], draw.randbytes(40), b"[]", b'{"channel":7}'))

    def record(self, fault: Fault, connection: int, item: Item, sequence_num: int | None) -> None:
        entry = Injected(str(fault), self._position, connection, item.products, sequence_num, item.event_time_ns)
        self.injected.append(entry)

    def counts(self) -> dict[str, int]:
        """Faults met by connections, by name; 0 for faults with a rate that never were due."""
        counted = Counter(entry.fault for entry in self.injected)
        return {str(fault): counted[str(fault)] for fault in self._rates}


@dataclass(slots=True)
class _Delayed:
    message: bytes
    after: int  # this many more messages


@dataclass(slots=True)
class FaultyLine:
    """The messages of one connection on their way through the faults."""

    faults: Faults
    connection: int
    _delayed: list[_Delayed] = field(default_factory=list)

    @property
    def holds_messages(self) -> bool:
        return bool(self._delayed)

    def pass_on(self, message: bytes, fault: Fault | None) -> list[bytes]:
        """The bytes to send for a message, in order: itself, copies or garbage, then delayed messages that are due."""
        for delayed in self._delayed:
            delayed.after -= 1
        sent = [message]
        if fault is Fault.DROP:
            sent = []
        elif fault is Fault.REPEAT:
            sent = [message, message]
        elif fault is Fault.GARBAGE:
            sent = [self.faults.garbage(message)]
        sent += [delayed.message for delayed in self._delayed if delayed.after <= 0]
        self._delayed = [delayed for delayed in self._delayed if delayed.after > 0]
        if fault in (Fault.REORDER, Fault.DELAY):
            after = 1 if fault is Fault.REORDER else self.faults.delay_messages()
            self._delayed.append(_Delayed(message, after))
            sent.remove(message)
        return sent

    def release(self) -> list[bytes]:
        """All delayed messages: the connection is about to end."""
        delayed, self._delayed = self._delayed, []
        return [each.message for each in delayed]
