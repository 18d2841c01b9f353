from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.archive import read_archive, read_messages
from pipeline.datasets import coinbase_ticker_2025
from pipeline.exchange.items import Item, Restart, replayed, simulated
from pipeline.exchange.protocol import Session
from pipeline.exchange.simulator import PROFILES, SimulatedTick
from pipeline.feed.coinbase import CoinbaseDecoder
from pipeline.records import Gap, Tick
from tests.pipeline.feed.messages import TICKER, TIME_NS, heartbeat, message, subscriptions


def recording(path: Path, *lines: bytes) -> list[Item | Restart]:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return list(replayed(read_messages([path])))


def through(feed: list[Item | Restart], *, acknowledged: bool = True) -> list[str]:
    """What a client makes of a feed: each tick's place on the connection, each other record's reason."""
    session, decoder, results = Session(None), CoinbaseDecoder(), []

    def subscribe() -> None:
        reply = session.receive('{"type":"subscribe","channel":"ticker","product_ids":["BTC-USD"]}', TIME_NS)
        results.extend(decoder.decode(reply, 0, "") if acknowledged else [])

    subscribe()
    for item in feed:
        if isinstance(item, Restart):
            session, decoder = Session(None), decoder.reconnected()
            subscribe()
            continue
        raw = session.message(item)
        assert raw is not None
        results.extend(decoder.decode(raw, 0, ""))
    return ["tick" if isinstance(one, Tick) else getattr(one, "reason", "") for one in results]


def test_a_simulated_tick_has_all_the_fields_of_the_real_one_and_all_are_text() -> None:
    tick = SimulatedTick(
        TIME_NS, "BTC-USD", 6746826, 6746820, 6747000, 275905, 200000000, 6660000, 6781200, -0.5, 3057.5
    )
    (item,) = simulated([tick])
    envelope = json.loads(item.head + b"3" + item.tail)
    assert {key: envelope[key] for key in ("channel", "timestamp", "sequence_num")} == {
        "channel": "ticker",
        "timestamp": "2026-04-05T22:35:13.92532762Z",
        "sequence_num": 3,
    }
    (ticker,) = envelope["events"][0]["tickers"]
    assert list(ticker) == list(TICKER)
    assert all(isinstance(value, str) for value in ticker.values())
    quotes = {key: ticker[key] for key in ("price", "best_bid", "best_ask", "best_bid_quantity", "best_ask_quantity")}
    assert list(quotes.values()) == ["67468.26", "67468.2", "67470", "0.00275905", "2"]
    assert CoinbaseDecoder().decode(item.head + b"3" + item.tail, 0, "") == [
        Tick("BTC-USD", TIME_NS, 0, 3, 67468.26, 67468.2, 67470.0, 0.00275905, 2.0)
    ]


def test_recorded_acknowledgements_and_heartbeats_are_not_sent_and_make_no_false_gap(tmp_path: Path) -> None:
    feed = recording(tmp_path / "a.ndjson", message(0), subscriptions(1), heartbeat(2), message(3), heartbeat(4))
    assert len(feed) == 2
    assert through(feed) == ["tick", "tick"]


@pytest.mark.parametrize("between", [[subscriptions(3)], [heartbeat(2)], [heartbeat(1), heartbeat(3)], [heartbeat(4)]])
def test_a_loss_beside_messages_that_are_not_sent_is_not_lost(tmp_path: Path, between: list[bytes]) -> None:
    """0 and 5 with something in between: whatever is not there was lost."""
    feed = recording(tmp_path / "a.ndjson", message(0), *between, message(5))
    assert [item.lost for item in feed if isinstance(item, Item)] == [0, 4 - len(between)]
    assert through(feed) == ["tick", "sequence", "tick"]


def test_jumps_old_messages_and_damage_come_out_as_reading_the_archive_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    lines = (
        message(0),
        message(1),
        message(4),
        message(4),
        message(2),
        message(5)[:-9],
        message(6, {"price": "nan"}),
        b"\xff",
        message(7, {"price": None}),
        message(8, timestamp="x"),
        message(9, channel="l2_data"),
        message(10),
    )
    feed = recording(path, *lines)
    read = ["tick" if isinstance(one, Tick) else one.reason for one in read_archive([path])]
    assert read[:5] == ["tick", "tick", "sequence", "tick", "old_sequence"]
    assert through(feed) == read


def test_a_new_recorded_connection_is_a_restart(tmp_path: Path) -> None:
    feed = recording(tmp_path / "a.ndjson", message(0), message(1), message(0), message(3))
    assert [type(one) for one in feed] == [Item, Item, Restart, Item, Item]
    assert through(feed) == ["tick", "tick", "reconnect", "tick", "sequence", "tick"]


@pytest.mark.skipif(not coinbase_ticker_2025(), reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
def test_real_pieces_replayed_are_the_pieces_read() -> None:
    files = coinbase_ticker_2025()[:3]
    read = ["tick" if isinstance(one, Tick) else one.reason for one in read_archive(files)]
    assert read.count("reconnect") == 2
    assert through(list(replayed(read_messages(files)))) == read


def test_a_client_gets_the_tickers_it_subscribed_to_and_no_gap_for_the_others(tmp_path: Path) -> None:
    both = message(1, {"product_id": "ETH-USD"}, {"product_id": "BTC-USDC", "price": "5"})
    feed = recording(tmp_path / "a.ndjson", message(0), both, message(2, {"product_id": "ETH-USD"}), message(5))
    session, decoder, results = Session(None), CoinbaseDecoder(), []
    session.receive('{"type":"subscribe","channel":"ticker","product_ids":["BTC-USD"]}', 0)
    for item in feed:
        assert isinstance(item, Item)
        raw = session.message(item)
        results += decoder.decode(raw, 0, "") if raw is not None else []
    assert [(type(one), one.product_id) for one in results if isinstance(one, Tick | Gap)] == [
        (Tick, "BTC-USD"),
        (Tick, "BTC-USD"),
        (Gap, "BTC-USD"),
        (Tick, "BTC-USD"),
    ]
    assert isinstance(results[1], Tick)
    assert results[1].price == 5.0


def test_the_simulated_products_are_known_by_name() -> None:
    assert set(PROFILES) == {"BTC-USD", "ETH-USD"}
