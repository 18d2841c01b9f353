"""The Binance feed, spot and futures: `bookTicker` gives ticks, `trade` gives their price.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams and
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams

- A `bookTicker` is a tick. Its price is that of the symbol's last trade; before the first trade it is the mid.
- `u`, the update id of the order book, is the sequence number. It rises per symbol, but not by 1, since most
  updates leave the top of the book alone. So no loss can be inferred from it. An update id that is not above
  the last id is an old message.
- A gap is therefore a new connection, or a product's silence of more than SILENCE_NS. On one connection TCP
  loses nothing.
- Event time is `T`, the time of the matching engine; without it `E`. A spot `bookTicker` has neither: its
  event time is the time at which it was received.
- Books and other market streams hold no ticks. Recordings often contain such messages, which are skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from pipeline.feed.gate import GapRule, TickGate
from pipeline.feed.message import Message
from pipeline.feed.protocol import Allowance, Position, Result
from pipeline.feed.rfc3339 import NS_PER_S
from pipeline.feed.values import NOT_CONVERTED, explain_quote, shown, sound_quote
from pipeline.records import NOT_DECODED, DeadLetter, DeadReason, LateTick, Tick

BOOK_TICKER = "bookTicker"
TRADE = "trade"

# A symbol whose top of the book does not change for so long is quiet or lost; messages do not show which.
SILENCE_NS = 60 * NS_PER_S
# One SUBSCRIBE message may be some kilobytes long; a connection takes at most 1024 streams.
STREAMS_PER_MESSAGE = 200

# If the update id of a spot symbol falls by more than this inside a recording, the ids began anew. The busiest symbols
# take minutes for so many, while two connections in one file are seconds apart.
MAX_OLD_BY = 1_000_000

# Events of other market streams, and of the connection itself: known, and without ticks.
_SKIPPED = frozenset(
    (
        "depthUpdate", "aggTrade", "kline", "continuous_kline", "24hrMiniTicker", "24hrTicker", "1hTicker", "4hTicker",
        "1dTicker", "avgPrice", "markPriceUpdate", "forceOrder", "compositeIndex", "contractInfo", "assetIndexUpdate",
        "indexPriceUpdate", "serverShutdown",
    )
)  # fmt: skip
# Streams whose payload has no `e`: partial books of the spot market, and lists of all symbols.
_WITHOUT_KIND = re.compile(r"@depth(5|10|20)(@|$)|@arr(@|$)")
_MICROSECONDS_FROM = 10**14  # a time of at least this many milliseconds is in microseconds (timeUnit=MICROSECOND)
_MAX_MS = (2**63 - 1) // 1_000_000

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Envelope(msgspec.Struct):
    stream: str
    data: msgspec.Raw


class _Quote(msgspec.Struct):
    u: Count
    s: str
    b: float
    B: float
    a: float
    A: float
    T: Count = 0
    E: Count = 0


class _Trade(msgspec.Struct):
    s: str
    t: Count
    p: float


class _Kind(msgspec.Struct):
    e: str = ""
    s: str = ""
    u: int | None = None
    T: int = 0
    E: int = 0
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


# strict=False: prices arrive as text.
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_quote = msgspec.json.Decoder(_Quote, strict=False).decode
_decode_trade = msgspec.json.Decoder(_Trade, strict=False).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode

_PRODUCT = re.compile(r"[A-Z0-9]{2,30}(_[A-Z0-9]{1,20})?", re.ASCII)


class BinanceFeed:
    venue = "binance"
    url = "wss://stream.binance.com:9443/stream"
    example = "BTCUSDT"
    heartbeats = False
    allowances = (Allowance(5, 1.0), Allowance(300, 300.0))

    def is_product(self, name: str) -> bool:
        return _PRODUCT.fullmatch(name) is not None

    def canonical(self, product_id: str) -> str:
        return product_id

    def subscriptions(self, products: Iterable[str]) -> list[str]:
        streams = [f"{product.lower()}@{kind}" for product in products for kind in (BOOK_TICKER, TRADE)]
        parts = [streams[start : start + STREAMS_PER_MESSAGE] for start in range(0, len(streams), STREAMS_PER_MESSAGE)]
        return [
            json.dumps({"method": "SUBSCRIBE", "params": part, "id": number}) for number, part in enumerate(parts, 1)
        ]

    def decoder(self, *, max_future_ns: int = 0, gap_after_ns: int = 0) -> BinanceDecoder:
        return BinanceDecoder(max_future_ns=max_future_ns, gap_after_ns=gap_after_ns)

    def connections(self) -> BinanceConnections:
        return BinanceConnections()

    def event_time_ns(self, raw: bytes, ingest_time_ns: int) -> int | None:
        kind = _kind(raw)
        if kind is None:
            return None
        return _time_ns(kind.T or kind.E) or ingest_time_ns or None

    def recognizes(self, raw: bytes) -> bool:
        try:
            _decode_envelope(raw)
        except NOT_DECODED:
            kind = _kind(raw)
            return kind is not None and bool(kind.s) and (kind.u is not None or bool(kind.e))
        return True


class BinanceDecoder:
    """Decodes the messages of one connection.

    max_future_ns, gap_after_ns: as in Feed.decoder. gate: that of the connection before, reconnected.
    """

    acknowledged: frozenset[str] | None = None  # an acknowledgement does not list its streams

    def __init__(self, *, max_future_ns: int = 0, gap_after_ns: int = 0, gate: TickGate | None = None) -> None:
        rule = GapRule(reconnect=not gap_after_ns, silence_ns=gap_after_ns or SILENCE_NS)
        self._gate = gate or TickGate(BinanceFeed.venue, rule, max_future_ns=max_future_ns)
        self._update_ids: dict[str, int] = {}  # symbol -> last update id
        self._trades: dict[str, tuple[int, float]] = {}  # symbol -> id and price of its last trade

    def reconnected(self, max_future_ns: int | None = None) -> BinanceDecoder:
        return BinanceDecoder(gate=self._gate.reconnected(max_future_ns))

    def decode(self, raw: bytes, ingest_time_ns: int, source: str) -> list[Result]:
        try:
            if not raw.isascii():
                raw.decode()
            envelope = _decode_envelope(raw)
        except NOT_DECODED:
            return self._decode_other(raw, ingest_time_ns, source)
        stream = envelope.stream
        message = Message(raw, ingest_time_ns, source, None)
        if stream.endswith("@bookTicker"):
            return self._quote(envelope.data, message)
        if stream.endswith("@trade"):
            return self._trade(envelope.data, message)
        if _WITHOUT_KIND.search(stream):
            return []
        return self._by_kind(envelope.data, message)

    def _by_kind(self, data: msgspec.Raw | bytes, message: Message) -> list[Result]:
        """A payload whose kind does not follow from the name of its stream."""
        kind = _kind(data)
        if kind is None:
            return [message.dead("wrong_shape", f"data: expected an object, got {shown(bytes(data)[:60])}")]
        if kind.e == BOOK_TICKER or (not kind.e and kind.u is not None and kind.s):
            return self._quote(data, message)
        if kind.e == TRADE:
            return self._trade(data, message)
        if kind.e in _SKIPPED:
            return []
        detail = f"e: expected {BOOK_TICKER}, {TRADE} or another market stream, got {shown(kind.e)}"
        return [message.dead("unknown_channel", detail)]

    def _quote(self, data: msgspec.Raw | bytes, message: Message) -> list[Result]:
        try:
            quote = _decode_quote(data)
        except NOT_DECODED:
            return [message.dead(*_explain_quote(data))]
        product = quote.s
        bid, ask = quote.b, quote.a
        trade = self._trades.get(product)
        price = (bid + ask) / 2 if trade is None else trade[1]
        update_id = quote.u
        last_id = self._update_ids.get(product)
        if (last_id is None and not _PRODUCT.fullmatch(product)) or not sound_quote(price, bid, ask, quote.B, quote.A):
            return [message.dead(*_explain_quote(data))]
        time_ns = _time_ns(quote.T or quote.E) or message.ingest_time_ns
        refusal = self._refused(message, time_ns, quote.T or quote.E)
        if refusal is not None:
            return [refusal]
        tick = Tick(
            product, time_ns, message.ingest_time_ns, update_id, price, bid, ask, quote.B, quote.A, BinanceFeed.venue
        )
        if last_id is not None and update_id <= last_id:
            return [LateTick("old_sequence", message.source, tick)]
        self._update_ids[product] = update_id
        results: list[Result] = []
        self._gate.accept(results, tick, message)
        return results

    def _refused(self, message: Message, time_ns: int, stamp: int) -> DeadLetter | None:
        if not time_ns or (stamp and not _time_ns(stamp)):
            expected = "expected a time in ms of 1970 to 2262" if stamp else "no T, no E, and no time of receipt"
            return message.dead("bad_time", f"data.T: {expected}, got {stamp}")
        return self._gate.in_future(message, time_ns, "data.T")

    def _trade(self, data: msgspec.Raw | bytes, message: Message) -> list[Result]:
        try:
            trade = _decode_trade(data)
        except NOT_DECODED:
            return [message.dead("wrong_shape", _decode_error(_decode_trade, data))]
        if not 0 < trade.p < float("inf"):
            # Futures announce trades of the insurance fund and the like with a price of 0.
            return []
        last = self._trades.get(trade.s)
        if last is None or trade.t > last[0]:
            self._trades[trade.s] = trade.t, trade.p
        return []

    def _decode_other(self, raw: bytes, ingest_time_ns: int, source: str) -> list[Result]:
        """A message without the envelope of combined streams: a raw stream's, a reply, or damage."""
        message = Message(raw, ingest_time_ns, source, None)
        try:
            tree = json.loads(raw.decode())
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            return [message.dead("not_json", f"{type(error).__name__}: {error}"[:200])]
        if not isinstance(tree, dict):
            return [message.dead("wrong_shape", f"expected an object, got {shown(tree)}")]
        fault = tree.get("error", tree)
        if isinstance(fault, dict) and "code" in fault and "msg" in fault:
            return [
                message.dead("exchange_error", f"the exchange says: {shown(fault['msg'])}, code {shown(fault['code'])}")
            ]
        if "result" in tree or "lastUpdateId" in tree:  # a reply; a snapshot of the book
            return []
        if "stream" in tree or "data" in tree:
            return [message.dead("wrong_shape", f"stream: expected text beside data, got {shown(tree.get('stream'))}")]
        return self._by_kind(raw, message)


class BinanceConnections:
    """Finds new connections in a recording: each file is a connection, since update ids continue across connections.

    Inside a file, a lower update id of a symbol with a later exchange time starts a connection too. Spot quotes have no
    exchange time. Among them, only a fall by more than MAX_OLD_BY starts a connection.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}  # symbol -> update id and time of its last quote

    def place(self, raw: bytes, *, first_of_file: bool) -> Position:
        kind = _kind(raw)
        if kind is None:
            return Position(None, False)
        starts = first_of_file
        if kind.u is not None and kind.s and kind.e in ("", BOOK_TICKER):
            update_id, time = self._last.get(kind.s, (-1, 0))
            stamp = kind.T or kind.E
            if starts or kind.u > update_id:
                self._last[kind.s] = kind.u, stamp
            elif kind.u < update_id and (stamp > time or (not stamp and update_id - kind.u > MAX_OLD_BY)):
                starts = True
                self._last = {kind.s: (kind.u, stamp)}
        return Position(None, starts)


def _kind(raw: msgspec.Raw | bytes) -> _Kind | None:
    """The kind of a payload, with or without its envelope."""
    try:
        kind = _decode_kind(raw)
        return _decode_kind(kind.data) if kind.data is not msgspec.UNSET else kind
    except NOT_DECODED:
        return None


def _time_ns(stamp: int) -> int:
    """A time in milliseconds or microseconds as nanoseconds; 0 if it is none of 1970 to 2262."""
    if stamp < _MICROSECONDS_FROM:
        return stamp * 1_000_000 if stamp <= _MAX_MS else 0
    return stamp * 1_000 if stamp <= _MAX_MS * 1_000 else 0


def _explain_quote(data: msgspec.Raw | bytes) -> tuple[DeadReason, str]:
    """Reason and detail for a refused quote: the field, its value and what was expected."""
    try:
        fields: Any = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        return "wrong_shape", f"data: {error}"[:200]
    if not isinstance(fields, dict):
        return "wrong_shape", f"data: expected an object, got {shown(fields)}"
    product = fields.get("s")
    if not isinstance(product, str) or not _PRODUCT.fullmatch(product):
        return "wrong_shape", f"data.s: expected a product such as {BinanceFeed.example}, got {shown(product)}"
    for name in ("u", "T", "E"):
        if name in fields or name == "u":
            try:
                msgspec.convert(fields.get(name), Count)
            except NOT_CONVERTED:
                return "wrong_shape", f"data.{name}: expected a count from 0, got {shown(fields.get(name))}"
    return explain_quote("data", fields, ("b", "a"), ("B", "A"), "b", "a")


def _decode_error(decode: Any, data: msgspec.Raw | bytes) -> str:
    try:
        decode(data)
    except NOT_DECODED as error:
        return f"data: {error}"[:200]
    return ""
