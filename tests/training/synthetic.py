"""A made-up market whose volatility clusters, as recordings and as columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.problem.target import NS_PER_S

START_NS = 1_764_565_200 * NS_PER_S


def write_flat(path: Path, time_ns: NDArray[np.int64], mid: NDArray[np.float64]) -> Path:
    """A CSV file of quotes with those mids, without a product column."""
    rows = zip(time_ns.tolist(), mid.tolist(), strict=True)
    path.write_text("time,bid,ask\n" + "".join(f"{at},{price - 0.5:.2f},{price + 0.5:.2f}\n" for at, price in rows))
    return path


def market(seconds: int, seed: int, ticks_per_s: int = 1) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Times and mids of ticks at even distances. Log volatility comes and goes every ten minutes, so that
    each part of an hour has its spikes, with an AR(1) on top."""
    random = np.random.default_rng(seed)
    count = seconds * ticks_per_s
    keep = 0.98 ** (1 / ticks_per_s)
    level, levels = 0.0, []
    for shock in random.normal(size=count).tolist():
        level = level * keep + shock * np.sqrt(1 - keep**2)
        levels.append(level)
    tide = np.sin(2 * np.pi * np.arange(count) / (600 * ticks_per_s))
    returns = 2e-5 * np.exp(tide + 0.4 * np.array(levels)) * random.normal(size=count)
    time_ns = START_NS + np.arange(count) * (NS_PER_S // ticks_per_s)
    return time_ns, 90_000 * np.exp(np.cumsum(returns))


def write_recording(path: Path, time_ns: NDArray[np.int64], mid: NDArray[np.float64], seed: int = 0) -> Path:
    """A bare recording of Coinbase's ticker channel with those mids."""
    random = np.random.default_rng(seed)
    quantity = random.lognormal(size=(len(time_ns), 2))
    half_spread = 0.005 * random.integers(1, 20, size=len(time_ns))
    lines = []
    for number, (at, price, half, (bid_size, ask_size)) in enumerate(
        zip(time_ns.tolist(), mid.tolist(), half_spread.tolist(), quantity.tolist(), strict=True)
    ):
        ticker = {
            "type": "ticker",
            "product_id": "BTC-USD",
            "price": f"{price:.6f}",
            "best_bid": f"{price - half:.6f}",
            "best_ask": f"{price + half:.6f}",
            "best_bid_quantity": f"{bid_size:.8f}",
            "best_ask_quantity": f"{ask_size:.8f}",
        }
        stamp = datetime.fromtimestamp(at / NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        kind = "update" if number else "snapshot"
        message = {
            "channel": "ticker",
            "timestamp": stamp,
            "sequence_num": number,
            "events": [{"type": kind, "tickers": [ticker]}],
        }
        lines.append(json.dumps(message))
    path.write_text("\n".join(lines) + "\n")
    return path
