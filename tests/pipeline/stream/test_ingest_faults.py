"""Ingest and an exchange that refuses, limits, leaves out or storms; and other venues."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from common.errors import ConfigError, UnavailableError
from pipeline.feed.coinbase import CoinbaseFeed
from pipeline.records import Gap, Tick, decode_dead, decode_record
from pipeline.stream.ingest import MAX_TOO_LARGE
from pipeline.stream.reconnect import FIRST_BACKOFF_S, MAX_BACKOFF_S
from tests.pipeline.feed.messages import heartbeat, message, subscriptions
from tests.pipeline.stream.exchanges import Feed, Handler, scripted, sends
from tests.pipeline.stream.fakes import TOPICS

ALLOWANCES = CoinbaseFeed.allowances


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stream.reconnect.FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr("pipeline.stream.reconnect.MAX_BACKOFF_S", 0.05)
    monkeypatch.setattr(CoinbaseFeed, "allowances", ())


REFUSED = b'{"type":"error","message":"rate limit exceeded"}'


async def test_a_rate_limit_at_the_start_is_waited_out() -> None:
    async def stays_open(connection: ServerConnection) -> None:
        await connection.send(REFUSED, text=True)
        await connection.wait_closed()

    async with scripted(sends(REFUSED), stays_open, sends(message(1))) as url:
        feed = await Feed(url).run()
    assert len(feed.ticks()) == 1
    assert feed.ingest.state.reconnects == 2
    assert feed.ingest.stats()["dead_by_reason"] == {"exchange_error": 2}


async def test_an_http_answer_to_wait_is_waited_out() -> None:
    turns = iter([429, 418])

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        status = next(turns, None)
        return None if status is None else connection.respond(status, "slow down")

    async with serve(sends(message(1)), "127.0.0.1", 0, process_request=refuse) as server:
        feed = await Feed(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}").run()
    assert len(feed.ticks()) == 1


async def test_a_rate_limit_between_ticks_does_not_end_the_connection() -> None:
    async with scripted(sends(message(1), REFUSED, message(2))) as url:
        feed = await Feed(url).run()
    assert len(feed.ticks()) == 2
    assert feed.ingest.state.reconnects == 0


async def test_the_reason_of_a_refusal_is_told() -> None:
    refusal = b'{"type":"error","message":"failed to subscribe","reason":"XYZ-USD is not a product"}'
    async with scripted(sends(refusal, then=1008)) as url:
        with pytest.raises(UnavailableError, match=r"failed to subscribe', reason: 'XYZ-USD is not a product'"):
            await Feed(url).run()


async def test_products_that_the_exchange_leaves_out_are_told() -> None:
    async with scripted(sends(subscriptions(0, ["BTC-USD"]), message(1))) as url:
        feed = await Feed(url, products=("BTC-USDC", "XYZ-USD", "ABC-USD")).run()
    assert feed.ingest.stats()["unacknowledged"] == ["ABC-USD", "XYZ-USD"]
    samples = {one.name: one.value for family in feed.ingest.metrics() for one in family.samples}
    assert samples["volcast_ingest_unacknowledged_products"] == 2


async def test_an_acknowledgement_of_all_products_leaves_nothing_to_tell() -> None:
    async with scripted(sends(subscriptions(0, ["BTC-USD", "ETH-USD"]), message(1))) as url:
        feed = await Feed(url, products=("BTC-USD", "ETH-USDC")).run()
    assert feed.ingest.stats()["unacknowledged"] == []


async def test_an_acknowledgement_of_no_product_ends_ingest() -> None:
    async with scripted(sends(subscriptions(0, []), heartbeat(1))) as url:
        with pytest.raises(UnavailableError, match=r"acknowledges none of BTC-USD, ETH-USD; correct ingest\.products"):
            await Feed(url).run()


async def test_a_message_above_the_limit_is_told_and_the_feed_goes_on() -> None:
    large = message(2, padding="x" * 3000)
    async with scripted(sends(message(1), large), sends(message(1))) as url:
        feed = await Feed(url, max_message_bytes=2000).run()
    assert [type(record) for record in feed.records()] == [Tick, Gap, Tick]
    (letter,) = [decode_dead(value) for value in feed.sink.values(TOPICS.dead)]
    assert (letter.reason, letter.detail) == ("too_large", "more than 2000 bytes")
    assert letter.source == "connection 1 message 2"


async def test_a_message_above_the_limit_before_every_tick_ends_ingest() -> None:
    connections = 0

    async def too_large(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await sends(subscriptions(0, ["BTC-USD", "ETH-USD"]), message(1, padding="x" * 3000))(connection)

    async with scripted(too_large) as url:
        with pytest.raises(UnavailableError, match=r"of more than 2000 bytes .*; raise ingest\.max_message_bytes"):
            await Feed(url, max_message_bytes=2000).run()
    assert connections == MAX_TOO_LARGE


async def connections_within(duration_s: float, handler: Handler) -> int:
    count = 0

    async def counted(connection: ServerConnection) -> None:
        nonlocal count
        count += 1
        await handler(connection)

    async with scripted(counted) as url:
        running = asyncio.create_task(Feed(url).run())
        await asyncio.sleep(duration_s)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return count


@pytest.mark.usefixtures("_real_waits")
async def test_a_server_that_acknowledges_and_closes_is_left_alone_more_and_more() -> None:
    storm = sends(subscriptions(0, ["BTC-USD", "ETH-USD"]), then=1008)
    assert await connections_within(3, storm) <= 6  # waits of at least 0.125, 0.25, 0.5, 1 and 2 s


@pytest.mark.usefixtures("_real_waits")
async def test_a_server_that_closes_after_each_tick_gets_at_most_8_requests_a_second() -> None:
    async def closes_after_a_tick(connection: ServerConnection) -> None:
        for _ in range(2):
            await connection.recv()
        await sends(message(1), then=1001)(connection)

    assert 3 <= await connections_within(3, closes_after_a_tick) <= 8  # 3 requests each


@pytest.fixture
def _real_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stream.reconnect.FIRST_BACKOFF_S", FIRST_BACKOFF_S)
    monkeypatch.setattr("pipeline.stream.reconnect.MAX_BACKOFF_S", MAX_BACKOFF_S)
    monkeypatch.setattr(CoinbaseFeed, "allowances", ALLOWANCES)


def quote(update_id: int) -> bytes:
    data = {"u": update_id, "s": "BTCUSDT", "b": "61837.63", "B": "3.78", "a": "61837.64", "A": "1.54"}
    return json.dumps({"stream": "btcusdt@bookTicker", "data": data}).encode()


async def test_binance_is_received_with_its_venue_in_record_and_key() -> None:
    requests: list[Any] = []

    async def handle(connection: ServerConnection) -> None:
        requests.append(json.loads(await connection.recv()))
        await sends(b'{"result":null,"id":1}', quote(7), quote(9))(connection)

    async with scripted(handle) as url:
        feed = await Feed(url, venue="binance", products=("BTCUSDT",)).run()
    assert requests[0]["params"] == ["btcusdt@bookTicker", "btcusdt@trade"]
    ticks = [decode_record(value) for value in feed.sink.sent[TOPICS.raw][b"binance:BTCUSDT"]]
    assert [(tick.venue, tick.sequence_num) for tick in ticks if isinstance(tick, Tick)] == [
        ("binance", 7), ("binance", 9),
    ]  # fmt: skip


async def test_without_heartbeats_silence_is_no_fault() -> None:
    async def slow(connection: ServerConnection) -> None:
        await connection.send(quote(1), text=True)
        await asyncio.sleep(0.3)
        await sends(quote(2))(connection)

    async with scripted(slow) as url:
        feed = Feed(url, venue="binance", products=("BTCUSDT",), silence_s=0.1)
        running = asyncio.create_task(feed.run())
        while not running.done():
            feed.ingest.check_silence()
            await asyncio.sleep(0.02)
        await running
    assert (len(feed.ticks()), feed.ingest.state.reconnects) == (2, 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"venue": "mtgox"}, "ingest.venue: expected one of coinbase, binance, got 'mtgox'"),
        ({"venue": "binance"}, "ingest.products.0: expected a product of binance such as BTCUSDT, got 'BTC-USD'"),
        (
            {"products": ("BTCUSDT",)},
            "ingest.products.0: expected a product of coinbase such as BTC-USD, got 'BTCUSDT'",
        ),
    ],
)
def test_an_exchange_or_product_that_is_none_is_named(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Feed("ws://127.0.0.1:1", **settings)
    assert str(caught.value) == f"config: {expected}"


def test_the_address_is_that_of_the_exchange_unless_another_is_set() -> None:
    assert Feed("").ingest.url == "wss://advanced-trade-ws.coinbase.com"
    assert Feed("", venue="binance", products=("BTCUSDT",)).ingest.url == "wss://stream.binance.com:9443/stream"
