"""What the pipeline needs to know of an exchange.

`docs/exchanges.md` explains how to add one. All of it is free of I/O: bytes come in, values go out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from pipeline.records import DeadLetter, Gap, LateTick, Tick

Result = Tick | Gap | LateTick | DeadLetter


@dataclass(frozen=True, slots=True)
class Allowance:
    """An exchange's limit on requests: at most `requests` in any `window_s` seconds."""

    requests: int
    window_s: float


class Position(msgspec.Struct, frozen=True, gc=False):
    """Where a message of a recording stands."""

    sequence_num: int | None  # None if the message has none that counts per connection
    starts_connection: bool


class Decoder(Protocol):
    """Decodes the messages of one connection, in the order of their arrival."""

    @property
    def acknowledged(self) -> frozenset[str] | None:
        """Products whose subscription the exchange has listed; None if it has listed none yet, or never does."""

    def decode(self, raw: bytes, ingest_time_ns: int, source: str) -> list[Result]:
        """The records of a message, in order; empty for heartbeats and acknowledgements. Never raises.

        ingest_time_ns: when the message arrived, UTC; 0 if that is unknown.
        source: origin of the message, for dead letters and late ticks.
        """

    def reconnected(self, max_future_ns: int | None = None) -> Decoder:
        """The decoder of the connection that follows this one. max_future_ns: its limit; None: the same."""


class Connections(Protocol):
    """Finds the starts of connections among the messages of a recording, in order."""

    def place(self, raw: bytes, *, first_of_file: bool) -> Position: ...


class Feed(Protocol):
    """An exchange: address, subscription, decoding, sequence rule."""

    @property
    def venue(self) -> str:
        """Its name in records, keys, archives and `ingest.venue`."""

    @property
    def url(self) -> str:
        """The public WebSocket address."""

    @property
    def example(self) -> str:
        """A product name as this exchange writes it."""

    @property
    def heartbeats(self) -> bool:
        """Whether messages arrive on a live connection even if no product trades."""

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """Limits on requests. A connection attempt and a sent message count as one request each."""

    def is_product(self, name: str) -> bool:
        """Whether a name has the form of this exchange's product names."""

    def canonical(self, product_id: str) -> str:
        """The name under which the exchange answers."""

    def subscriptions(self, products: Iterable[str]) -> list[str]:
        """The messages to send after connecting, in order."""

    def decoder(self, *, max_future_ns: int = 0, gap_after_ns: int = 0) -> Decoder:
        """A decoder for a first connection.

        max_future_ns: a message stamped further ahead of its ingest time is a dead letter; 0: no check.
        gap_after_ns: a product's silence of more than this is a gap, and sequence numbers are ignored;
            0: the exchange's own rule.
        """

    def connections(self) -> Connections:
        """The sequence rule for recordings."""

    def event_time_ns(self, raw: bytes, ingest_time_ns: int) -> int | None:
        """Event time of a message; None if it has none."""

    def recognizes(self, raw: bytes) -> bool:
        """Whether a message has the form of this exchange's messages."""
