"""Recordings with one row per tick, under the names that people use."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError, UsageError
from pipeline.archive import ReadOptions, describe, read_archive
from pipeline.archive.columns import complete, parse_map
from pipeline.archive.reader import explain_unknown
from pipeline.datasets import data_dir
from pipeline.records import DeadLetter, Gap, LateTick, Tick
from tests.pipeline.feed.messages import message

TIME_NS = 1_767_600_000_794_000_000
ROW: dict[str, Any] = {"time": 1767600000794, "symbol": "BTC-USD", "bid": 99.5, "ask": 100.5}


def json_file(path: Path, *rows: Any) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def ticks(path: Path, options: ReadOptions | None = None) -> list[Tick]:
    records = list(read_archive([path], options or ReadOptions()))
    assert all(isinstance(record, Tick) for record in records), records
    return [record for record in records if isinstance(record, Tick)]


def test_a_row_is_a_tick(tmp_path: Path) -> None:
    row = {**ROW, "last": "99.9", "bid_size": "2", "ask_size": 3, "seq": 77, "received_at": "1767600000.845"}
    assert ticks(json_file(tmp_path / "a.ndjson.gz", row)) == [
        Tick("BTC-USD", TIME_NS, TIME_NS + 51_000_000, 77, 99.9, 99.5, 100.5, 2.0, 3.0)
    ]


def test_sizes_numbers_and_price_may_be_missing(tmp_path: Path) -> None:
    first, second = ticks(json_file(tmp_path / "a.ndjson", ROW, {**ROW, "time": 1767600000795}))
    assert first == Tick("BTC-USD", TIME_NS, 0, 1, 100.0, 99.5, 100.5, 0.0, 0.0)
    assert second.sequence_num == 2


@pytest.mark.parametrize("sizes", [{"bid_size": 2}, {"bid_size": 2, "ask_size": None}, {"bid_size": "", "ask_size": 1}])
def test_a_size_of_one_side_alone_counts_as_unknown(tmp_path: Path, sizes: dict[str, Any]) -> None:
    (tick,) = ticks(json_file(tmp_path / "a.ndjson", {**ROW, **sizes}))
    assert (tick.bid_quantity, tick.ask_quantity) == (0.0, 0.0)


@pytest.mark.parametrize(
    "time",
    [1767600000794, "1767600000.794", 1767600000794000000, 1767600000794000, "2026-01-05T08:00:00.794Z",
     "2026-01-05 08:00:00.794", "2026-01-05T09:00:00.794+01:00"],
)  # fmt: skip
def test_times_are_read_in_every_form(tmp_path: Path, time: Any) -> None:
    assert ticks(json_file(tmp_path / "a.ndjson", {**ROW, "time": time}))[0].event_time_ns == TIME_NS


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_with_quotes_and_any_delimiter(tmp_path: Path, delimiter: str, name: str) -> None:
    lines = [
        delimiter.join(("Timestamp", "Best Bid", "Best-Ask", "Symbol")),
        delimiter.join(("2026-01-05T08:00:00.794Z", "99.5", '"100.5"', '"BTC-USD"')),
    ]
    text = "\ufeff" + "\r\n".join(lines) + "\r\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    assert ticks(path) == [Tick("BTC-USD", TIME_NS, 0, 1, 100.0, 99.5, 100.5, 0.0, 0.0)]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_parquet_with_mid_and_spread(tmp_path: Path, unit: str, zone: str | None) -> None:
    per_unit = {"ms": 1_000_000, "us": 1_000, "ns": 1}[unit]
    times = pa.array([TIME_NS // per_unit], pa.timestamp(unit, zone))
    table = pa.table({"ts": times, "product": ["BTC-USD"], "midprice": [100.0], "spread": [1.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert ticks(tmp_path / "a.parquet") == [Tick("BTC-USD", TIME_NS, 0, 1, 100.0, 99.5, 100.5, 0.0, 0.0)]


def test_the_guess_is_reported_with_what_cannot_be_computed(tmp_path: Path) -> None:
    (report,) = describe([json_file(tmp_path / "a.ndjson", ROW)])
    assert report.format == "NDJSON"
    assert report.columns == {"product": "symbol", "time": "time", "bid": "bid", "ask": "ask"}
    assert report.guessed == ["ask", "bid", "product", "time"]
    assert set(report.not_computed) == {"order_book_imbalance", "order_flow_imbalance", "mean_imbalance"}
    assert set(report.substituted) == {"price"}


def test_with_a_mid_alone_the_spreads_cannot_be_computed(tmp_path: Path) -> None:
    (report,) = describe([json_file(tmp_path / "a.ndjson", {"ts": 1767600000, "pair": "X", "mid": 1})])
    assert {"spread_abs", "spread_rel", "mean_spread_rel"} <= set(report.not_computed)


def test_an_archive_of_messages_is_no_flat_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(message(0) + b"\n")
    assert describe([path]) == []
    assert len(ticks(path)) == 1


def test_a_damaged_first_line_does_not_hide_the_format(tmp_path: Path) -> None:
    dead, tick = read_archive([json_file(tmp_path / "a.ndjson", '{"time": 17', ROW)])
    assert isinstance(dead, DeadLetter)
    assert isinstance(tick, Tick)


def test_given_columns_win_over_the_guess(tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.ndjson", {**ROW, "x": 98.0, "y": 102.0})
    (tick,) = ticks(path, ReadOptions(parse_map("bid=x,ask=y")))
    assert (tick.bid, tick.ask) == (98.0, 102.0)
    assert "bid" not in describe([path], ReadOptions({"bid": "x"}))[0].guessed


def test_a_product_can_be_given_for_a_file_without_one(tmp_path: Path) -> None:
    row = {name: value for name, value in ROW.items() if name != "symbol"}
    path = json_file(tmp_path / "a.ndjson", row)
    assert ticks(path, ReadOptions(product="BTC-USD"))[0].product_id == "BTC-USD"
    with pytest.raises(InputError, match=r"no column for the product among time, bid, ask; add --product NAME"):
        read_archive([path])


def test_a_given_column_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.ndjson", ROW)
    with pytest.raises(UsageError, match=r"--columns bid=b: the file has the columns time, symbol, bid, ask"):
        read_archive([path], ReadOptions({"bid": "b"}))


@pytest.mark.parametrize("text", ["bid", "bid=", "colour=x", "bid=x,,"])
def test_a_map_that_cannot_be_parsed_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--columns: expected ROLE=COLUMN"):
        parse_map(text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bid": 101.0}, "crossed_quote"),
        ({"bid": 0}, "not_positive"),
        ({"ask": "nan"}, "not_finite"),
        ({"ask": "n/a"}, "wrong_shape"),
        ({"ask": "inf"}, "not_finite"),
        ({"bid": "1_0"}, "not_finite"),
        ({"bid": "much"}, "wrong_shape"),
        ({"bid_size": -1, "ask_size": 1}, "not_positive"),
        ({"time": "soon"}, "bad_time"),
        ({"symbol": ""}, "wrong_shape"),
        ({"symbol": "x" * 101}, "wrong_shape"),
    ],
)
def test_a_row_that_is_no_tick_is_a_dead_letter(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    columns = {"bid_size": 1, "ask_size": 1}
    path = json_file(tmp_path / "a.ndjson", {**ROW, **columns}, {**ROW, **columns, **change})
    _, dead = read_archive([path])
    assert isinstance(dead, DeadLetter)
    assert (dead.reason, dead.source) == (reason, f"{path}:2")


def test_a_silence_of_more_than_a_minute_is_a_gap(tmp_path: Path) -> None:
    times = [1767600000000, 1767600060000, 1767600120001]
    records = list(read_archive([json_file(tmp_path / "a.ndjson", *({**ROW, "time": time} for time in times))]))
    assert [record.reason if isinstance(record, Gap) else "" for record in records] == ["", "", "silence", ""]


def test_a_single_time_far_ahead_costs_one_row(tmp_path: Path) -> None:
    times = [1767600000000, 1867600000000, 1767600001000, 1767600002000]
    records = list(read_archive([json_file(tmp_path / "a.ndjson", *({**ROW, "time": time} for time in times))]))
    assert [isinstance(record, Tick) for record in records] == [True, False, True, True]
    assert not any(isinstance(record, LateTick) for record in records)


def test_quotes_win_over_a_midprice() -> None:
    assert "mid" not in complete({}, ["ts", "bid", "ask", "mid", "spread"]).columns


def test_an_unknown_format_is_named_with_its_first_reason(tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.ndjson", {"foo": 1}, {"foo": 2})
    first = next(record for record in read_archive([path]) if isinstance(record, DeadLetter))
    text = explain_unknown(path, first)
    assert text.startswith(f"the format is not known; first reason, at {path}:1: wrong_shape: ")
    assert "lacks a column for time; bid and ask, or mid among foo" in text


def test_a_table_without_the_columns_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"foo": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"the format is not known: as Parquet rows it lacks a column for time"):
        read_archive([tmp_path / "a.parquet"])


def test_messages_and_rows_are_not_read_together(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(message(0) + b"\n")
    json_file(tmp_path / "b.ndjson", ROW)
    with pytest.raises(InputError, match=r"a\.ndjson: holds messages, but .*b\.ndjson holds rows"):
        read_archive([tmp_path])


@pytest.mark.parametrize(
    ("name", "count"),
    [("flat_iso.ndjson.gz", 1500), ("flat_epoch_two_products.ndjson.gz", 1500), ("flat_mid_and_spread.parquet", 800)],
)
def test_the_shared_cases_are_ticks_without_a_map(name: str, count: int) -> None:
    root = data_dir()
    path = root.parent / "cases" / "feed" / name if root else Path(name)
    if not path.exists():
        pytest.skip("no shared cases")
    assert len(ticks(path)) == count
