"""The products that Coinbase has acknowledged."""

from __future__ import annotations

import pytest

from pipeline.feed.coinbase import CoinbaseDecoder
from tests.pipeline.feed.messages import message, subscriptions
from tests.pipeline.feed.test_coinbase import decode


def test_an_acknowledgement_lists_the_products_of_the_ticker_channel() -> None:
    decoder = CoinbaseDecoder()
    assert decoder.acknowledged is None
    decode(subscriptions(0), decoder=decoder)
    assert decoder.acknowledged == {"BTC-USD"}
    decode(subscriptions(1, []), decoder=decoder)
    assert decoder.acknowledged == frozenset()
    decode(subscriptions(2, ["ETH-USDC", "BIT-28JUN24-CDE"]), decoder=decoder)
    assert decoder.acknowledged == {"ETH-USD", "BIT-28JUN24-CDE"}


@pytest.mark.parametrize("channels", [["ticker", "heartbeats"], ["heartbeats", "ticker"]])
def test_acknowledgements_of_a_channel_each_are_both_kept(channels: list[str]) -> None:
    decoder = CoinbaseDecoder()
    for number, channel in enumerate(channels):
        events = [{"subscriptions": {channel: ["BTC-USD" if channel == "ticker" else channel]}}]
        decode(message(number, channel="subscriptions", events=events), decoder=decoder)
    assert decoder.acknowledged == frozenset(["BTC-USD"])


def test_without_a_product_in_two_acknowledgements_none_is_subscribed() -> None:
    decoder = CoinbaseDecoder()
    states = []
    for number in range(2):
        events = [{"subscriptions": {"heartbeats": ["heartbeats"]}}]
        decode(message(number, channel="subscriptions", events=events), decoder=decoder)
        states.append(decoder.acknowledged)
    assert states == [None, frozenset()]
