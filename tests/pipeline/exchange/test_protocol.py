from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exchange.items import Item, simulated
from pipeline.exchange.protocol import Session
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.feed.coinbase import subscribe_messages

NOW_NS = 1775428513925327620


def ask(session: Session, kind: str, channel: str, *products: str) -> dict[str, Any]:
    request = {"type": kind, "channel": channel, "product_ids": list(products)}
    reply: dict[str, Any] = json.loads(session.receive(json.dumps(request), NOW_NS))
    return reply


def tickers(session: Session, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for item in simulated(simulate(PROFILES, 1, 5.0)):
        raw = session.message(item)
        if raw is not None:
            found.append(json.loads(raw))
        if len(found) == count:
            break
    return found


def test_an_acknowledgement_lists_all_subscriptions_and_takes_a_number() -> None:
    session = Session(PROFILES)
    assert ask(session, "subscribe", "ticker", "ETH-USD") == {
        "channel": "subscriptions",
        "timestamp": "2026-04-05T22:35:13.92532762Z",
        "sequence_num": 0,
        "events": [{"subscriptions": {"ticker": ["ETH-USD"]}}],
    }
    assert ask(session, "subscribe", "heartbeats")["events"] == [
        {"subscriptions": {"ticker": ["ETH-USD"], "heartbeats": ["heartbeats"]}}
    ]
    assert ask(session, "subscribe", "ticker", "BTC-USDC")["events"][0]["subscriptions"]["ticker"] == [
        "BTC-USD",
        "ETH-USD",
    ]
    assert ask(session, "unsubscribe", "ticker", "ETH-USD", "BTC-USD")["events"] == [
        {"subscriptions": {"heartbeats": ["heartbeats"]}}
    ]
    assert ask(session, "unsubscribe", "heartbeats")["sequence_num"] == 4
    assert not session.subscribed


def test_the_subscriptions_our_own_feed_sends_are_understood() -> None:
    session = Session(PROFILES)
    for text in subscribe_messages(["BTC-USD", "ETH-USD"]):
        assert json.loads(session.receive(text, NOW_NS))["channel"] == "subscriptions"
    assert session.wants_tickers
    assert session.heartbeat(NOW_NS) is not None


def test_one_counter_numbers_everything_on_a_connection() -> None:
    session = Session(PROFILES)
    numbers = [ask(session, "subscribe", "ticker", *PROFILES)["sequence_num"]]
    numbers += [one["sequence_num"] for one in tickers(session, 3)]
    numbers.append(ask(session, "subscribe", "heartbeats")["sequence_num"])
    numbers.append(json.loads(session.heartbeat(NOW_NS) or b"")["sequence_num"])
    numbers += [one["sequence_num"] for one in tickers(session, 2)]
    assert numbers == list(range(8))


def test_the_first_ticker_of_a_product_is_its_snapshot_and_the_rest_are_updates() -> None:
    session = Session(PROFILES)
    ask(session, "subscribe", "ticker", *PROFILES)
    seen: set[str] = set()
    for one in tickers(session, 50):
        (event,) = one["events"]
        product = event["tickers"][0]["product_id"]
        assert event["type"] == ("update" if product in seen else "snapshot")
        seen.add(product)
    assert seen == set(PROFILES)
    ask(session, "subscribe", "ticker", *PROFILES)
    assert tickers(session, 1)[0]["events"][0]["type"] == "snapshot"


def test_only_what_was_subscribed_is_sent_and_takes_numbers() -> None:
    session = Session(PROFILES)
    assert session.heartbeat(NOW_NS) is None
    assert session.message(next(simulated(simulate(PROFILES, 1, 5.0)))) is None
    ask(session, "subscribe", "ticker", "ETH-USD")
    messages = tickers(session, 20)
    assert {one["events"][0]["tickers"][0]["product_id"] for one in messages} == {"ETH-USD"}
    assert [one["sequence_num"] for one in messages] == list(range(1, 21))


def test_heartbeats_count() -> None:
    session = Session(PROFILES)
    ask(session, "subscribe", "heartbeats")
    beats = [json.loads(session.heartbeat(NOW_NS) or b"") for _ in range(2)]
    assert [beat["channel"] for beat in beats] == ["heartbeats", "heartbeats"]
    assert [beat["events"][0]["heartbeat_counter"] for beat in beats] == ["1", "2"]
    assert beats[0]["events"][0]["current_time"].startswith("2026-04-05 22:35:13.925327620 +0000 UTC m=")


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("", "failed to parse request"),
        ("[]", "failed to parse request"),
        (b"\xff", "failed to parse request"),
        ("[" * 100_000, "failed to parse request"),
        ('{"channel":"ticker","product_ids":["BTC-USD"]}', "failed to parse request: .*type"),
        ('{"type":"subscribe","product_ids":["BTC-USD"]}', "failed to parse request: .*channel"),
        ('{"type":"subscribe","channel":"ticker","product_ids":"BTC-USD"}', "failed to parse request"),
        ('{"type":"shout","channel":"ticker","product_ids":["BTC-USD"]}', "unknown type 'shout'"),
        ('{"type":"subscribe","channel":"candles","product_ids":["BTC-USD"]}', "unknown channel 'candles'"),
        ('{"type":"subscribe","channel":"ticker"}', "product_ids: expected at least one"),
        ('{"type":"subscribe","channel":"ticker","product_ids":["BTC-USD","DOGE-USD"]}', "unknown product 'DOGE-USD'"),
    ],
)
def test_a_request_that_cannot_be_met_is_an_error_that_says_why_and_changes_nothing(
    request_text: str | bytes, said: str
) -> None:
    session = Session(PROFILES)
    reply = json.loads(session.receive(request_text, NOW_NS))
    assert reply["type"] == "error"
    assert "sequence_num" not in reply
    assert re.search(said, reply["message"])
    assert not session.subscribed
    assert ask(session, "subscribe", "heartbeats")["sequence_num"] == 0


def test_a_replay_takes_any_well_formed_product() -> None:
    session = Session(None)
    assert ask(session, "subscribe", "ticker", "SOL-USD")["channel"] == "subscriptions"
    assert ask(session, "subscribe", "ticker", "sol")["type"] == "error"


def test_a_message_without_a_place_for_a_number_goes_as_it_is() -> None:
    session = Session(None)
    ask(session, "subscribe", "ticker", "BTC-USD")
    assert session.message(Item(b"\xff{", numbered=False)) == b"\xff{"
    assert ask(session, "subscribe", "heartbeats")["sequence_num"] == 1


@given(st.binary() | st.text())
def test_any_request_has_an_answer(request_text: bytes | str) -> None:
    assert json.loads(Session(PROFILES).receive(request_text, NOW_NS))["type"] == "error"
