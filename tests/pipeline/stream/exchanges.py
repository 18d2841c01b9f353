"""Exchanges of this process, and an ingest on a fake sink."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from common.config import IngestConfig
from common.ports import open_port
from pipeline.archive import ArchiveWriter
from pipeline.exchange.items import Item, Restart, simulated
from pipeline.exchange.server import ExchangeServer
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.records import Gap, Record, Tick, decode_record
from pipeline.stream.ingest import Ingest
from pipeline.stream.publish import Publisher
from tests.pipeline.stream.fakes import TOPICS, FakeSink

Handler = Callable[[ServerConnection], Awaitable[None]]


class Feed:
    """An ingest on a fake sink."""

    def __init__(
        self, url: str, *, archive: ArchiveWriter | None = None, until_closed: bool = True, **settings: Any
    ) -> None:
        self.sink = FakeSink()
        config = IngestConfig(url=url, **{"max_future_s": 0.0, "connect_timeout_s": 2.0, **settings})
        self.ingest = Ingest(config, Publisher(self.sink, TOPICS), archive, until_closed=until_closed)  # type: ignore[arg-type]

    async def run(self) -> Feed:
        await asyncio.wait_for(self.ingest.run(), 20)
        return self

    def records(self, product: str = "BTC-USD") -> list[Record]:
        return [decode_record(value) for value in self.sink.sent[TOPICS.raw][f"coinbase:{product}".encode()]]

    def ticks(self) -> list[Tick]:
        values = map(decode_record, self.sink.values(TOPICS.raw))
        return [one for one in values if isinstance(one, Tick)]

    def gaps(self) -> list[Gap]:
        values = map(decode_record, self.sink.values(TOPICS.raw))
        return [one for one in values if isinstance(one, Gap)]


@asynccontextmanager
async def exchange(feed: list[Item | Restart]) -> AsyncIterator[str]:
    """Volcast's own exchange, at full speed."""
    server = ExchangeServer(iter(feed), products=None, speed=math.inf, end_reason="the end")
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.run(open_port("127.0.0.1", 0, "--port"), on_ready=ready.set_result))
    try:
        yield f"ws://127.0.0.1:{await ready}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def scripted(*handlers: Handler) -> AsyncIterator[str]:
    """An exchange that treats its first connection by the first handler, and so on; the last one for all after."""
    turns = iter(handlers)
    last = handlers[-1]

    async def handle(connection: ServerConnection) -> None:
        await next(turns, last)(connection)

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def sends(*messages: bytes, then: int | None = 1000) -> Handler:
    """Sends messages and closes with a code; None: breaks the connection off."""

    async def handle(connection: ServerConnection) -> None:
        for one in messages:
            await connection.send(one, text=True)
        if then is None:
            await asyncio.sleep(0.05)  # what was sent arrives before the reset
            connection.transport.abort()
        else:
            await connection.close(then)

    return handle


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def market(count: int) -> list[Item | Restart]:
    return list(islice(simulated(simulate(PROFILES, 3, 10.0)), count))
