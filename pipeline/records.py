"""What is on ticks.raw, ticks.late and ticks.dead: JSON, one object per message (docs/topics.md).

ticks.raw holds ticks and gaps, told apart by their `type`. A gap comes before the first tick
after it, so that a reader of the topic knows which windows span lost messages.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import msgspec

# Why messages may have been lost: the exchange's counter jumped; the connection was made anew (an
# archive piece that begins at another connection is the same thing, recorded); the product's time jumped,
# far ahead or back, and stayed there; by a time-based rule, the product was silent for long; Kafka was unavailable,
# and the backlog on disk was full.
GapReason = Literal["sequence", "reconnect", "clock", "silence", "backlog"]

# Why a tick is not used though it is well-formed.
LateReason = Literal["time_jumped_back", "repeated", "old_sequence"]

# Why something that came in is no tick.
DeadReason = Literal[
    "not_json",  # cannot be parsed at all, or cut off
    "wrong_shape",  # JSON, but a field is missing or of the wrong type
    "unknown_channel",
    "exchange_error",  # the exchange itself says that something is wrong, as of a subscription
    "bad_time",
    "time_in_future",
    "time_jumped_ahead",  # far ahead of the product's last tick, and the next tick has not borne it out yet
    "not_finite",  # NaN or infinity where a number is due
    "not_positive",  # a price of zero or less, or a negative quantity
    "crossed_quote",  # best bid above best ask
    "too_large",  # above ingest.max_message_bytes; its bytes are not kept
]


# Times and counts become int64 columns, products become keys; other values are of the wrong shape.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Product = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]

# What decoding raises for bytes that are no record (RecursionError: nested too deep).
NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# Of a dead letter. JSON escapes a character with up to six bytes, and Kafka takes a megabyte.
MAX_RAW_CHARACTERS = 150_000


class Tick(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="tick"):
    """One top-of-book update of one product.

    Prices are in the quote currency, quantities in the base currency. A best bid equal to the best
    ask (locked) is valid; a bid above the ask (crossed) is not a tick but a dead letter.
    """

    product_id: Product
    event_time_ns: Count  # the exchange's clock, UTC
    ingest_time_ns: Count  # our clock when the message arrived, UTC; 0 where a recording does not say
    sequence_num: Count  # of the message that carried it, counted per connection
    price: float
    bid: float
    ask: float
    bid_quantity: float
    ask_quantity: float
    venue: str = "coinbase"


class Gap(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="gap"):
    """Messages of this product may be missing between the tick before and the tick after."""

    product_id: Product
    event_time_ns: Count  # of the message that revealed it
    ingest_time_ns: Count
    reason: str  # a GapReason; newer versions may write others
    missed: Count  # messages known lost on the connection, over all products; 0 where unknown, 1 for "clock"
    venue: str = "coinbase"


class LateTick(msgspec.Struct, frozen=True):
    """A record of ticks.late."""

    reason: str  # a LateReason; newer versions may write others
    source: str  # "FILE:LINE", "TOPIC[PARTITION]@OFFSET" or "connection N message M"
    tick: Tick


class DeadLetter(msgspec.Struct, frozen=True):
    """A record of ticks.dead: something that came in and could not be used, kept whole where Kafka takes it whole."""

    reason: str  # a DeadReason; newer versions may write others
    detail: str  # one line: the field, its value, what was expected
    source: str  # as in LateTick
    raw: str  # the bytes as text where they are UTF-8, else base64
    raw_encoding: Literal["utf-8", "base64"] = "utf-8"

    @classmethod
    def of(cls, reason: DeadReason, detail: str, source: str, raw: bytes) -> DeadLetter:
        encoding: Literal["utf-8", "base64"] = "utf-8"
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text, encoding = base64.b64encode(raw).decode(), "base64"
        if len(text) > MAX_RAW_CHARACTERS:
            detail = f"{detail} (the first {MAX_RAW_CHARACTERS} of {len(text)} characters are kept)"
        return cls(reason, detail, source, text[:MAX_RAW_CHARACTERS], encoding)


Record = Tick | Gap


def record_key(venue: str, product_id: str) -> str:
    """The Kafka key of a product's records. Two venues may use one product name."""
    return f"{venue}:{product_id}"


encode = msgspec.json.Encoder().encode
decode_record = msgspec.json.Decoder(Record).decode
decode_late = msgspec.json.Decoder(LateTick).decode
decode_dead = msgspec.json.Decoder(DeadLetter).decode
