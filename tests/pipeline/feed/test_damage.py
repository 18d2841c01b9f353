"""Damaged messages that once ended ingest: each becomes a dead letter that Kafka takes."""

from __future__ import annotations

import json
import sys

import pytest

from pipeline.feed.binance import BinanceDecoder
from pipeline.feed.coinbase import CoinbaseDecoder
from pipeline.feed.protocol import Decoder
from pipeline.records import DeadLetter, encode
from tests.pipeline.feed.messages import message

LONE = '"\\ud800"'  # a surrogate without its partner: valid JSON, and not UTF-8
QUOTE = '{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1","T":1767225600000}'


def coinbase(old: str, new: str) -> bytes:
    text = message(1).decode().replace(": ", ":")
    assert old in text
    return text.replace(old, new, 1).encode()


def binance(old: str, new: str) -> bytes:
    assert old in QUOTE
    return f'{{"stream":"btcusdt@bookTicker","data":{QUOTE.replace(old, new, 1)}}}'.encode()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


SURROGATES = [
    (CoinbaseDecoder(), coinbase('"sequence_num":1', f'"sequence_num":{LONE}')),
    (CoinbaseDecoder(), coinbase('"channel":"ticker"', f'"channel":{LONE}')),
    (CoinbaseDecoder(), coinbase('"BTC-USD"', LONE)),
    (CoinbaseDecoder(), coinbase('"best_bid":"', f'"best_bid":{LONE},"x":"')),
    (CoinbaseDecoder(), b'{"type":"error","message":%b,"reason":%b}' % (LONE.encode(), LONE.encode())),
    (BinanceDecoder(), binance('"BTCUSDT"', LONE)),
    (BinanceDecoder(), binance('"u":1', f'"u":{LONE}')),
    (BinanceDecoder(), binance('"b":"1"', f'"b":{LONE}')),
    (BinanceDecoder(), b'{"code":%b,"msg":%b}' % (LONE.encode(), LONE.encode())),
    (BinanceDecoder(), b'{"stream":%b,"data":{"e":%b}}' % (LONE.encode(), LONE.encode())),
]


@pytest.mark.parametrize(("decoder", "raw"), SURROGATES)
def test_a_lone_surrogate_is_a_dead_letter_that_can_be_published(decoder: Decoder, raw: bytes) -> None:
    results = decoder.decode(raw, 1, "test")
    assert any(isinstance(result, DeadLetter) for result in results)
    assert all(encode(result) for result in results)


def test_nesting_at_the_parsers_limit_is_a_dead_letter() -> None:
    limit = sys.getrecursionlimit()
    for depth in range(limit - 120, limit):
        for raw in (
            coinbase('"best_bid":"', f'"best_bid":{nested(depth)},"x":"'),
            coinbase('"sequence_num":1', f'"sequence_num":{nested(depth)}'),
            nested(depth).encode(),
        ):
            (letter,) = CoinbaseDecoder().decode(raw, 1, "test")
            assert isinstance(letter, DeadLetter)
        for raw in (binance('"b":"1"', f'"b":{nested(depth)}'), binance('"u":1', f'"u":{nested(depth)}')):
            (letter,) = BinanceDecoder().decode(raw, 1, "test")
            assert isinstance(letter, DeadLetter)
            assert json.loads(encode(letter))
