"""The Coinbase Advanced Trade feed: its messages decoded into ticks and gaps.

https://docs.cdp.coinbase.com/advanced-trade/docs/ws-channels. One decoder follows one connection,
since `sequence_num` is one counter per connection over all its channels and products.

- A jump up is lost messages: a gap for every product that had ticks before, for nobody can say
  whose they were. The gap stands before whatever the message that revealed it carries.
- A number that is not above the last one is an old message: its tickers are late ticks.
- Any first number is taken as it comes: nothing before it on this connection can be missed by a window.
- A message without a readable number (not JSON) does not move the counter, so the next one shows a gap
  of one: rightly, since what was in it is unknown.
- A tick whose time is far from its product's last one is set aside until the next tick says which of the
  two is right, so that one bad timestamp costs one tick and not all that come after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from math import inf, isfinite
from typing import Annotated, Any

import msgspec

from pipeline.feed.rfc3339 import NS_PER_S, format_ns, parse_ns
from pipeline.records import DeadLetter, DeadReason, Gap, LateTick, Tick

TICKER = "ticker"
HEARTBEATS = "heartbeats"
SUBSCRIPTIONS = "subscriptions"

# Further than this from its product's last tick, a tick's time is doubted. No subscribed product is silent
# that long without a reconnect; nearer times are bounded more tightly by ingest.max_future_s on a live feed.
MAX_TIME_JUMP_NS = 600 * NS_PER_S

Result = Tick | Gap | LateTick | DeadLetter

# int64 like the columns it goes to.
SequenceNum = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Ticker(msgspec.Struct):
    product_id: str
    price: float
    best_bid: float
    best_ask: float
    best_bid_quantity: float
    best_ask_quantity: float


class _Event(msgspec.Struct):
    tickers: list[_Ticker] | None = None


class _Envelope(msgspec.Struct):
    channel: str
    sequence_num: SequenceNum
    timestamp: str = ""
    events: list[_Event] | None = None


# strict=False: numbers arrive as text. msgspec then takes JSON's number grammar only (no "1_000", no
# " 1"), "nan" and "inf" aside, which the comparison in _add_ticker turns away.
_decode_envelope = msgspec.json.Decoder(_Envelope, strict=False).decode

_PRODUCT = re.compile(r"[A-Z0-9]{1,20}(-[A-Z0-9]{1,20}){1,3}", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.ASCII | re.IGNORECASE)
_PRICES = ("price", "best_bid", "best_ask")
_QUANTITIES = ("best_bid_quantity", "best_ask_quantity")


def subscribe_messages(products: Iterable[str]) -> list[str]:
    """What to send after connecting: one channel a message, heartbeats lest a quiet market be cut off."""
    product_ids = list(products)
    return [
        json.dumps({"type": "subscribe", "product_ids": product_ids, "channel": channel})
        for channel in (TICKER, HEARTBEATS)
    ]


def canonical_product(product_id: str) -> str:
    """The name under which the exchange answers: USDC order books are the USD ones."""
    return product_id[:-1] if product_id.endswith("-USDC") else product_id


class CoinbaseDecoder:
    """Decodes the messages of one connection, in the order they came.

    earlier: products that had ticks before this connection; each gets a gap (reason "reconnect") before
    its first tick here.
    max_future_ns: a message stamped further ahead of its ingest time is dead; 0: not looked at.
    """

    def __init__(self, *, earlier: Iterable[str] = (), max_future_ns: int = 0) -> None:
        self._awaited = {canonical_product(product) for product in earlier}  # known, without a tick here yet
        self._last_ns: dict[str, int] = {}  # product with ticks here -> latest time among them
        self._suspects: dict[str, tuple[int, int]] = {}  # product -> time and number of its tick set aside just now
        self._names: dict[str, str] = {}  # product as sent -> as checked and kept
        self._max_future_ns = max_future_ns
        self._last_sequence: int | None = None
        self._missed = 0  # lost messages not yet told as gaps

    @property
    def products(self) -> frozenset[str]:
        """Products that had ticks on this connection or an earlier one."""
        return frozenset(self._last_ns.keys() | self._awaited)

    def reconnected(self) -> CoinbaseDecoder:
        """The decoder for the connection that follows this one."""
        return CoinbaseDecoder(earlier=self.products, max_future_ns=self._max_future_ns)

    def decode(self, raw: bytes, ingest_time_ns: int, source: str) -> list[Result]:
        """The records a message holds, in order; none for heartbeats and acknowledgements. Never raises.

        ingest_time_ns: when the message arrived, UTC; 0 where that is unknown.
        source: where it came from, for dead letters and late ticks.
        """
        try:
            if not raw.isascii():
                raw.decode()
            envelope = _decode_envelope(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._decode_damaged(raw, ingest_time_ns, source)
        message = _Message(raw, ingest_time_ns, source, envelope.timestamp)
        results, old = self._advance(envelope.sequence_num, message)
        if envelope.channel != TICKER:
            if envelope.channel not in (HEARTBEATS, SUBSCRIPTIONS):
                results.append(message.dead("unknown_channel", _unknown_channel(envelope.channel)))
            return results
        event_time_ns = self._event_time_ns(message, results)
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
                self._add_ticker(results, ticker, path, message, event_time_ns, envelope.sequence_num, old)
        return results

    def _advance(self, sequence: int, message: _Message) -> tuple[list[Result], bool]:
        """Counts a message: the gaps it reveals, and whether it is an old one."""
        last = self._last_sequence
        old = last is not None and sequence <= last
        if not old:
            self._last_sequence = sequence
            if last is not None:
                self._missed += sequence - last - 1
        results: list[Result] = []
        if self._missed:
            event_time_ns = message.event_time_ns()
            # Without a time a gap has no place; it waits for the next message that has one.
            if event_time_ns is not None:
                results.extend(
                    Gap(product, event_time_ns, message.ingest_time_ns, "sequence", self._missed)
                    for product in sorted(self.products)
                )
                self._missed = 0
        return results, old

    def _event_time_ns(self, message: _Message, results: list[Result]) -> int | None:
        event_time_ns = message.event_time_ns()
        if event_time_ns is None:
            detail = f"timestamp: expected an RFC 3339 time of 1970 to 2262, got {message.timestamp!r:.60}"
            results.append(message.dead("bad_time", detail))
            return None
        ahead_ns = event_time_ns - message.ingest_time_ns
        if self._max_future_ns and message.ingest_time_ns and ahead_ns > self._max_future_ns:
            expected_s = self._max_future_ns / 1e9
            detail = f"timestamp: {ahead_ns / 1e9:.3f} s ahead of our clock, expected at most {expected_s:g} s"
            results.append(message.dead("time_in_future", detail))
            return None
        return event_time_ns

    def _add_ticker(
        self,
        results: list[Result],
        ticker: _Ticker,
        path: tuple[int, int],
        message: _Message,
        event_time_ns: int,
        sequence: int,
        old: bool,
    ) -> None:
        price, bid, ask = ticker.price, ticker.best_bid, ticker.best_ask
        bid_quantity, ask_quantity = ticker.best_bid_quantity, ticker.best_ask_quantity
        product = self._names.get(ticker.product_id) or self._new_product(ticker.product_id)
        # One chain, false for NaN: what is wrong is looked up only where something is.
        sound = 0 < price < inf and 0 < bid <= ask < inf and 0 <= bid_quantity < inf and 0 <= ask_quantity < inf
        if product is None or not sound:
            results.append(message.dead(*_explain(msgspec.structs.asdict(ticker), path)))
            return
        tick = Tick(
            product, event_time_ns, message.ingest_time_ns, sequence, price, bid, ask, bid_quantity, ask_quantity
        )
        if old:
            results.append(LateTick("old_sequence", message.source, tick))
            return
        last_ns = self._last_ns.get(product)
        if last_ns is None:
            self._last_ns[product] = event_time_ns
            if product in self._awaited:
                self._awaited.remove(product)
                results.append(Gap(product, event_time_ns, message.ingest_time_ns, "reconnect", 0))
        elif abs(event_time_ns - last_ns) <= MAX_TIME_JUMP_NS:
            if event_time_ns > last_ns:
                self._last_ns[product] = event_time_ns
            if self._suspects:
                self._suspects.pop(product, None)
        else:
            results.append(self._judge_jump(tick, last_ns, message))
            if product in self._suspects:
                return
        results.append(tick)

    def _judge_jump(self, tick: Tick, last_ns: int, message: _Message) -> Result:
        """For a time far from the last one: a gap where the tick set aside just before agrees, so that time
        did jump; else this tick is set aside itself, and the next one decides.
        """
        product, time_ns = tick.product_id, tick.event_time_ns
        # A message has one timestamp, so its tickers do not bear each other out.
        suspect_ns, suspect_number = self._suspects.pop(product, (time_ns, tick.sequence_num))
        if suspect_number != tick.sequence_num and 0 <= time_ns - suspect_ns <= MAX_TIME_JUMP_NS:
            self._last_ns[product] = time_ns
            return Gap(product, time_ns, message.ingest_time_ns, "clock", 1)
        self._suspects[product] = time_ns, tick.sequence_num
        if time_ns < last_ns:
            return LateTick("time_jumped_back", message.source, tick)
        bound_s = MAX_TIME_JUMP_NS // NS_PER_S
        expected = f"at most {bound_s} s after {product}'s last tick at {format_ns(last_ns)}"
        return message.dead("time_jumped_ahead", f"timestamp: expected {expected}, got {format_ns(time_ns)}")

    def _new_product(self, product_id: str) -> str | None:
        product = canonical_product(product_id)
        if not _PRODUCT.fullmatch(product):
            return None
        self._names[product_id] = product
        return product

    def _decode_damaged(self, raw: bytes, ingest_time_ns: int, source: str) -> list[Result]:
        """The slow way, for a message that does not fit: says what is wrong, and saves what is right."""
        try:
            tree = json.loads(raw.decode())
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            return [DeadLetter.of("not_json", f"{type(error).__name__}: {error}"[:200], source, raw)]
        if not isinstance(tree, dict):
            return [DeadLetter.of("wrong_shape", f"expected an object, got {_shown(tree)}", source, raw)]
        if tree.get("type") == "error":
            detail = f"the exchange says: {_shown(tree.get('message'))}"
            return [DeadLetter.of("exchange_error", detail, source, raw)]
        timestamp, sequence, channel = (tree.get(key) for key in ("timestamp", "sequence_num", "channel"))
        message = _Message(raw, ingest_time_ns, source, timestamp if isinstance(timestamp, str) else "")
        try:
            sequence = msgspec.convert(sequence, SequenceNum, strict=False)
        except msgspec.ValidationError:
            return [message.dead("wrong_shape", f"sequence_num: expected a count from 0, got {_shown(sequence)}")]
        results, old = self._advance(sequence, message)
        if not isinstance(channel, str):
            results.append(message.dead("wrong_shape", f"channel: expected text, got {_shown(channel)}"))
        elif channel == TICKER:
            self._save_tickers(results, tree.get("events"), message, sequence, old)
        elif channel not in (HEARTBEATS, SUBSCRIPTIONS):
            results.append(message.dead("unknown_channel", _unknown_channel(channel)))
        return results

    def _save_tickers(self, results: list[Result], events: Any, message: _Message, sequence: int, old: bool) -> None:
        event_time_ns = self._event_time_ns(message, results)
        if event_time_ns is None:
            return
        if not isinstance(events, list):
            results.append(message.dead("wrong_shape", f"events: expected a list, got {_shown(events)}"))
            return
        for number, event in enumerate(events):
            tickers = event.get("tickers") if isinstance(event, dict) else None
            if not isinstance(tickers, list):
                detail = f"events[{number}].tickers: expected a list, got {_shown(tickers)}"
                results.append(message.dead("wrong_shape", detail))
                continue
            for position, fields in enumerate(tickers):
                try:
                    ticker = msgspec.convert(fields, _Ticker, strict=False)
                except msgspec.ValidationError:
                    results.append(message.dead(*_explain(fields, (number, position))))
                else:
                    self._add_ticker(results, ticker, (number, position), message, event_time_ns, sequence, old)


class _Message:
    """A message on its way through the decoder, and where it came from."""

    __slots__ = ("ingest_time_ns", "raw", "source", "timestamp")

    def __init__(self, raw: bytes, ingest_time_ns: int, source: str, timestamp: str) -> None:
        self.raw = raw
        self.ingest_time_ns = ingest_time_ns
        self.source = source
        self.timestamp = timestamp

    def event_time_ns(self) -> int | None:
        try:
            return parse_ns(self.timestamp)
        except ValueError:
            return None

    def dead(self, reason: DeadReason, detail: str) -> DeadLetter:
        return DeadLetter.of(reason, detail, self.source, self.raw)


def _explain(fields: Any, path: tuple[int, int]) -> tuple[DeadReason, str]:
    """What is wrong with one ticker: the reason, and the field, its value and what was expected."""
    where = f"events[{path[0]}].tickers[{path[1]}]"
    if not isinstance(fields, dict):
        return "wrong_shape", f"{where}: expected an object, got {_shown(fields)}"
    product = fields.get("product_id")
    if not isinstance(product, str) or not _PRODUCT.fullmatch(product):
        return "wrong_shape", f"{where}.product_id: expected a product such as BTC-USD, got {_shown(product)}"
    values = {name: _number(fields.get(name)) for name in (*_PRICES, *_QUANTITIES)}
    for name, value in values.items():
        if value is None:
            return "wrong_shape", f"{where}.{name}: expected a number as text, got {_shown(fields.get(name))}"
    numbers = {name: value for name, value in values.items() if value is not None}
    for name, number in numbers.items():
        if not isfinite(number):
            return "not_finite", f"{where}.{name}: expected a finite number, got {_shown(fields[name])}"
        if number < 0 or (number == 0 and name in _PRICES):
            expected = "a price above 0" if name in _PRICES else "a quantity of 0 or more"
            return "not_positive", f"{where}.{name}: expected {expected}, got {_shown(fields[name])}"
    if numbers["best_bid"] > numbers["best_ask"]:
        bid, ask = _shown(fields["best_bid"]), _shown(fields["best_ask"])
        return "crossed_quote", f"{where}.best_bid: expected at most the best ask {ask}, got {bid}"
    return "wrong_shape", f"{where}: expected a ticker, got {_shown(fields)}"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return inf


def _unknown_channel(channel: str) -> str:
    return f"channel: expected {TICKER}, {HEARTBEATS} or {SUBSCRIPTIONS}, got {_shown(channel)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
