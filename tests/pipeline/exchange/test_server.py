from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from common.ports import open_port
from pipeline.archive import read_archive, read_messages
from pipeline.datasets import coinbase_ticker_2025, coinbase_ticker_2026
from pipeline.exchange.items import Item, Restart, replayed, simulated
from pipeline.exchange.server import ExchangeServer
from pipeline.exchange.simulator import PROFILES, START_NS, simulate
from pipeline.feed.coinbase import CoinbaseDecoder, subscribe_messages
from pipeline.records import DeadLetter, Gap, LateTick, Tick
from tests.pipeline.feed.messages import message

PRODUCTS = ["BTC-USD", "ETH-USD"]


@asynccontextmanager
async def serving(
    feed: Iterable[Item | Restart], speed: float = math.inf, stop: asyncio.Event | None = None, **options: Any
) -> AsyncIterator[tuple[str, ExchangeServer]]:
    """A server, and where it is; on leaving, waits for it to end by itself."""
    duration_s = options.pop("duration_s", None)
    server = ExchangeServer(feed, products=None, speed=speed, end_reason="the end", **options)
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stopped = stop.is_set if stop else lambda: False
    task = asyncio.create_task(
        server.run(
            open_port("127.0.0.1", 0, "--port"), on_ready=ready.set_result, stopped=stopped, duration_s=duration_s
        )
    )
    try:
        awaited: list[asyncio.Future[Any]] = [task, ready]
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        yield f"ws://127.0.0.1:{ready.result()}", server
        await asyncio.wait_for(task, 30)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def subscribe(connection: ClientConnection) -> None:
    for text in subscribe_messages(PRODUCTS):
        await connection.send(text)


async def collect(url: str) -> tuple[list[Any], list[tuple[int, str]]]:
    """What an ingest would see until the end, over as many connections as it takes, and how each closed."""
    decoder = CoinbaseDecoder()
    results: list[Any] = []
    closes: list[tuple[int, str]] = []
    while not closes or closes[-1][0] == 1012:
        async with connect(url) as connection:
            await subscribe(connection)
            async for raw in _until_closed(connection):
                results += decoder.decode(raw, 0, "ws")
            closes.append((connection.close_code or 0, connection.close_reason or ""))
        decoder = decoder.reconnected()
    return results, closes


def unnumbered(records: Iterable[Any]) -> list[Any]:
    """Without what a connection or the wall clock gives a record."""
    plain: list[Any] = []
    for one in records:
        if isinstance(one, Tick):
            plain.append(msgspec.structs.replace(one, sequence_num=0, ingest_time_ns=0))
        elif isinstance(one, Gap):
            plain.append(msgspec.structs.replace(one, ingest_time_ns=0))
        else:
            plain.append(one.reason)
    return plain


def decoded(items: Iterable[Item]) -> list[Any]:
    return [one for item in items for one in CoinbaseDecoder().decode(item.head + b"0" + item.tail, 0, "")]


def simulation(count: int) -> Iterable[Item]:
    return islice(simulated(simulate(PROFILES, 5, 20.0)), count)


@pytest.mark.skipif(not coinbase_ticker_2026(), reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
async def test_a_replay_through_a_real_socket_is_the_recording_tick_for_tick() -> None:
    async with serving(replayed(read_messages(coinbase_ticker_2026()))) as (url, server):
        results, closes = await collect(url)
    assert unnumbered(results) == unnumbered(read_archive(coinbase_ticker_2026()))
    assert len(results) == server.counts.position == 5970
    assert closes == [(1000, "the end")]


@pytest.mark.skipif(not coinbase_ticker_2025(), reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
async def test_pieces_of_a_recording_come_over_a_connection_each() -> None:
    files = coinbase_ticker_2025()[:4]
    async with serving(replayed(read_messages(files))) as (url, server):
        results, closes = await collect(url)
    assert unnumbered(results) == unnumbered(read_archive(files))
    assert [code for code, _ in closes] == [1012, 1012, 1012, 1000]
    assert (server.counts.restarts, server.counts.connections) == (3, 4)


async def test_damage_and_losses_come_through_as_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    lines = [
        message(0),
        message(1),
        b"\xff\xfe",
        message(3)[:-5],
        message(9),
        message(9),
        message(10, {"price": "nan"}),
    ]
    path.write_bytes(b"\n".join(lines))
    async with serving(replayed(read_messages([path]))) as (url, _):
        results, _ = await collect(url)
    kinds = [type(one) for one in results]
    assert kinds == [Tick, Tick, DeadLetter, DeadLetter, Gap, Tick, LateTick, DeadLetter]
    assert results[2].raw_encoding == "base64"
    assert unnumbered(results) == unnumbered(read_archive([path]))


async def test_two_subscribers_get_the_same_and_no_more_than_there_is() -> None:
    gate: asyncio.Event = asyncio.Event()

    async with serving(simulation(2000), speed=400.0) as (url, _), connect(url) as late:

        async def after_the_first() -> list[bytes]:
            await gate.wait()
            await subscribe(late)
            return [raw async for raw in _until_closed(late)]

        other = asyncio.create_task(after_the_first())
        async with connect(url) as first:
            await subscribe(first)
            raws = []
            async for raw in _until_closed(first):
                raws.append(raw)
                if len(raws) == 500:
                    gate.set()
        some = await other
    ticks, late_ticks = _ticks(raws), _ticks(some)
    assert len(ticks) == 2000
    assert 0 < len(late_ticks) < 2000
    assert late_ticks == ticks[-len(late_ticks) :]


async def _until_closed(connection: ClientConnection) -> AsyncIterator[bytes]:
    try:
        while True:
            yield await connection.recv(decode=False)
    except ConnectionClosed:
        return


def _ticks(raws: Iterable[bytes]) -> list[Any]:
    decoder = CoinbaseDecoder()
    results = [one for raw in raws for one in decoder.decode(raw, 0, "")]
    assert all(isinstance(one, Tick) for one in results), "one unbroken counter a connection"
    return unnumbered(results)


async def test_the_position_waits_while_nobody_is_subscribed() -> None:
    async with serving(simulation(3000), speed=200.0) as (url, server):
        seen = []
        async with connect(url) as first:
            await subscribe(first)
            async for raw in _until_closed(first):
                seen.append(raw)
                if len(seen) == 100:
                    break
        await asyncio.sleep(0.3)  # a minute of market, 2,400 ticks, if it did not wait
        rest, closes = await collect(url)
    ticks = unnumbered(rest)
    assert len(ticks) > 1500
    assert ticks == unnumbered(decoded(simulation(3000)))[-len(ticks) :]
    assert server.counts.position == 3000
    assert closes == [(1000, "the end")]


async def test_ticks_are_paced_by_event_time() -> None:
    """Two seconds of market at twenty times the speed take a tenth of a second; at full speed next to nothing."""
    items = list(simulation(80))
    first_ns, last_ns = items[0].event_time_ns, items[-1].event_time_ns
    assert first_ns is not None
    assert last_ns is not None
    async with serving(items, speed=20.0) as (url, _):
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        results, _ = await collect(url)
        took_s = loop.time() - begin_s
    assert len(results) == 80
    assert took_s >= (last_ns - first_ns) / 1e9 / 20 * 0.9


async def test_heartbeats_come_each_second() -> None:
    async with serving(simulation(100_000), speed=1.0, duration_s=2.5) as (url, _), connect(url) as connection:
        await connection.send(subscribe_messages(PRODUCTS)[1])
        raws = [json.loads(raw) async for raw in _until_closed(connection)]
    assert [one["channel"] for one in raws] == ["subscriptions", "heartbeats", "heartbeats"]
    assert [one["sequence_num"] for one in raws] == [0, 1, 2]


async def test_who_does_not_subscribe_in_time_is_cut_off() -> None:
    async with serving(simulation(10), subscribe_timeout_s=0.1) as (url, _):
        async with connect(url) as silent:
            with pytest.raises(ConnectionClosed) as closed:
                await silent.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "no subscription within 0.1 s")
        async with connect(url) as wrong:
            await wrong.send("what?")
            assert json.loads(await wrong.recv())["type"] == "error"
            with pytest.raises(ConnectionClosed):
                await wrong.recv()
        assert len((await collect(url))[0]) == 10


async def test_after_an_error_a_client_may_subscribe_still() -> None:
    async with serving(simulation(10)) as (url, _), connect(url) as connection:
        await connection.send('{"type":"subscribe","channel":"nothing"}')
        assert json.loads(await connection.recv()) == {
            "type": "error",
            "message": "unknown channel 'nothing': expected ticker or heartbeats",
        }
        await subscribe(connection)
        assert len([raw async for raw in _until_closed(connection)]) == 12


async def test_a_slow_reader_at_full_speed_loses_nothing_and_memory_stays_bounded() -> None:
    async with serving(simulation(30_000)) as (url, server), connect(url, max_queue=4) as connection:
        await subscribe(connection)
        await connection.recv()
        position = -1
        while server.counts.position != position:  # until it stands still, since nobody reads
            position = server.counts.position
            await asyncio.sleep(0.2)
        assert position < 30_000
        raws = [raw async for raw in _until_closed(connection)]
    assert len(_ticks(raws)) == 30_000


async def test_a_stop_sends_everyone_away() -> None:
    stop = asyncio.Event()
    async with serving(simulation(10**9), speed=1.0, stop=stop) as (url, server), connect(url) as connection:
        await subscribe(connection)
        await connection.recv()
        stop.set()
        async for _ in _until_closed(connection):
            pass
    assert connection.close_code == 1001
    assert server.clients == 0


async def test_a_stop_does_not_wait_for_a_client_that_never_reads_its_farewell() -> None:
    stop = asyncio.Event()
    async with serving(simulation(100_000), stop=stop) as (url, server):
        connection = await connect(url, max_queue=1)
        await subscribe(connection)
        await connection.recv()
        connection.transport.pause_reading()
        begin_s = asyncio.get_running_loop().time()
        stop.set()
        while server.clients:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - begin_s < 10
        connection.transport.abort()


async def test_a_feed_that_fails_ends_the_server_with_its_error() -> None:
    def failing() -> Iterable[Item]:
        yield from simulation(300)
        raise OSError("the disk is gone")

    closes = []

    async def whole_run() -> None:
        async with serving(failing()) as (url, _):
            closes.extend((await collect(url))[1])

    with pytest.raises(OSError, match="the disk is gone"):
        await whole_run()
    assert closes == [(1011, "the exchange failed")]


async def test_the_start_may_be_sent_at_once() -> None:
    """A minute of market, then a second in real time."""
    minute = list(takewhile(lambda item: (item.event_time_ns or 0) < START_NS + 61_000_000_000, simulation(10_000)))
    assert len(minute) > 1000
    async with serving(minute, speed=1.0, fast_forward_s=60.0) as (url, _):
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        results, _ = await collect(url)
        took_s = loop.time() - begin_s
    assert len(results) == len(minute)
    assert 0.8 < took_s < 20
