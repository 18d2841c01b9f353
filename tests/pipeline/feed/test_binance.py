"""The Binance decoder: quotes become ticks, trades give their price, and nothing raises."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.feed.binance import MAX_OLD_BY, SILENCE_NS, BinanceConnections, BinanceDecoder, BinanceFeed
from pipeline.feed.rfc3339 import NS_PER_S
from pipeline.records import DeadLetter, Gap, LateTick, Tick, encode

NOW_NS = 1723161255088169167
EXCHANGE_MS = 1723161256313
SPOT = {"u": 100, "s": "BTCUSDT", "b": "61837.63", "B": "3.78", "a": "61837.64", "A": "1.54"}
FUTURES = {"e": "bookTicker", **SPOT, "T": EXCHANGE_MS, "E": EXCHANGE_MS + 2}


def quote(u: int = 100, **fields: Any) -> bytes:
    return enveloped({**SPOT, "u": u, **fields})


def futures(u: int = 100, after_ms: int = 0, **fields: Any) -> bytes:
    return enveloped({**FUTURES, "u": u, "T": EXCHANGE_MS + after_ms, **fields})


def trade(price: Any, t: int = 7, **fields: Any) -> bytes:
    data = {"e": "trade", "E": EXCHANGE_MS, "s": "BTCUSDT", "t": t, "p": price, "q": "0.1", "b": 88, "a": 50}
    return enveloped({**data, "T": EXCHANGE_MS, "m": True, **fields}, "trade")


def enveloped(data: Any, kind: str = "bookTicker") -> bytes:
    return json.dumps({"stream": f"btcusdt@{kind}", "data": data}).encode()


def decode(*raws: bytes, decoder: BinanceDecoder | None = None, at_ns: int = NOW_NS) -> list[Any]:
    decoder = decoder or BinanceDecoder()
    return [result for raw in raws for result in decoder.decode(raw, at_ns, "here")]


def kinds(results: list[Any]) -> list[str]:
    return [str(result.sequence_num) if isinstance(result, Tick) else result.reason for result in results]


def test_a_spot_quote_is_a_tick_at_its_time_of_receipt_with_the_mid_as_price() -> None:
    mid = (61837.63 + 61837.64) / 2
    assert decode(quote()) == [Tick("BTCUSDT", NOW_NS, NOW_NS, 100, mid, 61837.63, 61837.64, 3.78, 1.54, "binance")]


def test_a_futures_quote_has_the_time_of_the_matching_engine() -> None:
    (tick,) = decode(futures())
    assert (tick.event_time_ns, tick.ingest_time_ns) == (EXCHANGE_MS * 1_000_000, NOW_NS)
    without = {name: value for name, value in FUTURES.items() if name != "T"}
    (tick,) = decode(enveloped(without))
    assert tick.event_time_ns == (EXCHANGE_MS + 2) * 1_000_000


def test_a_time_in_microseconds_is_known_by_its_size() -> None:
    (tick,) = decode(futures(T=EXCHANGE_MS * 1000 + 123))
    assert tick.event_time_ns == (EXCHANGE_MS * 1000 + 123) * 1000


def test_the_last_trade_is_the_price_of_the_quotes_after_it() -> None:
    other = {"s": "ETHUSDT"}
    results = decode(
        trade("61837.5"), quote(1), quote(2, **other), trade("60000", 6), quote(3), trade("62000", 8), quote(4)
    )
    assert [tick.price for tick in results] == [61837.5, (61837.63 + 61837.64) / 2, 61837.5, 62000.0]


@pytest.mark.parametrize("price", ["0", "0.0", "-1", "nan", "inf"])
def test_a_trade_without_a_price_changes_nothing(price: str) -> None:
    (tick,) = decode(trade("61837.5"), trade(price, 8), quote())
    assert tick.price == 61837.5


def test_streams_without_an_envelope_are_decoded_as_those_with_one() -> None:
    raws = [json.dumps(data).encode() for data in (SPOT, {**FUTURES, "u": 101})]
    assert decode(*raws) == decode(quote(), futures(101))


def test_update_ids_that_rise_by_more_than_one_are_no_gap() -> None:
    assert kinds(decode(quote(1), quote(50), quote(51))) == ["1", "50", "51"]


@pytest.mark.parametrize("old", [50, 49, 1])
def test_an_update_id_that_is_not_above_the_last_is_old(old: int) -> None:
    results = decode(quote(50), quote(old), quote(51))
    assert kinds(results) == ["50", "old_sequence", "51"]
    assert isinstance(results[1], LateTick)


def test_update_ids_count_by_symbol() -> None:
    assert kinds(decode(quote(50), quote(3, s="ETHUSDT"), quote(51))) == ["50", "3", "51"]


def test_a_new_connection_is_a_gap_and_forgets_the_last_trade() -> None:
    decoder = BinanceDecoder()
    decode(trade("60000"), quote(1), decoder=decoder)
    gap, tick = decode(quote(2), decoder=decoder.reconnected())
    assert gap == Gap("BTCUSDT", NOW_NS, NOW_NS, "reconnect", 0, "binance")
    assert tick.price != 60000


@pytest.mark.parametrize(("after_ns", "expected"), [(SILENCE_NS, []), (SILENCE_NS + 1_000_000, ["silence"])])
def test_a_silence_of_more_than_a_minute_is_a_gap(after_ns: int, expected: list[str]) -> None:
    assert kinds(decode(futures(1), futures(2, after_ns // 1_000_000))) == ["1", *expected, "2"]


def test_the_time_rule_of_the_user_replaces_reconnects_and_the_minute() -> None:
    decoder = BinanceDecoder(gap_after_ns=90 * NS_PER_S)
    results = decode(futures(1), futures(2, 89_000), decoder=decoder)
    results += decode(futures(3, 90_000), futures(4, 200_000), decoder=decoder.reconnected())
    assert kinds(results) == ["1", "2", "3", "silence", "4"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"result":null,"id":1}',
        b'{"result":["btcusdt@trade"],"id":3}',
        b'{"lastUpdateId":1,"bids":[],"asks":[]}',
        enveloped({"e": "depthUpdate", "s": "BTCUSDT", "U": 1, "u": 2, "b": [["1", "2"]], "a": []}, "depth@100ms"),
        enveloped({"lastUpdateId": 1, "bids": [["1", "2"]], "asks": []}, "depth5"),
        enveloped({"lastUpdateId": 1, "bids": [["1", "2"]], "asks": []}, "depth20@100ms"),
        b'{"stream":"!miniTicker@arr","data":[{"e":"24hrMiniTicker","s":"BTCUSDT"}]}',
        b'{"stream":"!markPrice@arr@1s","data":[{"e":"markPriceUpdate","s":"BTCUSDT"}]}',
        enveloped({"e": "serverShutdown", "E": EXCHANGE_MS}, "x"),
        enveloped({"e": "aggTrade", "s": "BTCUSDT", "p": "1"}, "aggTrade"),
        trade("1"),
    ],
)
def test_replies_and_other_market_streams_hold_no_records(raw: bytes) -> None:
    assert decode(raw) == []


DAMAGE: list[tuple[str, str, bytes]] = [
    ("not_json", "Expecting", b"{"),
    ("not_json", "utf-8", b'{"stream":"\xff@trade","data":{}}'),
    ("not_json", "RecursionError", b"[" * 100_000),
    ("wrong_shape", "expected an object, got [1]", b"[1]"),
    ("wrong_shape", "stream: expected text beside data, got 5", b'{"stream":5,"data":{}}'),
    ("wrong_shape", "data: expected an object", enveloped([1], "other")),
    ("wrong_shape", "data: expected an object", enveloped(3)),
    ("wrong_shape", "data.s: expected a product such as BTCUSDT, got 'btc'", quote(s="btc")),
    ("wrong_shape", "data.u: expected a count from 0, got -1", quote(-1)),
    ("wrong_shape", "data.u: expected a count from 0, got None", quote(u=None)),  # type: ignore[arg-type]
    ("wrong_shape", "data.b: expected a number as text, got None", quote(b=None)),
    ("wrong_shape", "data.A: expected a number as text, got ' 1'", quote(A=" 1")),
    ("wrong_shape", "data: ", trade(None)),
    ("wrong_shape", "data: ", trade("1", t=-1)),
    ("not_finite", "data.a: expected a finite number, got 'nan'", quote(a="nan")),
    ("not_positive", "data.b: expected a price above 0, got '0'", quote(b="0")),
    ("not_positive", "data.B: expected a quantity of 0 or more, got '-1'", quote(B="-1")),
    ("crossed_quote", "data.b: expected at most the best ask '61837.64', got '61838'", quote(b="61838")),
    ("bad_time", "data.T: expected a time in ms", futures(T=2**62)),
    ("time_in_future", "data.T: ", futures(T=EXCHANGE_MS + 60_000)),
    ("unknown_channel", "got 'news'", enveloped({"e": "news"}, "news")),
    ("unknown_channel", "got ''", b"{}"),
    ("exchange_error", "the exchange says: 'Unknown property', code 0", b'{"code":0,"msg":"Unknown property","id":4}'),
    ("exchange_error", "'Too many requests', code -1003", b'{"error":{"code":-1003,"msg":"Too many requests"},"id":1}'),
]


@pytest.mark.parametrize(("reason", "detail", "raw"), DAMAGE)
def test_damage_becomes_a_dead_letter_with_reason_and_message(reason: str, detail: str, raw: bytes) -> None:
    (dead,) = decode(raw, decoder=BinanceDecoder(max_future_ns=5 * NS_PER_S))
    assert isinstance(dead, DeadLetter)
    assert (dead.reason, dead.source) == (reason, "here")
    assert detail in dead.detail


def test_a_spot_quote_of_a_recording_without_times_is_dead() -> None:
    (dead,) = decode(quote(), at_ns=0)
    assert (dead.reason, dead.detail) == ("bad_time", "data.T: no T, no E, and no time of receipt, got 0")
    assert kinds(decode(futures(), at_ns=0)) == ["100"]


def places(*messages: bytes) -> list[bool]:
    finder = BinanceConnections()
    return [finder.place(raw, first_of_file=number == 0).starts_connection for number, raw in enumerate(messages)]


def test_in_a_recording_each_file_is_a_connection() -> None:
    finder = BinanceConnections()
    assert [finder.place(quote(u), first_of_file=first).starts_connection for u, first in ((1, True), (2, False))] == [
        True,
        False,
    ]
    assert finder.place(quote(3), first_of_file=True).starts_connection


def test_in_a_recording_a_lower_update_id_with_a_later_exchange_time_starts_a_connection() -> None:
    assert places(futures(9), futures(10, 5), futures(8, 6), futures(9, 7)) == [True, False, True, False]
    assert places(futures(9), futures(10, 5), futures(8, 5), futures(8, 4)) == [True, False, False, False]


def test_a_lower_update_id_of_a_spot_quote_or_another_symbol_starts_none() -> None:
    assert places(quote(9), quote(8), quote(3, s="ETHUSDT"), trade("1")) == [True, False, False, False]


def test_update_ids_of_a_spot_symbol_that_begin_anew_start_a_connection() -> None:
    start = 50_000_000_000
    assert places(quote(start), quote(start - MAX_OLD_BY), quote(start + 1), quote(7), quote(8)) == [
        True, False, False, True, False,
    ]  # fmt: skip


def test_subscriptions_hold_two_streams_a_product_in_few_messages() -> None:
    (message,) = BinanceFeed().subscriptions(["BTCUSDT", "ETHUSDT"])
    assert json.loads(message) == {
        "method": "SUBSCRIBE",
        "params": ["btcusdt@bookTicker", "btcusdt@trade", "ethusdt@bookTicker", "ethusdt@trade"],
        "id": 1,
    }
    parts = [json.loads(text) for text in BinanceFeed().subscriptions([f"A{number}USDT" for number in range(101)])]
    assert [(part["id"], len(part["params"])) for part in parts] == [(1, 200), (2, 2)]


@pytest.mark.parametrize(
    ("name", "valid"),
    [("BTCUSDT", True), ("BTCUSDT_240927", True), ("1000SHIBUSDT", True), ("BTC-USD", False), ("btcusdt", False)],
)
def test_products(name: str, valid: bool) -> None:
    assert BinanceFeed().is_product(name) is valid


FIELDS = ["stream", "data", "e", "s", "u", "b", "B", "a", "A", "T", "E", "t", "p", "code", "msg", "error", "result"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["btcusdt@bookTicker", "btcusdt@trade", "trade", "bookTicker", "BTCUSDT", "1.5"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), children, max_size=8),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(st.binary() | JSON.map(lambda tree: json.dumps(tree).encode()), max_size=5))
def test_no_message_raises_and_each_record_can_be_written(raws: list[bytes]) -> None:
    for result in decode(quote(3), *raws, quote(9), decoder=BinanceDecoder(max_future_ns=10**9)):
        assert encode(result)
    finder, feed = BinanceConnections(), BinanceFeed()
    for raw in raws:
        finder.place(raw, first_of_file=False)
        feed.event_time_ns(raw, 0)
        feed.recognizes(raw)


@given(st.sampled_from(["u", "s", "b", "B", "a", "A", "T"]), JSON | st.text("0123456789.eE+-_ naif", max_size=6))
def test_each_quote_is_a_tick_or_a_dead_letter(field: str, value: Any) -> None:
    (result,) = decode(futures(**{field: value}))
    if isinstance(result, Tick):
        assert 0 < result.bid <= result.ask < math.inf
        assert 0 < result.price < math.inf
    else:
        assert isinstance(result, DeadLetter)
