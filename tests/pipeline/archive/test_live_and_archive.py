"""The archive of a session decodes to the records that ingest published, whatever the feed did."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from pipeline.archive import ArchiveWriter, read_archive, read_messages
from pipeline.exchange.faults import Fault, Faults, FaultyLine
from pipeline.exchange.items import Item, simulated
from pipeline.exchange.simulator import PROFILES, simulate
from pipeline.feed.coinbase import CoinbaseConnections, CoinbaseDecoder
from pipeline.feed.protocol import Result
from pipeline.records import DeadLetter, LateTick

INJECTED = (Fault.DROP, Fault.REPEAT, Fault.REORDER, Fault.DELAY, Fault.GARBAGE, Fault.CLOCK_JUMP)
NS_PER_MS = 10**6


def connections(seed: int, messages: int = 300) -> list[list[bytes]]:
    """The messages of some connections, as a client receives them."""
    faults = Faults(dict.fromkeys(INJECTED, 0.03), seed)
    draw = random.Random(seed)
    received: list[list[bytes]] = [[]]
    line, number = FaultyLine(faults, 1), draw.randrange(3)
    for item in islice(simulated(simulate(PROFILES, seed, 5.0)), messages):
        assert isinstance(item, Item)
        fault = faults.due()
        sent = faults.distorted(item, fault)
        received[-1] += line.pass_on(b"%b%d%b" % (sent.head, number, sent.tail), fault)
        number += 1
        if draw.random() < 0.01:
            received.append([])
            line, number = FaultyLine(faults, 1), draw.randrange(3)
    return received


def without_source(results: list[Result]) -> list[Result]:
    return [
        msgspec.structs.replace(each, source="") if isinstance(each, LateTick | DeadLetter) else each
        for each in results
    ]


@pytest.mark.parametrize("seed", range(12))
def test_the_archive_decodes_to_what_was_published(tmp_path: Path, seed: int) -> None:
    writer = ArchiveWriter(tmp_path, PROFILES)
    decoder, live, now_ns = CoinbaseDecoder(), list[Result](), 1_767_225_600_000_000_000
    for number, messages in enumerate(connections(seed)):
        decoder = decoder if number == 0 else decoder.reconnected()
        writer.begin_connection()
        for raw in messages:
            now_ns += NS_PER_MS
            writer.write(raw, now_ns)
            live += decoder.decode(raw, now_ns, "live")
    writer.close()
    assert without_source(list(read_archive([tmp_path]))) == without_source(live)


@pytest.mark.parametrize("max_future_s", [0.0, 60.0])
def test_what_was_refused_live_for_its_time_is_refused_in_the_archive(tmp_path: Path, max_future_s: float) -> None:
    limit_ns = int(max_future_s * 1e9)
    writer = ArchiveWriter(tmp_path, PROFILES, max_future_s=max_future_s)
    decoder, live = CoinbaseDecoder(max_future_ns=limit_ns), list[Result]()
    items = [each for each in islice(simulated(simulate(PROFILES, 1, 5.0)), 80) if isinstance(each, Item)]
    ahead = Faults({Fault.CLOCK_JUMP: 1.0}, 1)
    for connection in range(2):
        decoder = decoder.reconnected() if connection else decoder
        writer.begin_connection()
        for number, item in enumerate(items[40 * connection : 40 * connection + 40]):
            now_ns = item.event_time_ns or 0
            if number % 10 == 0:  # also the first of the connection
                now_ns -= 120 * 10**9
            if number % 10 == 5:
                item = ahead.distorted(item, Fault.CLOCK_JUMP)
            raw = b"%b%d%b" % (item.head, number, item.tail)
            writer.write(raw, now_ns)
            live += decoder.decode(raw, now_ns, "live")
    writer.close()
    assert any(isinstance(each, DeadLetter) and each.reason == "time_in_future" for each in live) == (limit_ns > 0)
    assert without_source(list(read_archive([tmp_path]))) == without_source(live)


def recording(*messages: tuple[int, int]) -> list[bool]:
    """Whether each message, given as number and second, starts a connection."""
    finder = CoinbaseConnections()
    return [
        finder.place(b'{"sequence_num":%d,"timestamp":"2026-01-01T%02d:%02d:%02dZ"}' % (
            number, second // 3600, second // 60 % 60, second % 60
        ), first_of_file=False).starts_connection
        for number, second in messages
    ]  # fmt: skip


@pytest.mark.parametrize("jump_s", [3600, -3600])
@pytest.mark.parametrize("behind", [0, 1, 2])
def test_after_a_single_bad_time_an_old_message_starts_no_connection(jump_s: int, behind: int) -> None:
    before = [(number, 7200 + number) for number in range(10, 15)]
    bad = (15, 7215 + jump_s)
    after = [(16 + more, 7216 + more) for more in range(behind)]
    assert recording(*before, bad, *after, (13, 7213)) == [True] + [False] * (6 + behind - 1) + [False]


def test_a_file_without_headers_still_finds_a_connection(tmp_path: Path) -> None:
    named, file = tmp_path / "0.ndjson", tmp_path / "a.ndjson"
    first = b'{"channel":"heartbeats","timestamp":"2025-01-01T00:00:00Z","sequence_num":50,"events":[]}'
    named.write_bytes(b'{"volcast_archive":1,"venue":"coinbase","connection":7,"lost_messages":0}\n' + first + b"\n")
    items = [each for each in islice(simulated(simulate(PROFILES, 1, 5.0)), 20) if isinstance(each, Item)]
    numbers = [*range(100, 110), *range(3, 13)]
    file.write_bytes(b"\n".join(b"%b%d%b" % (each.head, n, each.tail) for each, n in zip(items, numbers, strict=True)))
    starts = [message.starts_connection for message in read_messages([named, file])]
    assert starts == [True, *(number in (100, 3) for number in numbers)]
