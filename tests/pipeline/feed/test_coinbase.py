from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import read_messages
from pipeline.datasets import coinbase_ticker_2026
from pipeline.feed.coinbase import CoinbaseConnections, CoinbaseDecoder, CoinbaseFeed, subscribe_messages
from pipeline.feed.gate import MAX_TIME_JUMP_NS
from pipeline.feed.rfc3339 import NS_PER_S, format_ns
from pipeline.records import DeadLetter, DeadReason, Gap, LateTick, Tick, decode_record, encode
from tests.pipeline.feed.messages import TICKER, TIME, TIME_NS, heartbeat, message, subscriptions

INGEST_NS = TIME_NS + 5_000_000


def decode(*raws: bytes, decoder: CoinbaseDecoder | None = None) -> list[Any]:
    decoder = decoder or CoinbaseDecoder()
    return [result for raw in raws for result in decoder.decode(raw, INGEST_NS, "here")]


def tick(sequence_num: int, product_id: str = "BTC-USD") -> Tick:
    return Tick(product_id, TIME_NS, INGEST_NS, sequence_num, 67468.26, 67468.26, 67469.62, 0.00275905, 0.17950856)


def gap(reason: Any, missed: int, product_id: str = "BTC-USD") -> Gap:
    return Gap(product_id, TIME_NS, INGEST_NS, reason, missed)


def test_a_ticker_message_becomes_a_tick() -> None:
    assert decode(message(0)) == [tick(0)]


def test_several_tickers_in_one_message_come_in_order() -> None:
    raw = message(7, {}, {"product_id": "ETH-USD"}, {})
    assert decode(raw) == [tick(7), tick(7, "ETH-USD"), tick(7)]


def test_numbers_may_be_json_numbers_too() -> None:
    assert decode(message(0, {"price": 67468.26, "best_bid_quantity": 0.00275905})) == [tick(0)]


def test_a_usdc_product_answers_as_usd() -> None:
    assert decode(message(0, {"product_id": "BTC-USDC"})) == [tick(0)]


def test_acknowledgements_and_heartbeats_take_a_number_and_give_no_record() -> None:
    assert decode(message(0), subscriptions(1), heartbeat(2), message(3)) == [tick(0), tick(3)]


def test_a_connection_may_begin_at_any_number() -> None:
    assert decode(message(12), message(13)) == [tick(12), tick(13)]


def test_a_jump_is_a_gap_for_every_product_seen_before_the_tick_that_revealed_it() -> None:
    results = decode(message(0), message(1, {"product_id": "ETH-USD"}), message(5))
    assert results[2:] == [gap("sequence", 3), gap("sequence", 3, "ETH-USD"), tick(5)]


def test_a_jump_that_a_heartbeat_reveals_is_told_at_once() -> None:
    assert decode(message(0), heartbeat(4), message(5))[1:] == [gap("sequence", 3), tick(5)]


def test_a_jump_revealed_without_a_time_waits_for_a_time() -> None:
    results = decode(message(0), message(3, timestamp="never"), message(5))
    assert [type(result) for result in results] == [Tick, DeadLetter, Gap, Tick]
    assert results[2] == gap("sequence", 3)


def test_a_message_that_cannot_be_parsed_is_missed_by_the_next() -> None:
    results = decode(message(0), message(1)[:-20], message(2))
    assert [getattr(result, "reason", None) for result in results] == [None, "not_json", "sequence", None]
    assert results[2] == gap("sequence", 1)


@pytest.mark.parametrize("old", [5, 3, 0])
def test_an_equal_or_smaller_number_makes_late_ticks_and_no_gap(old: int) -> None:
    results = decode(message(5), message(old, {}, {"price": "nan"}), message(6))
    assert results[0] == tick(5)
    assert results[1] == LateTick("old_sequence", "here", tick(old))
    assert results[2].reason == "not_finite"
    assert results[3:] == [tick(6)]


def test_after_a_reconnect_each_product_known_before_has_a_gap_before_its_first_tick() -> None:
    first = CoinbaseDecoder()
    decode(message(0), message(1, {"product_id": "ETH-USD"}), decoder=first)
    raws = message(0), message(1), message(2, {"product_id": "SOL-USD"}), message(3, {"product_id": "ETH-USD"})
    assert decode(*raws, decoder=first.reconnected()) == [
        gap("reconnect", 0),
        tick(0),
        tick(1),
        tick(2, "SOL-USD"),
        gap("reconnect", 0, "ETH-USD"),
        tick(3, "ETH-USD"),
    ]


def test_a_product_silent_on_one_connection_still_has_its_gap_on_the_next() -> None:
    first = CoinbaseDecoder()
    decode(message(0, {"product_id": "ETH-USDC"}), decoder=first)
    second = first.reconnected().reconnected()
    assert decode(message(0, {"product_id": "ETH-USD"}), decoder=second) == [
        gap("reconnect", 0, "ETH-USD"),
        tick(0, "ETH-USD"),
    ]


DAMAGE: list[tuple[DeadReason, str, bytes]] = [
    ("not_json", "Expecting", b"{"),
    ("not_json", "Expecting", b""),
    ("not_json", "utf-8", message(0).replace(b"BTC", b"B\xffC")),
    ("not_json", "RecursionError", b"[" * 100_000),
    ("wrong_shape", "expected an object, got [1]", b"[1]"),
    ("wrong_shape", "sequence_num: expected a count from 0, got None", b"{}"),
    ("wrong_shape", "sequence_num: expected a count from 0, got -1", message(-1)),
    ("wrong_shape", "sequence_num: expected a count from 0, got 9223372036854775808", message(2**63)),
    ("wrong_shape", "sequence_num: expected a count from 0, got 'x'", message("x")),
    ("wrong_shape", "channel: expected text, got 5", message(0, channel=5)),
    ("wrong_shape", "events: expected a list, got", b'{"channel":"ticker","sequence_num":0,"timestamp":"%b"}'),
    (
        "wrong_shape",
        "events[0].tickers: expected a list, got",
        b'{"channel":"ticker","sequence_num":0,"timestamp":"%b","events":[{}]}',
    ),
    (
        "wrong_shape",
        "events[0].tickers[0]: expected an object, got 3",
        b'{"channel":"ticker","sequence_num":0,"timestamp":"%b","events":[{"tickers":[3]}]}',
    ),
    ("wrong_shape", "events[0].tickers[0].price: expected a number as text, got None", message(0, {"price": None})),
    ("wrong_shape", ".best_bid: expected a number as text, got '1_000'", message(0, {"best_bid": "1_000"})),
    ("wrong_shape", ".best_ask: expected a number as text, got ' 1'", message(0, {"best_ask": " 1"})),
    ("wrong_shape", ".best_ask: expected a number as text, got ''", message(0, {"best_ask": ""})),
    ("wrong_shape", ".price: expected a number as text, got True", message(0, {"price": True})),
    ("wrong_shape", ".price: expected a number as text, got '0x10'", message(0, {"price": "0x10"})),
    (
        "wrong_shape",
        ".product_id: expected a product such as BTC-USD, got 'btc usd'",
        message(0, {"product_id": "btc usd"}),
    ),
    ("wrong_shape", ".product_id: expected a product such as BTC-USD, got 3", message(0, {"product_id": 3})),
    ("unknown_channel", "got 'l2_data'", message(0, channel="l2_data")),
    ("exchange_error", "the exchange says: 'no'", b'{"type":"error","message":"no"}'),
    (
        "exchange_error",
        "the exchange says: 'failed to subscribe', reason: 'XYZ-USD is not a product'",
        b'{"type":"error","message":"failed to subscribe","reason":"XYZ-USD is not a product"}',
    ),
    ("bad_time", "got 'yesterday'", message(0, timestamp="yesterday")),
    ("bad_time", "got ''", message(0, timestamp=None)),
    ("bad_time", "got '2300-01-01T00:00:00Z'", message(0, timestamp="2300-01-01T00:00:00Z")),
    ("time_in_future", "2.000 s ahead of our clock", message(0, timestamp="2026-04-05T22:35:15.93032762Z")),
    ("not_finite", ".price: expected a finite number, got nan", message(0, {"price": "NaN"})),
    ("not_finite", ".price: expected a finite number, got nan", message(0, {"price": math.nan})),
    ("not_finite", ".best_ask: expected a finite number, got inf", message(0, {"best_ask": "Infinity"})),
    (
        "not_finite",
        ".best_ask_quantity: expected a finite number, got '1e400'",
        message(0, {"best_ask_quantity": "1e400"}),
    ),
    ("not_finite", ".price: expected a finite number", message(0, {"price": 10**400})),
    ("not_positive", ".price: expected a price above 0, got 0.0", message(0, {"price": "0"})),
    ("not_positive", ".best_bid: expected a price above 0, got -1.0", message(0, {"best_bid": "-1"})),
    (
        "not_positive",
        ".best_bid_quantity: expected a quantity of 0 or more",
        message(0, {"best_bid_quantity": "-1e-9"}),
    ),
    (
        "crossed_quote",
        ".best_bid: expected at most the best ask 67469.62, got 67470.0",
        message(0, {"best_bid": "67470"}),
    ),
]


@pytest.mark.parametrize(("reason", "detail", "raw"), DAMAGE)
def test_damage_becomes_a_dead_letter_that_says_why_and_keeps_the_message(
    reason: DeadReason, detail: str, raw: bytes
) -> None:
    raw = raw.replace(b"%b", TIME.encode())
    (dead,) = decode(raw, decoder=CoinbaseDecoder(max_future_ns=1_000_000_000))
    assert isinstance(dead, DeadLetter)
    assert dead.reason == reason
    assert detail in dead.detail
    assert dead.source == "here"
    assert dead == DeadLetter.of(reason, dead.detail, "here", raw)


def test_every_kind_of_dead_letter_is_shown_above() -> None:
    elsewhere = {"time_jumped_ahead", "too_large"}  # needs several messages; a connection that ends
    assert {reason for reason, _, _ in DAMAGE} | elsewhere == set(get_args(DeadReason))


BOUND_S = MAX_TIME_JUMP_NS // NS_PER_S
DAY_S = 86_400


def stamped(sequence_num: int, after_s: int, *tickers: dict[str, Any]) -> bytes:
    return message(sequence_num, *tickers, timestamp=format_ns(TIME_NS + after_s * NS_PER_S))


def judged(*after_s: int) -> list[str]:
    """What became of ticks stamped so: their number, or the reason why not; a gap's reason before its tick."""
    results = decode(*(stamped(number, one) for number, one in enumerate(after_s)))
    return [str(one.sequence_num) if isinstance(one, Tick) else one.reason for one in results]


@pytest.mark.parametrize("bad_s", [BOUND_S + 1, 10 * 365 * DAY_S])
def test_one_timestamp_far_ahead_costs_one_tick(bad_s: int) -> None:
    assert judged(0, bad_s, 1, 2) == ["0", "time_jumped_ahead", "2", "3"]


def test_one_timestamp_far_back_costs_one_tick() -> None:
    assert judged(0, -DAY_S, 1, 2) == ["0", "time_jumped_back", "2", "3"]


def test_a_pause_within_the_bound_and_a_step_back_within_it_are_left_to_the_engine() -> None:
    assert judged(0, BOUND_S, 0, BOUND_S) == ["0", "1", "2", "3"]


def test_a_jump_ahead_that_the_next_message_bears_out_is_a_gap() -> None:
    assert judged(0, DAY_S, DAY_S, DAY_S + 1) == ["0", "time_jumped_ahead", "clock", "2", "3"]


def test_a_bad_first_timestamp_does_not_end_the_feed() -> None:
    assert judged(10 * 365 * DAY_S, 0, 1, 2) == ["0", "time_jumped_back", "clock", "2", "3"]


def test_two_bad_timestamps_that_agree_are_believed_and_put_right_again() -> None:
    reasons = ["0", "time_jumped_ahead", "clock", "2", "time_jumped_back", "clock", "4"]
    assert judged(0, DAY_S, DAY_S + 1, 1, 2) == reasons


@pytest.mark.parametrize("second_s", [DAY_S - 1, DAY_S + BOUND_S + 1, -DAY_S])
def test_bad_timestamps_that_do_not_agree_are_each_set_aside(second_s: int) -> None:
    second = "time_jumped_back" if second_s < 0 else "time_jumped_ahead"
    assert judged(0, DAY_S, second_s, 1) == ["0", "time_jumped_ahead", second, "3"]


def test_a_tick_in_between_forgets_the_one_set_aside() -> None:
    assert judged(0, DAY_S, 1, DAY_S, 2) == ["0", "time_jumped_ahead", "2", "time_jumped_ahead", "4"]


def test_tickers_of_one_message_do_not_bear_each_other_out() -> None:
    results = decode(stamped(0, 0), stamped(1, DAY_S, {}, {}), stamped(2, 1))
    assert [type(one) for one in results] == [Tick, DeadLetter, DeadLetter, Tick]


def test_jumps_are_judged_product_by_product() -> None:
    eth = {"product_id": "ETH-USD"}
    results = decode(stamped(0, 0, {}, eth), stamped(1, DAY_S), stamped(2, DAY_S, eth), stamped(3, 1, {}, eth))
    assert [type(one) for one in results] == [Tick, Tick, DeadLetter, DeadLetter, Tick, Tick]


def test_an_old_message_neither_bears_out_a_jump_nor_is_one() -> None:
    results = decode(stamped(5, 0), stamped(6, DAY_S), stamped(4, DAY_S + 1), stamped(3, -DAY_S), stamped(7, 1))
    assert [getattr(one, "reason", "tick") for one in results] == [
        "tick",
        "time_jumped_ahead",
        "old_sequence",
        "old_sequence",
        "tick",
    ]


def test_a_jump_says_which_times_and_where() -> None:
    _, dead, clock, accepted = decode(stamped(0, 0), stamped(1, DAY_S), stamped(2, DAY_S + 1))
    assert dead.detail == (
        "timestamp: expected at most 600 s after BTC-USD's last tick at 2026-04-05T22:35:13.92532762Z, "
        "got 2026-04-06T22:35:13.92532762Z"
    )
    assert (dead.source, dead.raw) == ("here", stamped(1, DAY_S).decode())
    assert clock == Gap("BTC-USD", accepted.event_time_ns, INGEST_NS, "clock", 1)
    _, late = decode(stamped(0, 0), stamped(1, -DAY_S))
    assert (late.source, late.tick.sequence_num) == ("here", 1)


def test_a_new_connection_judges_by_its_own_ticks() -> None:
    first = CoinbaseDecoder()
    decode(stamped(0, 0), stamped(1, DAY_S), decoder=first)
    results = decode(stamped(0, 2 * DAY_S), stamped(1, 2 * DAY_S), decoder=first.reconnected())
    assert [getattr(one, "reason", "tick") for one in results] == ["reconnect", "tick", "tick"]


@given(st.lists(st.integers(-3 * BOUND_S, 3 * BOUND_S), max_size=8), st.integers(-3 * BOUND_S, 3 * BOUND_S))
def test_whatever_came_before_two_timestamps_that_agree_are_enough(before_s: list[int], now_s: int) -> None:
    assert judged(*before_s, now_s, now_s + 1)[-1] == str(len(before_s) + 1)


def test_a_bad_ticker_does_not_cost_its_siblings() -> None:
    for bad in ({"price": "nan"}, {"price": None}, {"best_bid": "1e9"}, {"product_id": "?"}):
        results = decode(message(0), message(1, {}, bad, {"product_id": "ETH-USD"}), message(2))
        assert [type(one) for one in results] == [Tick, Tick, DeadLetter, Tick, Tick]
        assert results[2].detail.startswith("events[0].tickers[1].")


def test_damage_with_a_number_moves_the_counter() -> None:
    damaged = (
        message(1, {"price": None}),
        message(2, channel="l2_data"),
        message(3, channel=5),
        message(4, timestamp="x"),
    )
    results = decode(message(0), *damaged, message(5))
    assert [type(result) for result in results] == [Tick, *[DeadLetter] * 4, Tick]


def test_a_locked_quote_and_an_empty_side_are_ticks() -> None:
    (locked,) = decode(message(0, {"best_ask": "67468.26", "best_bid_quantity": "0"}))
    assert (locked.bid, locked.ask, locked.bid_quantity) == (67468.26, 67468.26, 0.0)


def test_the_future_is_not_looked_at_without_an_ingest_time() -> None:
    decoder = CoinbaseDecoder(max_future_ns=1)
    assert isinstance(decoder.decode(message(0), 0, "here")[0], Tick)


def test_subscriptions_are_one_channel_a_message() -> None:
    assert [json.loads(text) for text in subscribe_messages(["BTC-USD", "ETH-USD"])] == [
        {"type": "subscribe", "product_ids": ["BTC-USD", "ETH-USD"], "channel": channel}
        for channel in ("ticker", "heartbeats")
    ]


BY_TIME = 30 * NS_PER_S


def test_without_a_number_a_message_after_the_largest_number_has_that_number() -> None:
    decoder = CoinbaseDecoder(gap_after_ns=BY_TIME)
    largest = 2**63 - 1
    unnumbered = json.loads(message(1))
    del unnumbered["sequence_num"]
    raws = [message(largest), json.dumps(unnumbered).encode()]
    ticks = [tick for raw in raws for tick in decoder.decode(raw, 0, "test") if isinstance(tick, Tick)]
    assert [decode_record(encode(tick)) for tick in ticks] == ticks
    assert {tick.sequence_num for tick in ticks} == {largest}


def judged_by_time(*messages: bytes, reconnects_before: int = -1) -> list[str]:
    """As `judged`, with a gap after 30 s of a product's silence, whatever the numbers are."""
    decoder, results = CoinbaseDecoder(gap_after_ns=BY_TIME), []
    for number, raw in enumerate(messages):
        if number == reconnects_before:
            decoder = decoder.reconnected()
        results += decode(raw, decoder=decoder)
    return [str(result.sequence_num) if isinstance(result, Tick) else result.reason for result in results]


def test_by_the_time_rule_numbers_that_jump_or_fall_are_neither_gaps_nor_old() -> None:
    assert judged_by_time(stamped(0, 0), stamped(50, 1), stamped(7, 2)) == ["0", "50", "7"]


@pytest.mark.parametrize(("after_s", "expected"), [(30, ["0", "1"]), (31, ["0", "silence", "1"])])
def test_by_the_time_rule_a_longer_silence_of_a_product_is_a_gap(after_s: int, expected: list[str]) -> None:
    eth = {"product_id": "ETH-USD"}
    assert judged_by_time(stamped(0, 0), stamped(1, after_s)) == expected
    assert judged_by_time(stamped(0, 0), stamped(1, 0, eth), stamped(2, after_s, eth), stamped(3, 1)) == [
        "0", "1", *expected[1:-1], "2", "3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("after_s", "expected"), [(29, []), (31, ["silence"]), (-1, []), (-31, ["reconnect"]), (DAY_S, ["silence"])]
)
def test_by_the_time_rule_a_new_connection_alone_is_no_gap(after_s: int, expected: list[str]) -> None:
    assert judged_by_time(stamped(5, 0), stamped(0, after_s), reconnects_before=1) == ["5", *expected, "0"]


def test_by_the_time_rule_a_message_needs_no_number() -> None:
    unnumbered = json.dumps({**json.loads(stamped(0, 1)), "sequence_num": None}).encode()
    missing = unnumbered.replace(b'"sequence_num": null, ', b"")
    assert b"sequence_num" not in missing
    assert judged_by_time(stamped(3, 0), missing, missing) == ["3", "4", "5"]
    assert decode(missing)[0].reason == "wrong_shape"


def places(*messages: bytes) -> list[bool]:
    """Which messages of a recording start a connection."""
    finder = CoinbaseConnections()
    return [finder.place(raw, first_of_file=number == 0).starts_connection for number, raw in enumerate(messages)]


@pytest.mark.parametrize(
    ("number", "after_s", "starts"),
    [
        (4, 6, True),  # lower and later
        (4, 5, False),  # lower and at the same time
        (4, 4, False),  # old
        (5, 6, False),  # not lower
        (0, 5, True),  # from 0, not earlier than the last
        (0, 0, False),  # the first message, repeated
        (0, 3, False),  # 0 within the connection
        (0, -1, True),  # a connection before this one
    ],
)
def test_in_a_recording_a_lower_number_with_a_later_time_starts_a_connection(
    number: int, after_s: int, starts: bool
) -> None:
    messages = [stamped(count, count) for count in range(6)]
    assert places(*messages, stamped(number, after_s)) == [True, *[False] * 5, starts]


def test_a_single_time_far_ahead_does_not_hide_the_next_connection() -> None:
    messages = stamped(10, 0), stamped(11, 1), stamped(12, 10 * DAY_S), stamped(7, 3), stamped(8, 4)
    assert places(*messages) == [True, False, False, True, False]


def test_an_old_message_after_a_gap_starts_no_connection() -> None:
    assert places(stamped(5, 0), stamped(8, 3), stamped(7, 2), stamped(9, 4)) == [True, False, False, False]


@pytest.mark.parametrize(("number", "starts"), [(4000, False), (3999, True), (0, True)])
def test_without_times_a_fall_to_zero_or_by_more_than_a_thousand_starts_a_connection(number: int, starts: bool) -> None:
    assert places(message(5000, timestamp="?"), message(number, timestamp="?")) == [True, starts]


@pytest.mark.parametrize("name", ["BTC-USD", "BTC-PERP-INTX", "BIT-28JUN24-CDE", "1INCH-USD", "00-USD"])
def test_products_of_every_kind_are_products(name: str) -> None:
    assert CoinbaseFeed().is_product(name)


@pytest.mark.parametrize(
    "name", ["", "BTC", "btc-usd", "BTC-", "-USD", "BTC--USD", "BTC USD", "BTCUSDT", "A-B-C-D-E", "BTC-USD\n"]
)
def test_other_names_are_none(name: str) -> None:
    assert not CoinbaseFeed().is_product(name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(TIME) | st.just("ticker"),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["channel", "timestamp", "sequence_num", "events", "tickers", *TICKER]),
            children,
            max_size=8,
        )
    ),
    max_leaves=20,
)


@given(st.lists(st.binary() | JSON.map(lambda tree: json.dumps(tree).encode()), max_size=5))
def test_nothing_that_comes_in_raises_and_whatever_comes_out_can_be_written(raws: list[bytes]) -> None:
    for result in decode(message(3), *raws, message(9), decoder=CoinbaseDecoder(max_future_ns=10**9)):
        assert encode(result)


@given(st.data())
def test_whatever_a_field_holds_the_message_gives_a_tick_or_a_dead_letter(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(["price", "best_bid", "best_ask_quantity", "product_id"]))
    value: Any = data.draw(JSON | st.floats(allow_nan=False).map(repr) | st.text("0123456789.eE+-_ naif", max_size=6))
    (result,) = decode(message(0, {field: value}))
    if isinstance(result, Tick):
        assert field == "product_id" or float(value) in (result.price, result.bid, result.ask_quantity)
        assert 0 < result.bid <= result.ask < math.inf
        assert 0 < result.price < math.inf
    else:
        assert isinstance(result, DeadLetter)


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_prices_are_read_exactly_as_python_reads_them(price: float) -> None:
    (result,) = decode(message(0, {"price": repr(price)}))
    assert result.price == price


@given(st.decimals(min_value="0.00000001", max_value="99999999", places=8))
def test_decimal_quantities_are_read_to_the_nearest_double(quantity: Any) -> None:
    (result,) = decode(message(0, {"best_bid_quantity": f"{quantity:f}"}))
    assert result.bid_quantity == float(f"{quantity:f}")


@pytest.mark.skipif(not coinbase_ticker_2026(), reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
def test_the_way_for_damaged_messages_reads_sound_ones_alike() -> None:
    quick, careful = CoinbaseDecoder(), CoinbaseDecoder()
    for count, one in enumerate(read_messages(coinbase_ticker_2026())):
        assert careful._decode_damaged(one.raw, 1, "here") == quick.decode(one.raw, 1, "here")
        if count == 1000:
            break


def test_a_product_that_was_quiet_for_hours_goes_on_if_its_time_agrees_with_our_clock() -> None:
    decoder, results = CoinbaseDecoder(), []
    for number, after_s in enumerate((0, DAY_S, 2 * DAY_S, 5 * DAY_S)):
        received_ns = TIME_NS + (after_s if number < 3 else 0) * NS_PER_S  # the last time disagrees
        results += decoder.decode(stamped(number, after_s), received_ns, "here")
    assert [type(each) for each in results] == [Tick, Tick, Tick, DeadLetter]
