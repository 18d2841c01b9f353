"""The Coinbase Advanced Trade feed: its messages decoded into ticks and gaps.

https://docs.cdp.coinbase.com/advanced-trade/docs/ws-channels. A decoder follows a single connection, since
`sequence_num` is one counter per connection over all its channels and products.

- A jump up means lost messages: a gap for every product that had ticks before, since their products are unknown.
  The gap comes before the ticks of the message that revealed it.
- A number that is not above the last one is an old message: its tickers are late ticks. In a recording, a
  lower number with a later timestamp is a new connection instead (CoinbaseConnections).
- Any first number is accepted: no window can miss a message before it on this connection.
- A message without a readable number (not JSON) does not move the counter, so the next message shows a gap of 1.
  That is right, since its content is unknown.
- With a time-based gap rule, numbers are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from pipeline.feed.gate import MAX_TIME_JUMP_NS, GapRule, TickGate
from pipeline.feed.message import Message
from pipeline.feed.protocol import Allowance, Position, Result
from pipeline.feed.rfc3339 import parse_ns
from pipeline.feed.values import NOT_CONVERTED, explain_quote, shown, sound_quote
from pipeline.records import NOT_DECODED, DeadLetter, DeadReason, LateTick, Tick

TICKER = "ticker"
HEARTBEATS = "heartbeats"
SUBSCRIPTIONS = "subscriptions"

# If the counter falls by more than this inside a recording, a new connection began whose first line is damaged or
# missing. Old messages have lower numbers too, but not by so much.
MAX_OLD_BY = 1000

_MAX_NUMBER = 2**63 - 1  # int64 like the columns it goes to
SequenceNum = Annotated[int, msgspec.Meta(ge=0, le=_MAX_NUMBER)]
_NO_NUMBER = -1


class _Ticker(msgspec.Struct, gc=False):
    product_id: str
    price: float
    best_bid: float
    best_ask: float
    best_bid_quantity: float
    best_ask_quantity: float


class _Event(msgspec.Struct, gc=False):
    tickers: list[_Ticker] | None = None


class _Envelope(msgspec.Struct, gc=False):
    channel: str
    sequence_num: SequenceNum = _NO_NUMBER
    timestamp: str = ""
    events: list[_Event] | None = None


class _Subscriptions(msgspec.Struct):
    subscriptions: dict[str, list[str]] = {}


class _Acknowledgement(msgspec.Struct):
    events: list[_Subscriptions] = []


class _Head(msgspec.Struct, gc=False):
    sequence_num: int | None = None
    timestamp: str = ""


class _Form(msgspec.Struct):
    channel: str
    events: msgspec.Raw


# strict=False: numbers arrive as text. msgspec then takes JSON's number grammar only (no "1_000", no
# " 1"), "nan" and "inf" aside, which sound_quote rejects.
_decode_envelope = msgspec.json.Decoder(_Envelope, strict=False).decode
_decode_acknowledgement = msgspec.json.Decoder(_Acknowledgement).decode
_decode_head = msgspec.json.Decoder(_Head, strict=False).decode
_decode_form = msgspec.json.Decoder(_Form).decode

_PRODUCT = re.compile(r"[A-Z0-9]{1,20}(-[A-Z0-9]{1,20}){1,3}", re.ASCII)
_PRICES = ("price", "best_bid", "best_ask")
_QUANTITIES = ("best_bid_quantity", "best_ask_quantity")


def subscribe_messages(products: Iterable[str]) -> list[str]:
    """The messages to send after connecting: a message per channel. Heartbeats keep a quiet connection open."""
    product_ids = list(products)
    return [
        json.dumps({"type": "subscribe", "product_ids": product_ids, "channel": channel})
        for channel in (TICKER, HEARTBEATS)
    ]


def canonical_product(product_id: str) -> str:
    """The name under which the exchange answers: a USDC order book is that of USD."""
    return product_id[:-1] if product_id.endswith("-USDC") else product_id


class CoinbaseFeed:
    venue = "coinbase"
    url = "wss://advanced-trade-ws.coinbase.com"
    example = "BTC-USD"
    heartbeats = True
    allowances = (Allowance(8, 1.0),)

    def is_product(self, name: str) -> bool:
        return _PRODUCT.fullmatch(name) is not None

    def canonical(self, product_id: str) -> str:
        return canonical_product(product_id)

    def subscriptions(self, products: Iterable[str]) -> list[str]:
        return subscribe_messages(products)

    def decoder(self, *, max_future_ns: int = 0, gap_after_ns: int = 0) -> CoinbaseDecoder:
        return CoinbaseDecoder(max_future_ns=max_future_ns, gap_after_ns=gap_after_ns)

    def connections(self) -> CoinbaseConnections:
        return CoinbaseConnections()

    def event_time_ns(self, raw: bytes, ingest_time_ns: int) -> int | None:
        try:
            return _parsed_ns(_decode_head(raw).timestamp)
        except NOT_DECODED:
            return None

    def recognizes(self, raw: bytes) -> bool:
        try:
            _decode_form(raw)
        except NOT_DECODED:
            return False
        return True


class CoinbaseDecoder:
    """Decodes the messages of one connection.

    max_future_ns, gap_after_ns: as in Feed.decoder. gate: that of the connection before, reconnected.
    """

    def __init__(self, *, max_future_ns: int = 0, gap_after_ns: int = 0, gate: TickGate | None = None) -> None:
        rule = GapRule(reconnect=not gap_after_ns, silence_ns=gap_after_ns)
        self.acknowledged: frozenset[str] | None = None
        self._gate = gate or TickGate(CoinbaseFeed.venue, rule, max_future_ns=max_future_ns)
        self._acknowledgements = 0
        self._numbered = not self._gate.rule.silence_ns
        self._names: dict[str, str] = {}  # product as sent -> canonical, once checked
        self._last_sequence: int | None = None
        self._missed = 0  # lost messages without a gap so far

    def reconnected(self, max_future_ns: int | None = None) -> CoinbaseDecoder:
        return CoinbaseDecoder(gate=self._gate.reconnected(max_future_ns))

    def decode(self, raw: bytes, ingest_time_ns: int, source: str) -> list[Result]:
        try:
            if not raw.isascii():
                raw.decode()
            envelope = _decode_envelope(raw)
        except NOT_DECODED:
            return self._decode_damaged(raw, ingest_time_ns, source)
        sequence = envelope.sequence_num
        if sequence == _NO_NUMBER:
            if self._numbered:
                return self._decode_damaged(raw, ingest_time_ns, source)
            sequence = 0 if self._last_sequence is None else min(self._last_sequence + 1, _MAX_NUMBER)
        message = Message(raw, ingest_time_ns, source, _parsed_ns(envelope.timestamp))
        results, old = self._advance(sequence, message)
        if envelope.channel != TICKER:
            self._other_channel(results, envelope.channel, message)
            return results
        event_time_ns = self._event_time_ns(message, envelope.timestamp, results)
        if event_time_ns is None:
            return results
        if envelope.events is None:
            results.append(message.dead("wrong_shape", "events: expected a list, got nothing"))
            return results
        for number, event in enumerate(envelope.events):
            if event.tickers is None:
                detail = f"events[{number}].tickers: expected a list, got nothing"
                results.append(message.dead("wrong_shape", detail))
                continue
            for position, ticker in enumerate(event.tickers):
                path = number, position
                self._add_ticker(results, ticker, path, message, event_time_ns, sequence, old)
        return results

    def _advance(self, sequence: int, message: Message) -> tuple[list[Result], bool]:
        """Counts a message: the gaps that it reveals, and whether it is old."""
        last = self._last_sequence
        old = last is not None and sequence <= last
        if not old:
            self._last_sequence = sequence
            if last is not None:
                self._missed += sequence - last - 1
        if not self._numbered:
            return [], False
        results: list[Result] = []
        # A gap needs a time; it waits for the next message with a time.
        if self._missed and message.time_ns is not None:
            results.extend(self._gate.lost(message, message.time_ns, self._missed))
            self._missed = 0
        return results, old

    def _other_channel(self, results: list[Result], channel: str, message: Message) -> None:
        if channel == SUBSCRIPTIONS:
            self._acknowledge(message.raw)
        elif channel != HEARTBEATS:
            results.append(message.dead("unknown_channel", _unknown_channel(channel)))

    def _acknowledge(self, raw: bytes) -> None:
        """Notes the products of the ticker channel. An acknowledgement lists all subscriptions, or its request's."""
        try:
            events = _decode_acknowledgement(raw).events
        except NOT_DECODED:
            return
        self._acknowledgements += 1
        listed = [event.subscriptions[TICKER] for event in events if TICKER in event.subscriptions]
        # Each of our two requests is acknowledged, in any order. Without a product in either, none was accepted.
        if listed or (self.acknowledged is None and self._acknowledgements > 1):
            self.acknowledged = frozenset(canonical_product(product) for products in listed for product in products)

    def _event_time_ns(self, message: Message, timestamp: object, results: list[Result]) -> int | None:
        if message.time_ns is None:
            text = timestamp if isinstance(timestamp, str) else ""
            detail = f"timestamp: expected an RFC 3339 time of 1970 to 2262, got {text!r:.60}"
            results.append(message.dead("bad_time", detail))
            return None
        refusal = self._gate.in_future(message, message.time_ns, "timestamp")
        if refusal is not None:
            results.append(refusal)
            return None
        return message.time_ns

    def _add_ticker(
        self,
        results: list[Result],
        ticker: _Ticker,
        path: tuple[int, int],
        message: Message,
        event_time_ns: int,
        sequence: int,
        old: bool,
    ) -> None:
        price, bid, ask = ticker.price, ticker.best_bid, ticker.best_ask
        bid_quantity, ask_quantity = ticker.best_bid_quantity, ticker.best_ask_quantity
        product = self._names.get(ticker.product_id) or self._new_product(ticker.product_id)
        # The slow search for the fault runs only if there is a fault.
        if product is None or not sound_quote(price, bid, ask, bid_quantity, ask_quantity):
            results.append(message.dead(*_explain(msgspec.structs.asdict(ticker), path)))
            return
        tick = Tick(
            product, event_time_ns, message.ingest_time_ns, sequence, price, bid, ask, bid_quantity, ask_quantity
        )
        if old:
            results.append(LateTick("old_sequence", message.source, tick))
        else:
            self._gate.accept(results, tick, message)

    def _new_product(self, product_id: str) -> str | None:
        product = canonical_product(product_id)
        if not _PRODUCT.fullmatch(product):
            return None
        self._names[product_id] = product
        return product

    def _decode_damaged(self, raw: bytes, ingest_time_ns: int, source: str) -> list[Result]:
        """The slow path for a message that does not fit: explains the fault and saves the sound tickers."""
        try:
            tree = json.loads(raw.decode())
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            return [DeadLetter.of("not_json", f"{type(error).__name__}: {error}"[:200], source, raw)]
        if not isinstance(tree, dict):
            return [DeadLetter.of("wrong_shape", f"expected an object, got {shown(tree)}", source, raw)]
        if tree.get("type") == "error":
            return [DeadLetter.of("exchange_error", _error_text(tree), source, raw)]
        timestamp, sequence, channel = (tree.get(key) for key in ("timestamp", "sequence_num", "channel"))
        message = Message(raw, ingest_time_ns, source, _parsed_ns(timestamp))
        try:
            sequence = msgspec.convert(sequence, SequenceNum, strict=False)
        except NOT_CONVERTED:
            return [message.dead("wrong_shape", f"sequence_num: expected a count from 0, got {shown(sequence)}")]
        results, old = self._advance(sequence, message)
        if not isinstance(channel, str):
            results.append(message.dead("wrong_shape", f"channel: expected text, got {shown(channel)}"))
        elif channel == TICKER:
            event_time_ns = self._event_time_ns(message, timestamp, results)
            if event_time_ns is not None:
                self._save_tickers(results, tree.get("events"), message, event_time_ns, sequence, old)
        else:
            self._other_channel(results, channel, message)
        return results

    def _save_tickers(
        self, results: list[Result], events: Any, message: Message, event_time_ns: int, sequence: int, old: bool
    ) -> None:
        if not isinstance(events, list):
            results.append(message.dead("wrong_shape", f"events: expected a list, got {shown(events)}"))
            return
        for number, event in enumerate(events):
            tickers = event.get("tickers") if isinstance(event, dict) else None
            if not isinstance(tickers, list):
                detail = f"events[{number}].tickers: expected a list, got {shown(tickers)}"
                results.append(message.dead("wrong_shape", detail))
                continue
            for position, fields in enumerate(tickers):
                try:
                    ticker = msgspec.convert(fields, _Ticker, strict=False)
                except NOT_CONVERTED:
                    results.append(message.dead(*_explain(fields, (number, position))))
                else:
                    self._add_ticker(results, ticker, (number, position), message, event_time_ns, sequence, old)


class CoinbaseConnections:
    """Finds new connections in a recording by the counter, which starts anew with each.

    - A file that does not continue the count exactly starts a connection.
    - Inside a file, a lower number with a later timestamp than that of the last message starts one: an old
      message was sent earlier.
    - If the timestamps do not decide, a fall to 0 or by more than MAX_OLD_BY starts one, unless the timestamp
      lies within the connection so far.
    """

    def __init__(self) -> None:
        self._last: int | None = None  # highest number of the connection
        self._first_time = ""  # of the connection
        self._times: tuple[str, ...] = ()  # of its last three messages, the latest first

    def place(self, raw: bytes, *, first_of_file: bool) -> Position:
        try:
            head = _decode_head(raw)
        except NOT_DECODED:
            return Position(None, False)
        sequence = head.sequence_num
        if sequence is None:
            return Position(None, False)
        starts = self._starts(sequence, head.timestamp, first_of_file)
        if starts:
            self._last, self._first_time, self._times = sequence, head.timestamp, (head.timestamp,)
        elif self._last is None or sequence > self._last:
            self._last = sequence
            self._times = head.timestamp, *self._times[:2]
        return Position(sequence, starts)

    def _starts(self, sequence: int, timestamp: str, first_of_file: bool) -> bool:
        last = self._last
        if last is None:
            return True
        if first_of_file:
            return sequence != last + 1
        if sequence >= last:
            return False
        time_ns, last_ns = _parsed_ns(timestamp), self._last_ns()
        if time_ns is None or last_ns is None:
            return sequence == 0 or last - sequence > MAX_OLD_BY
        if time_ns > last_ns:
            return True
        first_ns = _parsed_ns(self._first_time)
        if first_ns is not None and sequence == 0 and time_ns == first_ns != last_ns:
            return False  # the first message of this connection, repeated
        within = first_ns is not None and first_ns < time_ns < last_ns
        return not within and (sequence == 0 or last - sequence > MAX_OLD_BY)

    def _last_ns(self) -> int | None:
        """Time of the last message. If it is far from the times of the two before, the last that is near another one:
        a single bad timestamp must neither make the rest of a recording old nor an old message a connection.
        """
        times = [time_ns for text in self._times if (time_ns := _parsed_ns(text)) is not None]
        for time_ns in times:
            if sum(abs(time_ns - other) <= MAX_TIME_JUMP_NS for other in times) > 1:
                return time_ns
        return min(times, default=None)


def _explain(fields: Any, path: tuple[int, int]) -> tuple[DeadReason, str]:
    """Reason and detail for a refused ticker: the field, its value and what was expected."""
    where = f"events[{path[0]}].tickers[{path[1]}]"
    if not isinstance(fields, dict):
        return "wrong_shape", f"{where}: expected an object, got {shown(fields)}"
    product = fields.get("product_id")
    if not isinstance(product, str) or not _PRODUCT.fullmatch(product):
        return "wrong_shape", f"{where}.product_id: expected a product such as BTC-USD, got {shown(product)}"
    return explain_quote(where, fields, _PRICES, _QUANTITIES, "best_bid", "best_ask")


def _error_text(tree: dict[str, Any]) -> str:
    text = f"the exchange says: {shown(tree.get('message'))}"
    return f"{text}, reason: {shown(tree['reason'])}" if tree.get("reason") else text


def _unknown_channel(channel: str) -> str:
    return f"channel: expected {TICKER}, {HEARTBEATS} or {SUBSCRIPTIONS}, got {shown(channel)}"


def _parsed_ns(timestamp: object) -> int | None:
    if not isinstance(timestamp, str):
        return None
    try:
        return parse_ns(timestamp)
    except ValueError:
        return None
