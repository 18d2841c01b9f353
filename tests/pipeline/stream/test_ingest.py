"""Ingest against exchanges of this process: what it does when the feed breaks, falls silent or ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.processes import free_port
from common.errors import UnavailableError
from pipeline.archive import ArchiveWriter, read_archive
from pipeline.exchange.items import Restart
from pipeline.feed.coinbase import CoinbaseFeed
from pipeline.records import Gap, Tick, decode_dead
from tests.pipeline.feed.messages import heartbeat, message, subscriptions
from tests.pipeline.stream.exchanges import Feed, exchange, market, scripted, sends, until
from tests.pipeline.stream.fakes import TOPICS


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stream.reconnect.FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr("pipeline.stream.reconnect.MAX_BACKOFF_S", 0.05)
    monkeypatch.setattr(CoinbaseFeed, "allowances", ())


async def test_a_feed_that_is_closed_normally_ends_ingest_with_every_tick() -> None:
    async with exchange(market(500)) as url:
        feed = await Feed(url).run()
    assert len(feed.ticks()) == 500
    assert not feed.gaps()
    assert feed.ingest.state.ended
    assert {one.product_id for one in feed.ticks()} == {"BTC-USD", "ETH-USD"}
    assert all(one.ingest_time_ns > 0 for one in feed.ticks())


async def test_only_the_products_subscribed_to_come() -> None:
    async with exchange(market(100)) as url:
        feed = await Feed(url, products=("ETH-USD",)).run()
    assert {one.product_id for one in feed.ticks()} == {"ETH-USD"}


async def test_after_a_new_connection_each_product_has_a_gap_before_its_first_tick() -> None:
    items = market(400)
    async with exchange([*items[:200], Restart(), *items[200:]]) as url:
        feed = await Feed(url).run()
    assert len(feed.ticks()) == 400
    assert [(one.reason, one.missed) for one in feed.gaps()] == [("reconnect", 0)] * 2
    assert feed.ingest.state.reconnects == 1
    for product in ("BTC-USD", "ETH-USD"):
        (at,) = [i for i, one in enumerate(feed.records(product)) if isinstance(one, Gap)]
        assert at == sum(product in getattr(item, "products", ()) for item in items[:200])


async def test_a_connection_that_is_broken_off_is_made_anew() -> None:
    async with scripted(
        sends(subscriptions(0), message(1), then=None), sends(subscriptions(0), message(1, {"price": "1"}))
    ) as url:
        feed = await Feed(url).run()
    first, gap, second = feed.records()
    assert isinstance(first, Tick)
    assert isinstance(second, Tick)
    assert isinstance(gap, Gap)
    assert (second.price, gap.reason) == (1.0, "reconnect")


async def test_a_connection_that_is_closed_at_once_is_made_anew() -> None:
    async def slams(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with scripted(slams, sends(then=1012), sends(message(1))) as url:
        feed = await Feed(url).run()
    assert len(feed.ticks()) == 1
    assert feed.ingest.state.reconnects == 2


async def test_a_normal_close_is_only_an_interruption_where_the_feed_should_go_on() -> None:
    async with scripted(sends(message(1)), sends(message(1)), sends(message(1))) as url:
        feed = Feed(url, until_closed=False)
        running = asyncio.create_task(feed.run())
        await until(lambda: feed.ingest.state.reconnects >= 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert not feed.ingest.state.ended
    assert not feed.ingest.state.connected


async def test_lost_messages_are_a_gap_with_their_number() -> None:
    async with scripted(sends(subscriptions(0), message(1), heartbeat(2), message(6))) as url:
        feed = await Feed(url).run()
    _, gap, _ = feed.records()
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.missed) == ("sequence", 3)
    assert feed.ingest.stats()["gaps_by_reason"] == {"sequence": 1}
    assert feed.ingest.stats()["holes"][0].missed == 3


async def test_what_is_no_tick_is_counted_and_kept_and_the_rest_goes_on() -> None:
    bad = [b"{", message(2, {"best_bid": "NaN"}), message(3, {"price": "-1"}), message(4, channel="level9")]
    async with scripted(sends(message(1), *bad, message(5), message(4), b"\xff")) as url:
        feed = await Feed(url).run()
    letters = [decode_dead(value) for value in feed.sink.values(TOPICS.dead)]
    assert sorted(one.reason for one in letters) == [
        "not_finite", "not_json", "not_json", "not_positive", "unknown_channel",
    ]  # fmt: skip
    assert "connection 1 message 3" in {one.source for one in letters}
    stats = feed.ingest.stats()
    assert (stats["ticks"], stats["dead"], stats["late"], stats["messages"]) == (2, 5, 1, 8)


async def test_silence_is_answered_with_a_new_connection() -> None:
    async def falls_silent(connection: ServerConnection) -> None:
        await connection.send(message(1), text=True)
        await connection.wait_closed()

    async with scripted(falls_silent, sends(message(1))) as url:
        feed = Feed(url, silence_s=0.2)
        running = asyncio.create_task(feed.run())
        began = time.monotonic()
        while not running.done():
            feed.ingest.check_silence()
            await asyncio.sleep(0.02)
        await running
        assert time.monotonic() - began >= 0.2
    assert feed.ingest.state.reconnects == 1
    assert len(feed.ticks()) == 2


async def test_heartbeats_alone_are_no_silence() -> None:
    async def beats(connection: ServerConnection) -> None:
        for number in range(30):
            await connection.send(heartbeat(number), text=True)
            await asyncio.sleep(0.02)
        await connection.close()

    async with scripted(beats) as url:
        feed = Feed(url, silence_s=0.3)
        running = asyncio.create_task(feed.run())
        while not running.done():
            feed.ingest.check_silence()
            await asyncio.sleep(0.02)
        await running
    assert feed.ingest.state.reconnects == 0


@pytest.mark.parametrize("what", ["nobody", "no websocket", "silent"])
async def test_an_exchange_that_is_away_at_the_start_is_one_helpful_line(what: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if what == "no websocket":
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()
        else:
            await reader.read()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1] if what != "nobody" else free_port()
    with pytest.raises(UnavailableError) as caught:
        await Feed(f"ws://127.0.0.1:{port}", connect_timeout_s=0.2).run()
    server.close()
    line = str(caught.value)
    assert line.startswith(f"exchange: ws://127.0.0.1:{port} cannot be reached: ")
    assert line.endswith("; set ingest.url, or start one with `volcast exchange --simulate`")
    assert "\n" not in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "ws://", "ws://127.0.0.1:99999", "ws://[::1"])
async def test_an_address_that_is_none_is_one_helpful_line(url: str) -> None:
    with pytest.raises(UnavailableError, match=r"^exchange: .*; set ingest.url to a ws:// or wss:// address$"):
        await Feed(url).run()


async def test_an_exchange_that_is_away_later_is_tried_until_it_is_back() -> None:
    port = free_port()

    async def short(connection: ServerConnection) -> None:
        await sends(message(1), then=1001)(connection)

    async with serve(short, "127.0.0.1", port):
        feed = Feed(f"ws://127.0.0.1:{port}")
        running = asyncio.create_task(feed.run())
        await until(lambda: bool(feed.ticks()))
    await asyncio.sleep(0.05)
    assert not running.done()
    async with serve(sends(message(1)), "127.0.0.1", port):
        await asyncio.wait_for(running, 10)
    assert len(feed.ticks()) >= 2


async def test_a_refused_subscription_is_told_with_the_exchanges_words() -> None:
    refusal = b'{"type":"error","message":"unknown product \'XYZ-USD\'"}'
    async with scripted(sends(refusal, then=1008)) as url:
        with pytest.raises(UnavailableError, match=r"refuses the subscription: .*unknown product"):
            await Feed(url).run()


async def test_what_was_archived_reads_back_as_the_same_records(tmp_path: Path) -> None:
    items = market(600)
    archive = ArchiveWriter(tmp_path, ["BTC-USD", "ETH-USD"])
    async with exchange([*items[:300], Restart(), *items[300:]]) as url:
        feed = await Feed(url, archive=archive).run()
    archive.close()
    read = list(read_archive([tmp_path]))
    assert [one for one in read if isinstance(one, Tick)] == sorted(feed.ticks(), key=lambda one: one.event_time_ns)
    assert {msgspec.structs.replace(one, ingest_time_ns=0) for one in read if isinstance(one, Gap)} == {
        msgspec.structs.replace(one, ingest_time_ns=0) for one in feed.gaps()
    }


def test_metrics_say_what_the_counts_say() -> None:
    feed = Feed("ws://127.0.0.1:1")
    feed.ingest._publisher.publish([Tick("BTC-USD", 1, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0)])
    samples = {one.name: one.value for family in feed.ingest.metrics() for one in family.samples}
    assert samples["volcast_ingest_ticks_total"] == 1
    assert samples["volcast_ingest_connected"] == 0
    assert samples["volcast_ingest_reconnects_total"] == 0


@pytest.fixture
def _proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://user:secret@127.0.0.1:{free_port()}")


@pytest.mark.usefixtures("_proxied")
async def test_an_exchange_on_this_machine_is_reached_without_the_proxy() -> None:
    async with scripted(sends(subscriptions(0))) as url:
        feed = await Feed(url).run()
    assert feed.ingest.state.messages == 1


@pytest.mark.usefixtures("_proxied")
@pytest.mark.parametrize("url", ["ws://exchange.invalid:80", "wss://exchange.invalid"])
async def test_an_exchange_behind_a_proxy_that_fails_is_one_line_that_names_the_proxy(url: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        await Feed(url).run()
    assert f"exchange: {url} cannot be reached: " in str(caught.value)
    assert "the connection goes through the proxy http://127.0.0.1:" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("_proxied")
@pytest.mark.parametrize("proxy", ["socks5h://127.0.0.1:1", "ftp://127.0.0.1:1"])
async def test_a_proxy_of_another_kind_is_one_line(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(UnavailableError, match=f"the connection goes through the proxy {proxy}"):
        await Feed("wss://exchange.invalid").run()
