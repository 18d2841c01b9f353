"""A simulated exchange of six products in a thread: the only part of a course that no fault touches."""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Iterator, Mapping

from benchmarks.processes import free_port
from common.ports import open_port
from pipeline.exchange.faults import Fault, Faults
from pipeline.exchange.items import simulated
from pipeline.exchange.server import ExchangeServer
from pipeline.exchange.simulator import SimulatedTick, simulate

# Simulated products under the names of six. Of three partitions each holds two of them.
PRODUCTS = ("BTC-USD", "ETH-USD", "XRP-USD", "ADA-USD", "LTC-USD", "DOT-USD")
SPEED = 20.0  # a window of 60 s is full after 3 s


class Market:
    """Serves the market on loopback while the context lasts. The clock stands while nobody is subscribed."""

    def __init__(self, seed: int, ticks_per_s: float, faults: Mapping[Fault, float] | None = None) -> None:
        rate_per_s = ticks_per_s / len(PRODUCTS) / SPEED
        self.faults = Faults(faults, seed) if faults else None
        self._server = ExchangeServer(
            simulated(_ticks(seed, rate_per_s)),
            products=PRODUCTS,
            speed=SPEED,
            end_reason="",
            faults=self.faults,
        )
        self._port = free_port()
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="exchange")

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    def __enter__(self) -> Market:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with open_port("127.0.0.1", self._port, "the exchange") as listener:
            asyncio.run(self._server.run(listener, on_ready=lambda port: self._ready.set(), stopped=self._stop.is_set))


def _ticks(seed: int, rate_per_s: float) -> Iterator[SimulatedTick]:
    return heapq.merge(
        _renamed(PRODUCTS[:2], seed, rate_per_s),
        _renamed(PRODUCTS[2:4], seed + 1000, rate_per_s),
        _renamed(PRODUCTS[4:], seed + 2000, rate_per_s),
    )


def _renamed(names: tuple[str, ...], seed: int, rate_per_s: float) -> Iterator[SimulatedTick]:
    simulated_names = PRODUCTS[:2]
    new = dict(zip(simulated_names, names, strict=True))
    for tick in simulate(simulated_names, seed, rate_per_s):
        yield tick._replace(product_id=new[tick.product_id])
