"""Faults of the exchange: decided by a seed, all on record, and none of them loses a tick in silence."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from common.ports import open_port
from pipeline.archive import read_messages
from pipeline.datasets import coinbase_ticker_2026
from pipeline.exchange import faults as faults_module
from pipeline.exchange import server as server_module
from pipeline.exchange.faults import Fault, Faults, FaultyLine, Injected
from pipeline.exchange.items import Item, Restart, replayed, simulated
from pipeline.exchange.server import ExchangeServer
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.feed.coinbase import CoinbaseDecoder, subscribe_messages
from pipeline.feed.rfc3339 import parse_ns
from pipeline.records import DeadLetter, Gap, LateTick, Tick

MESSAGES = 3000
RATE = 0.004
CLOSES = {Fault.CUT, Fault.RECONNECT_STORM, Fault.REFUSED_SUBSCRIPTION, Fault.SILENCE}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SLOW_S", 0.01)
    monkeypatch.setattr(server_module, "RETURN_TIMEOUT_S", 1.0)


def items(count: int = MESSAGES) -> list[Item]:
    return list(islice(simulated(simulate(PROFILES, 5, 20.0)), count))


def dues(rates: dict[Fault, float], seed: int, count: int = 20_000) -> list[Fault | None]:
    faults = Faults(rates, seed)
    return [faults.due() for _ in range(count)]


class Received:
    """What a client of the feed got over all its connections, as an ingest decodes it."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.connections: list[list[Any]] = []
        self.closes: list[int] = []


async def collect(feed: Iterable[Item | Restart], faults: Faults) -> Received:
    """Runs an exchange with faults against a client that reconnects until the feed has ended."""
    server = ExchangeServer(feed, products=None, speed=math.inf, end_reason="the end", faults=faults)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.run(open_port("127.0.0.1", 0, "--port"), on_ready=port.set_result))
    received, decoder = Received(), CoinbaseDecoder()
    url = f"ws://127.0.0.1:{await port}"
    while not received.closes or received.closes[-1] != 1000:
        records: list[Any] = []
        async with connect(url, compression=None) as connection:
            try:
                for text in subscribe_messages(PROFILES):
                    await connection.send(text)
                while True:
                    raw = await connection.recv(decode=False)
                    records += decoder.decode(raw, 0, "ws")
            except ConnectionClosed as closed:
                received.closes.append(closed.rcvd.code if closed.rcvd else 1006)
        received.records += records
        received.connections.append(records)
        decoder = decoder.reconnected()
    await asyncio.wait_for(task, 30)
    return received


def sent_ticks(feed: Iterable[Item]) -> Counter[tuple[str, int]]:
    return Counter((item.products[0], item.event_time_ns or 0) for item in feed)


def key(tick: Tick) -> tuple[str, int]:
    return tick.product_id, tick.event_time_ns


def unexplained(received: Received, injected: list[Injected], sent: Iterable[Item]) -> list[str]:
    """Ticks that are neither on time, nor late, nor of a message on record as lost; and losses without a trace."""
    problems = []
    arrived = Counter(key(record) for record in received.records if isinstance(record, Tick))
    late = Counter(key(record.tick) for record in received.records if isinstance(record, LateTick))
    lost = {(entry.products[0], entry.event_time_ns) for entry in injected}
    for tick in sent_ticks(sent):
        if arrived[tick] + late[tick] == 0 and tick not in lost:
            problems.append(f"lost without a fault: {tick}")
        if arrived[tick] > 1:
            problems.append(f"accepted twice: {tick}")
    return problems


@pytest.mark.parametrize("fault", Fault)
async def test_each_fault_alone_loses_nothing_without_a_trace(fault: Fault) -> None:
    feed = items()
    rare = fault in CLOSES
    faults = Faults({fault: 0.001 if rare else RATE}, 3, silence_s=0.01)
    received = await collect(feed, faults)
    count = faults.counts()[str(fault)]
    assert count > 0, "the fault was injected"
    assert not unexplained(received, faults.injected, feed)
    gaps = Counter(record.reason for record in received.records if isinstance(record, Gap))
    late = Counter(record.reason for record in received.records if isinstance(record, LateTick))
    dead = [record for record in received.records if isinstance(record, DeadLetter)]
    ticks = sum(isinstance(record, Tick) for record in received.records)
    if fault is Fault.DROP:
        assert ticks == len(feed) - count
        assert gaps["sequence"] > 0
    elif fault is Fault.REPEAT:
        assert (ticks, late) == (len(feed), {"old_sequence": count})
    elif fault in (Fault.REORDER, Fault.DELAY):
        assert late == {"old_sequence": count}
        assert ticks == len(feed) - count
        assert gaps["sequence"] > 0
    elif fault in (Fault.SPLIT, Fault.SLOW, Fault.SILENCE):
        assert (ticks, len(received.records)) == (len(feed), len(feed))
    elif fault is Fault.GARBAGE:
        assert len(dead) == count
        assert gaps["sequence"] > 0
    elif fault is Fault.CUT:
        assert received.closes == [1006] * count + [1000]
        assert ticks == len(feed) - count
        assert gaps["reconnect"] > 0
    elif fault is Fault.RECONNECT_STORM:
        assert received.closes == [1008] * 6 * count + [1000]
        assert ticks == len(feed)
    elif fault is Fault.REFUSED_SUBSCRIPTION:
        assert received.closes == [1008] * 2 * count + [1000]
        assert [record.reason for record in dead] == ["exchange_error"] * count
        assert ticks == len(feed)
    elif fault is Fault.CLOCK_JUMP:
        assert len(dead) + late["time_jumped_back"] == count


async def test_all_faults_together_lose_nothing_without_a_trace() -> None:
    feed = items(6000)
    faults = Faults(dict.fromkeys(Fault, 0.002) | dict.fromkeys(CLOSES, 0.0005), 11, silence_s=0.01)
    received = await collect(feed, faults)
    assert all(faults.counts().values()), faults.counts()
    assert not unexplained(received, faults.injected, feed)


async def test_equal_seeds_give_equal_runs_with_all_faults_together() -> None:
    feed = items(2000)
    rates = dict.fromkeys(Fault, 0.002) | dict.fromkeys(CLOSES, 0.001)
    runs = []
    for seed in (5, 5, 6):
        faults = Faults(rates, seed, silence_s=0.01)
        received = await collect(feed, faults)
        # Heartbeats follow the wall clock, so numbers of messages may differ.
        injected = [entry._replace(sequence_num=None) for entry in faults.injected]
        ticks = [key(record) for record in received.records if isinstance(record, Tick)]
        runs.append((injected, ticks, received.closes))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


@pytest.mark.skipif(not coinbase_ticker_2026(), reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
async def test_a_recording_meets_faults_too() -> None:
    feed = list(replayed(read_messages(coinbase_ticker_2026())))
    faults = Faults({Fault.DROP: 0.01, Fault.REPEAT: 0.01, Fault.CLOCK_JUMP: 0.01, Fault.CUT: 0.001}, 1)
    received = await collect(feed, faults)
    assert all(faults.counts().values())
    assert not unexplained(received, faults.injected, [item for item in feed if isinstance(item, Item)])


async def test_a_dropped_message_is_on_record_with_the_number_that_is_missing() -> None:
    faults = Faults({Fault.DROP: 0.01}, 1)
    received = await collect(items(1000), faults)
    numbers = {record.sequence_num for record in received.records if isinstance(record, Tick)}
    dropped = {entry.sequence_num for entry in faults.injected}
    assert dropped
    assert not dropped & numbers
    assert all(entry.connection == 1 and entry.products for entry in faults.injected)
    first, last = min(numbers), max(numbers)
    missing = set(range(first, last + 1)) - numbers
    assert {number for number in dropped if number and first < number < last} <= missing


def test_the_same_seed_gives_the_same_faults_and_another_seed_gives_others() -> None:
    rates = {Fault.DROP: 0.01, Fault.CUT: 0.005}
    assert dues(rates, 7) == dues(rates, 7)
    assert dues(rates, 7) != dues(rates, 8)


def test_a_fault_comes_as_often_as_its_rate() -> None:
    assert dues({Fault.DROP: 0.05}, 1).count(Fault.DROP) == pytest.approx(1000, rel=0.1)
    assert dues({Fault.DROP: 1.0}, 1, 100) == [Fault.DROP] * 100


def test_two_faults_of_one_message_come_one_after_the_other() -> None:
    both = dues({Fault.DROP: 1.0, Fault.REPEAT: 1.0}, 1, 1000)
    assert None not in both
    assert both.count(Fault.DROP) > 100
    assert both.count(Fault.REPEAT) > 100


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0001, math.nan])
def test_a_rate_is_a_share_of_messages(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        Faults({Fault.DROP: rate})


def test_a_delayed_message_comes_after_two_to_twenty_later_ones() -> None:
    behind = set()
    for seed in range(200):
        line = FaultyLine(Faults({Fault.DELAY: 1.0}, seed), 1)
        assert line.pass_on(b"late", Fault.DELAY) == []
        later = 0
        while line.holds_messages:
            sent = line.pass_on(b"%d" % later, None)
            later += 1
        assert sent == [b"%d" % (later - 1), b"late"]
        behind.add(later)
    assert (min(behind), max(behind)) == (2, 20)


def test_a_reordered_message_changes_places_with_the_next_one() -> None:
    line = FaultyLine(Faults({Fault.REORDER: 1.0}), 1)
    assert line.pass_on(b"first", Fault.REORDER) == []
    assert line.pass_on(b"second", None) == [b"second", b"first"]


def test_messages_that_are_held_back_are_released_at_the_end() -> None:
    line = FaultyLine(Faults({Fault.REORDER: 1.0}), 1)
    line.pass_on(b"last", Fault.REORDER)
    assert line.release() == [b"last"]
    assert not line.holds_messages


def test_a_clock_jump_moves_the_timestamp_by_an_hour_and_nothing_else() -> None:
    item = items(1)[0]
    faults = Faults({Fault.CLOCK_JUMP: 1.0})
    moved = msgspec.json.decode(faults.distorted(item, Fault.CLOCK_JUMP).head + b"0" + item.tail)
    plain = msgspec.json.decode(item.head + b"0" + item.tail)
    assert abs(parse_ns(moved.pop("timestamp")) - parse_ns(plain.pop("timestamp"))) == 3600 * 10**9
    assert moved == plain
    assert faults.distorted(item, Fault.DROP) is item


def test_a_silence_outlasts_the_patience_of_ingest() -> None:
    from common.config import IngestConfig

    assert IngestConfig().silence_s < faults_module.SILENCE_S
