"""Recordings of several days, connections and products, with what disturbs them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from pipeline.feed.rfc3339 import NS_PER_S, format_ns
from tests.pipeline.feed.messages import TICKER

DAY_NS = 86_400 * NS_PER_S
FIRST_DAY_NS = 1_775_347_200 * NS_PER_S  # 2026-04-05


class Feed:
    """Writes files of messages; sequence numbers go on until a new connection."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = np.random.default_rng(seed)
        self._sequence = 0
        self._lines: list[str] = []
        self._first_ns = 0
        self.mid = dict.fromkeys(("BTC-USD", "ETH-USD", "SOL-USD"), 60_000.0)

    def reconnect(self) -> None:
        self._sequence = 0

    def lose(self, messages: int) -> None:
        self._sequence += messages

    def ticker(self, time_ns: int, product: str = "BTC-USD", sequence: int | None = None) -> None:
        self.mid[product] += 0.01 * int(self._random.integers(-1, 2))
        bid = self.mid[product]
        sizes = self._random.exponential(1.0, 2).round(8).tolist()
        ticker = TICKER | {
            "product_id": product, "price": f"{bid:.2f}", "best_bid": f"{bid:.2f}", "best_ask": f"{bid + 0.02:.2f}",
            "best_bid_quantity": str(sizes[0]), "best_ask_quantity": str(sizes[1]),
        }  # fmt: skip
        events = [{"type": "update", "tickers": [ticker]}]
        number = self._sequence if sequence is None else sequence
        envelope = {"channel": "ticker", "timestamp": format_ns(time_ns), "sequence_num": number, "events": events}
        self.line(json.dumps(envelope), time_ns)
        if sequence is None:
            self._sequence += 1

    def repeat(self) -> None:
        """The last ticker again under the next number but with its own: an old message."""
        self._lines.append(self._lines[-1])

    def line(self, text: str, time_ns: int) -> None:
        self._first_ns = self._first_ns or time_ns
        self._lines.append(text)

    def roll(self) -> Path:
        """Completes the file in hand; the connection goes on."""
        path = self._folder / f"feed_{self._first_ns // NS_PER_S}.ndjson.gz"
        path.write_bytes(gzip.compress("".join(f"{line}\n" for line in self._lines).encode(), 1))
        self._lines, self._first_ns = [], 0
        return path


def three_days(folder: Path, seed: int = 1, every_s: float = 1.0) -> list[Path]:
    """Minutes around midnights over three connections: a busy, a quiet, and a late product; gaps, late ticks, a clock
    that jumps back over midnight, repeated and damaged messages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    feed, files = Feed(folder, seed), []
    random = np.random.default_rng(seed)
    time_ns = FIRST_DAY_NS + DAY_NS - 700 * NS_PER_S
    for part in range(9):
        if part in (3, 7):
            feed.reconnect()
        ticks = int(300 / every_s)
        for number in range(ticks):
            time_ns += round(every_s * NS_PER_S * float(random.exponential(1.0)))
            feed.ticker(time_ns)
            if number % 97 == 3:
                feed.ticker(time_ns + 5, "ETH-USD")
            if part >= 2 and number % 7 == 0:
                feed.ticker(time_ns, "SOL-USD")
            if number % 53 == 11:
                feed.ticker(time_ns - 3 * NS_PER_S)  # late for the engine
            if number == ticks // 2 and part in (1, 4):
                feed.lose(3)
            if number == ticks * 2 // 3:
                feed.repeat()
                feed.line('{"channel": "ticker", cut off', time_ns)
            if number == ticks * 5 // 6 and part == 6:
                time_ns -= 1000 * NS_PER_S  # the clock jumps back, over midnight where the day has just begun
        files.append(feed.roll())
        if part == 4:
            time_ns = FIRST_DAY_NS + 2 * DAY_NS - 400 * NS_PER_S
        if part == 6:
            time_ns = FIRST_DAY_NS + 3 * DAY_NS - 100 * NS_PER_S
    return files
