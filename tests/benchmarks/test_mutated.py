"""The short form of `python -m benchmarks.mutated`: nothing raises, and each reader meets every kind of end."""

from __future__ import annotations

import pytest

from benchmarks.mutated import READERS, Tally, ignored, run

COUNT = 6_000
# What must occur among the ends of mutated input, so that the mutations reach beyond the first check.
REACHED = {
    "coinbase": {"tick", "gap", "latetick", "dead: not_json", "dead: wrong_shape", "dead: bad_time"},
    "coinbase, gaps by time": {"tick", "dead: not_json", "dead: wrong_shape"},
    "binance": {"tick", "latetick", "dead: not_json", "dead: wrong_shape", "dead: exchange_error"},
    "ticks.raw": {"tick", "latetick", "dead: not_json", "dead: wrong_shape", "dead: crossed_quote"},
    "features and predictions": {"read", "fault of the check", "offsets that the check names"},
    "snapshots": {"unreadable", "the same bits"},
    "markers": {"void", "read"},
    "lines of archives": {"message", "damage"},
    "recordings": {"tick", "deadletter"},
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_mutated_input_ends_in_a_known_way(reader: str) -> None:
    ((_, tally),) = run(COUNT, 11, [reader])
    assert not tally.faults, tally.named
    assert tally.mutated >= COUNT * READERS[reader][0] // 100
    assert REACHED[reader] <= set(tally.ends)


def test_a_reader_that_raises_is_a_fault() -> None:
    tally = Tally()
    try:
        raise ValueError("no number")
    except ValueError:
        tally.raised(b"input")
    assert tally.faults.total() == 1
    assert "raised ValueError" in tally.named[0]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b'{"channel":"heartbeats"}', "heartbeat or acknowledgement"),
        (b'{"channel":"ticker","events":[{"tickers":[]}]}', "no ticker in it"),
        (b'{"channel":"ticker","events":[{"tickers":[{}]}]}', "unknown"),
        (b'{"stream":"btcusdt@bookTicker","data":{"u":1}}', "unknown"),
        (b'{"result":null}', "reply"),
    ],
)
def test_only_a_message_without_a_quote_is_ignored_for_a_reason(message: bytes, reason: str) -> None:
    assert ignored(message) == reason
