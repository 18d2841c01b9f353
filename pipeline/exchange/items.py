"""The messages of an exchange's feed, without the sequence number that each connection gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec

from pipeline.archive import Message
from pipeline.exchange.simulator import PRICE_SCALE, QUANTITY_SCALE, SimulatedTick
from pipeline.feed.coinbase import HEARTBEATS, SUBSCRIPTIONS, TICKER, canonical_product
from pipeline.feed.rfc3339 import format_ns, parse_ns


@dataclass(frozen=True, slots=True)
class Item:
    """A message. Between `head` and `tail` goes the number that it gets on each connection."""

    head: bytes
    tail: bytes = b""
    numbered: bool = True  # False: sent as it is, since it has no place for a number
    event_time_ns: int | None = None
    products: tuple[str, ...] = ()  # whose tickers it holds; none: for every ticker subscriber
    lost: int = 0  # messages lost before it, as the recording shows
    behind: int | None = None  # an old message: how far its number is below the last one

    def narrowed(self, products: frozenset[str]) -> Item | None:
        """The item without tickers of other products; None if no ticker is left."""
        if not self.products or products.issuperset(self.products):
            return self
        if products.isdisjoint(self.products):
            return None
        message = json.loads(self.head + b"0" + self.tail)
        for event in message["events"]:
            event["tickers"] = [
                ticker for ticker in event["tickers"] if canonical_product(ticker["product_id"]) in products
            ]
        head, _, tail = _cut(json.dumps(message).encode()) or (self.head, 0, self.tail)
        kept = tuple(product for product in self.products if product in products)
        return replace(self, head=head, tail=tail, products=kept)

    def as_snapshot(self) -> Item:
        """As the first message of a product on a connection is marked."""
        return replace(self, tail=self.tail.replace(b'"type":"update"', b'"type":"snapshot"', 1))


@dataclass(frozen=True, slots=True)
class Restart:
    """Here the recording goes on with a new connection."""


_SEQUENCE = re.compile(rb'"sequence_num"\s*:\s*(\d+)')


def _cut(raw: bytes) -> tuple[bytes, int, bytes] | None:
    """A message around its sequence number; None if the number is missing or ambiguous."""
    matches = list(_SEQUENCE.finditer(raw))
    if len(matches) != 1:
        return None
    start, end = matches[0].span(1)
    return raw[:start], int(matches[0][1]), raw[end:]


class _TickerProduct(msgspec.Struct):
    product_id: str


class _Event(msgspec.Struct):
    tickers: tuple[_TickerProduct, ...] = ()


class _Envelope(msgspec.Struct):
    channel: str
    timestamp: str = ""
    events: tuple[_Event, ...] = ()


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def replayed(messages: Iterable[Message]) -> Iterator[Item | Restart]:
    """A recording as items. Numbers it skipped stay skipped, old messages stay old.

    Acknowledgements and heartbeats are left out, since each connection gets its own. A damaged line is sent as it is:
    readers of the feed must handle it as readers of an archive do.
    """
    last: int | None = None
    lost = 0
    sent = False
    for message in messages:
        if message.starts_connection:
            if sent:
                yield Restart()
            last, lost, sent = None, 0, False
        item = _item(message)
        sequence = message.sequence_num
        if sequence is not None and last is not None:
            if sequence <= last:
                item = item and replace(item, behind=last - sequence)
            else:
                lost += sequence - last - 1
        if sequence is not None:
            last = sequence if last is None else max(last, sequence)
        if item is not None:
            if item.numbered and item.behind is None:
                item, lost = (replace(item, lost=lost) if lost else item), 0
            sent = True
            yield item


def _item(message: Message) -> Item | None:
    raw = message.raw
    parts = _cut(raw) if message.sequence_num is not None and message.damage is None else None
    if parts is None:
        return Item(raw, numbered=False)
    head, _, tail = parts
    try:
        envelope = _decode_envelope(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Item(head, tail)  # numbered, but no ticker that a reader understands
    if envelope.channel in (SUBSCRIPTIONS, HEARTBEATS):
        return None
    products: tuple[str, ...] = ()
    if envelope.channel == TICKER:
        names = (canonical_product(ticker.product_id) for event in envelope.events for ticker in event.tickers)
        products = tuple(dict.fromkeys(names))
    return Item(head, tail, event_time_ns=_time_ns(envelope.timestamp), products=products)


def _time_ns(timestamp: str) -> int | None:
    try:
        return parse_ns(timestamp)
    except ValueError:
        return None


def simulated(ticks: Iterable[SimulatedTick]) -> Iterator[Item]:
    """Simulated updates as messages of the exchange, one update per message."""
    for tick in ticks:
        head = f'{{"channel":"ticker","timestamp":"{format_ns(tick.event_time_ns)}","sequence_num":'
        tail = f',"events":[{{"type":"update","tickers":[{_ticker(tick)}]}}]}}'
        products = (tick.product_id,)
        yield Item(head.encode(), tail.encode(), event_time_ns=tick.event_time_ns, products=products)


def _ticker(tick: SimulatedTick) -> str:
    return (
        f'{{"type":"ticker","product_id":"{tick.product_id}","price":"{_price(tick.price)}",'
        f'"volume_24_h":"{tick.volume:.8f}","low_24_h":"{_price(tick.low)}","high_24_h":"{_price(tick.high)}",'
        f'"low_52_w":"{_price(tick.low // 2)}","high_52_w":"{_price(tick.high * 2)}",'
        f'"price_percent_chg_24_h":"{tick.change:.14f}","best_bid":"{_price(tick.bid)}","best_ask":"{_price(tick.ask)}",'
        f'"best_bid_quantity":"{_quantity(tick.bid_quantity)}","best_ask_quantity":"{_quantity(tick.ask_quantity)}"}}'
    )


def _price(steps: int) -> str:
    units, rest = divmod(steps, PRICE_SCALE)
    return f"{units}.{rest:02d}".rstrip("0") if rest else str(units)


def _quantity(steps: int) -> str:
    units, rest = divmod(steps, QUANTITY_SCALE)
    return f"{units}.{rest:08d}".rstrip("0") if rest else str(units)
