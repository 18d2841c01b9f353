"""The exchange's side of Coinbase's WebSocket protocol, for one connection, without the socket.

Requests come in as text, replies and messages go out as bytes. One sequence counter numbers all
messages: acknowledgements, tickers and heartbeats. Errors carry no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec

from pipeline.exchange.items import Item
from pipeline.feed.coinbase import HEARTBEATS, SUBSCRIPTIONS, TICKER, canonical_product
from pipeline.feed.rfc3339 import NS_PER_S, format_ns

_PRODUCT = re.compile(r"[A-Z0-9]+(-[A-Z0-9]+)+", re.ASCII)


class _Request(msgspec.Struct):
    type: str
    channel: str
    product_ids: list[str] = []


_decode_request = msgspec.json.Decoder(_Request).decode


class Session:
    """One client's subscriptions and counter.

    products: names that are traded here; None: any well-formed name, since those of a recording are not known at start.
    """

    def __init__(self, products: Iterable[str] | None) -> None:
        self._known = None if products is None else frozenset(products)
        self._tickers: frozenset[str] = frozenset()
        self._heartbeats = False
        self._shown: set[str] = set()  # products whose snapshot was sent
        self._next = 0
        self._beats = 0

    @property
    def subscribed(self) -> bool:
        return bool(self._tickers) or self._heartbeats

    @property
    def last_number(self) -> int | None:
        """The number of the last message; None before the first."""
        return self._next - 1 if self._next else None

    @property
    def wants_tickers(self) -> bool:
        return bool(self._tickers)

    def receive(self, text: str | bytes, now_ns: int) -> bytes:
        """The reply to a request: the acknowledgement, listing all subscriptions, or an error."""
        try:
            request = _decode_request(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return refusal(f"failed to parse request: {error}")
        products = [canonical_product(product) for product in request.product_ids]
        problem = self._problem(request, products)
        if problem:
            return refusal(problem)
        if request.channel == HEARTBEATS:
            self._heartbeats = request.type == "subscribe"
        elif request.type == "subscribe":
            self._tickers |= set(products)
        else:
            self._tickers -= set(products)
        self._shown -= set(products)  # a new subscription starts with a new snapshot
        return self._acknowledgement(now_ns)

    def _problem(self, request: _Request, products: list[str]) -> str:
        if request.type not in ("subscribe", "unsubscribe"):
            return f"unknown type {request.type!r:.60}: expected subscribe or unsubscribe"
        if request.channel not in (TICKER, HEARTBEATS):
            return f"unknown channel {request.channel!r:.60}: expected {TICKER} or {HEARTBEATS}"
        if request.channel == TICKER and not products:
            return "product_ids: expected at least one product"
        for product in products:
            if product not in self._known if self._known is not None else not _PRODUCT.fullmatch(product):
                return f"unknown product {product!r:.60}"
        return ""

    def _acknowledgement(self, now_ns: int) -> bytes:
        subscriptions: dict[str, list[str]] = {}
        if self._tickers:
            subscriptions[TICKER] = sorted(self._tickers)
        if self._heartbeats:
            subscriptions[HEARTBEATS] = [HEARTBEATS]
        return self._envelope(SUBSCRIPTIONS, now_ns, {"subscriptions": subscriptions})

    def heartbeat(self, now_ns: int) -> bytes | None:
        """The next heartbeat; None if the client did not subscribe to heartbeats."""
        if not self._heartbeats:
            return None
        self._beats += 1
        moment = datetime.fromtimestamp(now_ns // NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S")
        current_time = f"{moment}.{now_ns % NS_PER_S:09d} +0000 UTC m=+{self._beats}.000000000"
        event = {"current_time": current_time, "heartbeat_counter": str(self._beats)}
        return self._envelope(HEARTBEATS, now_ns, event)

    def message(self, item: Item) -> bytes | None:
        """An item as this client gets it; None if the client did not subscribe to it."""
        if not self._tickers:
            return None
        if not item.numbered:
            return item.head
        self._next += item.lost
        if item.products:
            narrowed = item.narrowed(self._tickers)
            if narrowed is None:
                return None
            item = narrowed
            if not self._shown.issuperset(item.products):
                self._shown.update(item.products)
                item = item.as_snapshot()
        if item.behind is not None:
            return b"%b%d%b" % (item.head, max(self._next - 1 - item.behind, 0), item.tail)
        return b"%b%d%b" % (item.head, self._take_number(), item.tail)

    def _take_number(self) -> int:
        number = self._next
        self._next += 1
        return number

    def _envelope(self, channel: str, now_ns: int, event: Mapping[str, object]) -> bytes:
        message = {
            "channel": channel,
            "timestamp": format_ns(now_ns),
            "sequence_num": self._take_number(),
            "events": [event],
        }
        return msgspec.json.encode(message)


def refusal(message: str) -> bytes:
    """An error as the exchange sends it: without a number."""
    return msgspec.json.encode({"type": "error", "message": message})
