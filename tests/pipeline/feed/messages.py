"""Messages as the exchange sends them, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

TIME = "2026-04-05T22:35:13.92532762Z"
TIME_NS = 1775428513925327620

TICKER = {
    "type": "ticker",
    "product_id": "BTC-USD",
    "price": "67468.26",
    "volume_24_h": "3057.53218222",
    "low_24_h": "66600",
    "high_24_h": "67812",
    "low_52_w": "60001",
    "high_52_w": "126296",
    "price_percent_chg_24_h": "0.10290969140446",
    "best_bid": "67468.26",
    "best_ask": "67469.62",
    "best_bid_quantity": "0.00275905",
    "best_ask_quantity": "0.17950856",
}


def message(sequence_num: Any, *tickers: dict[str, Any], timestamp: Any = TIME, channel: Any = "ticker") -> bytes:
    """A ticker message; without tickers, one good one. A ticker gives the fields that differ from TICKER."""
    events = [{"type": "update", "tickers": [{**TICKER, **one} for one in tickers or ({},)]}]
    envelope = {"channel": channel, "timestamp": timestamp, "sequence_num": sequence_num, "events": events}
    return json.dumps(envelope).encode()


def subscriptions(sequence_num: int, products: Sequence[str] = ("BTC-USD",)) -> bytes:
    events = [{"subscriptions": {"ticker": list(products), "heartbeats": ["heartbeats"]}}]
    envelope = {"channel": "subscriptions", "timestamp": TIME, "sequence_num": sequence_num, "events": events}
    return json.dumps(envelope).encode()


def heartbeat(sequence_num: int) -> bytes:
    events = [{"current_time": "2026-04-05 22:35:13 +0000 UTC m=+1.5", "heartbeat_counter": "3049"}]
    envelope = {"channel": "heartbeats", "timestamp": TIME, "sequence_num": sequence_num, "events": events}
    return json.dumps(envelope).encode()
