"""The feed's decoder in microseconds per message, and the replaying exchange in messages per second.

- `json + datetime` is what one would write first: json.loads, float() and datetime.fromisoformat, which
  loses the nanoseconds and checks nothing.
- The exchange is measured twice: with a client that only reads bytes, which is what the server can do,
  and with the websockets client and the decoder, which is what an ingest in Python gets out of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.machine import header
from common.status import STATUS_FD
from pipeline.exchange.items import simulated
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.feed.coinbase import CoinbaseDecoder, subscribe_messages

DECODED_MESSAGES = 20_000
SENT_MESSAGES = 100_000
REPEATS = 7
_END = b"end of simulation"


def run(console: Console) -> dict[str, Any]:
    """Prints the tables and gives their figures."""
    header(console, "volcast bench feed", f"simulated messages of about 460 bytes; decoding: best of {REPEATS} rounds")
    figures: dict[str, Any] = {"decode_us": _decoding(console)}
    figures["exchange_messages_per_s"] = _exchange(console)
    return figures


def _decoding(console: Console) -> dict[str, float]:
    raws = _messages()
    ways = {"CoinbaseDecoder": _decode, "json + datetime": _plain}
    figures = {name: _best_us(way, raws) for name, way in ways.items()}
    table = Table("decoding", "µs a message")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}")
    console.print(table)
    return figures


def _messages() -> list[bytes]:
    items = islice(simulated(simulate(PROFILES, 1, 20.0)), DECODED_MESSAGES)
    return [b"%b%d%b" % (item.head, number, item.tail) for number, item in enumerate(items)]


def _best_us(way: Callable[[list[bytes]], None], raws: list[bytes]) -> float:
    took_s = []
    for _ in range(REPEATS):
        began_s = time.process_time()
        way(raws)
        took_s.append(time.process_time() - began_s)
    return min(took_s) / len(raws) * 1e6


def _decode(raws: list[bytes]) -> None:
    decoder = CoinbaseDecoder()
    for raw in raws:
        decoder.decode(raw, 0, "bench")


def _plain(raws: list[bytes]) -> None:
    for raw in raws:
        message = json.loads(raw)
        datetime.fromisoformat(message["timestamp"]).timestamp()
        for event in message["events"]:
            for one in event["tickers"]:
                names = ("price", "best_bid", "best_ask", "best_bid_quantity", "best_ask_quantity")
                [float(one[name]) for name in names]


def _exchange(console: Console) -> dict[str, float]:
    figures = {
        "a client that only reads bytes": _with_exchange(_read_bytes),
        "websockets client and decoder": _with_exchange(_ingest),
    }
    table = Table("exchange at full speed, simulating", "messages/s")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.0f}")
    console.print(table)
    return figures


def _with_exchange(client: Callable[[int], Coroutine[Any, Any, None]]) -> float:
    """Messages per second from a `volcast exchange` of its own process to the client."""
    reader, writer = os.pipe()
    options = ["--simulate", "--speed", "max", "--max-ticks", str(SENT_MESSAGES), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "exchange", *options],
        pass_fds=[writer],
        env={**os.environ, STATUS_FD: str(writer)},
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    try:
        with os.fdopen(reader) as status:
            ready = json.loads(status.readline())
            began_s = time.perf_counter()
            asyncio.run(client(ready["port"]))
            return SENT_MESSAGES / (time.perf_counter() - began_s)
    finally:
        process.terminate()
        process.wait(10)


async def _read_bytes(port: int) -> None:
    """Just enough of RFC 6455 to subscribe; what comes back is read and thrown away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13"
    writer.write(f"GET / HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    request = subscribe_messages(PROFILES)[0].encode()
    # A masked text frame of at most 125 bytes (section 5.2); the mask is zero.
    writer.write(bytes([0x81, 0x80 | len(request)]) + b"\0\0\0\0" + request)
    while data := await reader.read(2**20):
        if _END in data[-64:]:
            break
    writer.close()
    await writer.wait_closed()


async def _ingest(port: int) -> None:
    decoder = CoinbaseDecoder()
    async with connect(f"ws://127.0.0.1:{port}", compression=None, max_queue=4096) as connection:
        for text in subscribe_messages(PROFILES):
            await connection.send(text)
        try:
            while True:
                decoder.decode(await connection.recv(decode=False), time.time_ns(), "bench")
        except ConnectionClosed:
            return
