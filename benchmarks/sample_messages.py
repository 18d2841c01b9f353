"""Valid messages of exchanges, and records, for readers under measurement."""

from __future__ import annotations

import json
from itertools import islice

from pipeline.exchange.items import Item, simulated
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.records import Tick, encode


def ticks(count: int, seed: int = 3) -> list[Tick]:
    return [
        Tick(
            each.product_id, each.event_time_ns, each.event_time_ns + 1000, number, each.price / 100, each.bid / 100,
            each.ask / 100, each.bid_quantity / 1e8, each.ask_quantity / 1e8,
        )
        for number, each in enumerate(islice(simulate(PROFILES, seed, 5.0), count))
    ]  # fmt: skip


def coinbase_messages(count: int) -> list[bytes]:
    items = (each for each in simulated(simulate(PROFILES, 3, 5.0)) if isinstance(each, Item))
    return [b"%b%d%b" % (item.head, number, item.tail) for number, item in enumerate(islice(items, count))]


def binance_messages(count: int) -> list[bytes]:
    messages: list[bytes] = []
    for number, tick in enumerate(ticks(count)):
        symbol = tick.product_id.replace("-", "") + "T"
        time_ms = tick.event_time_ns // 10**6
        quote = {
            "e": "bookTicker", "u": 1000 + 3 * number, "s": symbol, "b": f"{tick.bid}", "B": f"{tick.bid_quantity}",
            "a": f"{tick.ask}", "A": f"{tick.ask_quantity}", "T": time_ms, "E": time_ms,
        }  # fmt: skip
        messages.append(json.dumps({"stream": f"{symbol.lower()}@bookTicker", "data": quote}).encode())
    return messages


def other_messages() -> list[bytes]:
    """Of other venues and channels, and replies."""
    return [
        *coinbase_messages(3),
        *binance_messages(3),
        b'{"channel":"subscriptions","timestamp":"2026-01-01T00:00:00Z","sequence_num":1,'
        b'"events":[{"subscriptions":{"ticker":["BTC-USD"]}}]}',
        b'{"channel":"heartbeats","timestamp":"2026-01-01T00:00:00Z","sequence_num":2,'
        b'"events":[{"heartbeat_counter":"1"}]}',
        b'{"type":"error","message":"rate limit exceeded"}',
        b'{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","t":1,"p":"61000.5","q":"1","T":1}}',
        b'{"result":null,"id":1}',
        b'{"code":-1121,"msg":"Invalid symbol."}',
        b'{"type":"snapshot","product_ids":["BTC-USD"],"bids":[["1","2"]]}',
        b'[0,["61837.6","1"],"ticker","XBT/USD"]',
        b"pong",
        b"",
        *(encode(tick) for tick in ticks(2)),
    ]
