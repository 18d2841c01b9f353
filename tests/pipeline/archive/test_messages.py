"""Recordings as records: which exchange, which connections, in which order."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from common.errors import InputError
from pipeline.archive import read_archive, read_messages
from pipeline.datasets import binance_l1
from pipeline.features.table import compute_features
from pipeline.feed.rfc3339 import NS_PER_S, format_ns
from pipeline.records import Gap, Tick
from tests.pipeline.feed.messages import TIME_NS, message
from tests.pipeline.feed.test_binance import futures, quote

DAY_S = 86_400


def stamped(number: int, after_s: float) -> bytes:
    return message(number, timestamp=format_ns(TIME_NS + int(after_s * NS_PER_S)))


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def kinds(*paths: Path, gap_after_ns: int = 0) -> list[str]:
    records = read_archive(paths, gap_after_ns=gap_after_ns)
    return [str(one.sequence_num) if isinstance(one, Tick) else one.reason for one in records]


def test_a_second_connection_inside_a_file_need_not_start_at_0(tmp_path: Path) -> None:
    first = [stamped(number, number) for number in range(100, 105)]
    second = [stamped(number, DAY_S + number) for number in range(50, 53)]
    path = write(tmp_path / "a.ndjson", *first, *second)
    assert kinds(path) == ["100", "101", "102", "103", "104", "reconnect", "50", "51", "52"]


def test_a_time_based_rule_makes_a_recording_without_heartbeats_warm(tmp_path: Path) -> None:
    # Every fourth number belongs to a heartbeat that was not recorded.
    numbers = [number for number in range(400) if number % 4 != 3]
    path = write(tmp_path / "a.ndjson", *(stamped(number, number / 4) for number in numbers))
    by_number = compute_features(read_archive([path])).counts
    assert (by_number.gaps["sequence"], by_number.features - by_number.not_warm) == (99, 0)
    by_time = compute_features(read_archive([path], gap_after_ns=10 * NS_PER_S)).counts
    assert by_time.gaps.total() == 0
    assert by_time.features - by_time.not_warm == 300 - 180  # warm from 60 s on, 3 ticks a second


def header(venue: str, connection: int | None, lost: int = 0) -> bytes:
    return json.dumps({"volcast_archive": 1, "venue": venue, "connection": connection, "lost_messages": lost}).encode()


def test_a_header_says_the_exchange_and_that_a_connection_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "a.ndjson", header("binance", 7), futures(1), futures(2, 1))
    write(tmp_path / "b.ndjson", header("binance", 7), futures(3, 2))
    write(tmp_path / "c.ndjson", header("binance", 8), futures(4, 3))
    assert kinds(tmp_path) == ["1", "2", "3", "reconnect", "4"]


def test_a_header_with_another_connection_is_a_gap_though_the_numbers_go_on(tmp_path: Path) -> None:
    write(tmp_path / "a.ndjson", header("coinbase", 7), stamped(1, 0))
    write(tmp_path / "b.ndjson", header("coinbase", 8), stamped(2, 1))
    assert kinds(tmp_path) == ["1", "reconnect", "2"]


def test_lost_messages_of_the_archive_are_a_gap(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", header("binance", 7), futures(1), header("binance", 7, 3), futures(5, 1))
    assert kinds(path) == ["1", "reconnect", "5"]


def test_a_header_of_an_unknown_exchange_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", header("mtgox", 7))
    with pytest.raises(InputError, match=r"a\.ndjson: venue: expected one of coinbase, binance, got 'mtgox'"):
        read_archive([path])


def test_files_of_two_exchanges_are_known_by_their_messages(tmp_path: Path) -> None:
    spot_ns = TIME_NS + 50 * NS_PER_S
    coinbase = write(tmp_path / "a.ndjson", stamped(1, 0), stamped(2, 100))
    binance = write(tmp_path / "b.ndjson", b"%d %b" % (spot_ns, quote(9)), b"%d %b" % (spot_ns + 1, quote(10)))
    ticks = list(read_archive([binance, coinbase]))
    assert all(isinstance(tick, Tick) for tick in ticks)
    assert [(tick.venue, tick.sequence_num) for tick in ticks if isinstance(tick, Tick)] == [
        ("coinbase", 1), ("coinbase", 2), ("binance", 9), ("binance", 10),
    ]  # fmt: skip
    assert [one.starts_connection for one in read_messages([coinbase, binance])] == [True, False, True, False]


BINANCE = binance_l1()
QUOTES = {
    "spot_btcusdt_20240808": 28040,
    "spot_btcusdt_20240809": 45134,
    "spot_ethusdt_20240808": 24077,
    "spot_ethusdt_20240809": 34681,
    "usdm_btcusdt_20240808": 66089,
    "usdm_ethusdt_20240808": 53992,
}


@pytest.mark.skipif(not BINANCE, reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
@pytest.mark.parametrize("name", QUOTES)
def test_every_quote_of_the_binance_recordings_is_a_tick(name: str) -> None:
    (path,) = (file for file in BINANCE if file.name.startswith(name))
    records = list(read_archive([path]))
    assert Counter(type(record) for record in records) == {Tick: QUOTES[name]}
    table = compute_features(records)
    assert (table.counts.features, table.counts.late.total()) == (QUOTES[name], 0)
    assert table.counts.not_warm < QUOTES[name] / 2


@pytest.mark.skipif(not BINANCE, reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
def test_two_files_of_binance_are_two_connections() -> None:
    spot = [file for file in BINANCE if file.name.startswith("spot_btcusdt")]
    gaps = [record for record in read_archive(spot) if isinstance(record, Gap)]
    assert [(gap.reason, gap.venue) for gap in gaps] == [("reconnect", "binance")]
