"""Flat recordings in awkward forms: delimiters, names, columns without values, damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from pipeline.archive import ReadOptions, describe, read_archive
from pipeline.archive.reader import explain_unknown
from pipeline.records import DeadLetter, Gap, Tick
from tests.pipeline.archive.test_flat import ROW, TIME_NS, json_file, ticks
from tests.pipeline.feed.messages import message

HEADER = "time,symbol,bid,ask"
LINE = "1767600000794,BTC-USD,99.5,100.5"


def text_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"symbol": ["BTC-USD"], "bid": [99.5], "ask": [100.5]} | columns), path)
    return path


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.CSV", "quotes", "a.ndjson"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_of_text_is_found_by_its_header(tmp_path: Path, name: str, delimiter: str) -> None:
    lines = [line.replace(",", delimiter) for line in (HEADER, LINE)]
    (tick,) = ticks(text_file(tmp_path / name, *lines))
    assert (tick.event_time_ns, tick.bid, tick.ask) == (TIME_NS, 99.5, 100.5)


def test_a_header_with_given_columns_is_found_under_any_file_name(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.txt", "when,symbol,b,a", LINE)
    assert len(ticks(path, ReadOptions({"time": "when", "bid": "b", "ask": "a"}))) == 1


def test_comments_before_the_header_are_skipped(tmp_path: Path) -> None:
    assert len(ticks(text_file(tmp_path / "a.csv", "# recorded by hand", HEADER, LINE))) == 1


def test_a_decimal_comma_is_read_where_semicolons_separate(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", "time;symbol;bid;ask", "1767600000794;BTC-USD;99,5;100,5")
    assert [(tick.bid, tick.ask) for tick in ticks(path)] == [(99.5, 100.5)]


@pytest.mark.parametrize(
    "names",
    ["timestamp,local_timestamp,asks[0].price,asks[0].amount,bids[0].price,bids[0].amount",
     "ts_event,ts_recv,ask_px_00,ask_sz_00,bid_px_00,bid_sz_00",
     "transaction_time,recv_ts,best_ask_price,best_ask_qty,best_bid_price,best_bid_qty"],
)  # fmt: skip
def test_names_of_common_vendors_are_known(tmp_path: Path, names: str) -> None:
    values = "1767600000794000,1767600000795000,100.5,3,99.5,2"
    path = text_file(tmp_path / "a.csv", names, values)
    (tick,) = ticks(path, ReadOptions(product="BTC-USD"))
    assert (tick.bid, tick.ask, tick.bid_quantity, tick.ask_quantity) == (99.5, 100.5, 2.0, 3.0)
    assert (tick.event_time_ns, tick.ingest_time_ns) == (TIME_NS, TIME_NS + 1_000_000)


def test_a_column_without_a_name_can_be_given(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", ",symbol,bid,ask", LINE)
    assert len(ticks(path, ReadOptions({"time": "column1"}))) == 1


def test_date_and_time_of_day_may_be_two_columns(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", "date,time,symbol,bid,ask", "2026-01-05,08:00:00.794,BTC-USD,99.5,100.5")
    assert ticks(path)[0].event_time_ns == TIME_NS


@pytest.mark.parametrize(
    "time",
    ["2026-01-05 08:00:00.794 UTC", "2026/01/05 08:00:00.794", "2026-01-05 09:00:00.794 +01:00", "20260105T080000.794"],
)
def test_more_forms_of_time(tmp_path: Path, time: str) -> None:
    assert ticks(json_file(tmp_path / "a.ndjson", {**ROW, "time": time}))[0].event_time_ns == TIME_NS


@pytest.mark.parametrize(("time", "seconds"), [("20260105", 1767571200), ("20260105080000", 1767600000)])
def test_digits_of_a_date_are_no_epoch(tmp_path: Path, time: str, seconds: int) -> None:
    assert ticks(json_file(tmp_path / "a.ndjson", {**ROW, "time": time}))[0].event_time_ns == seconds * 10**9


def test_the_time_of_receipt_replaces_a_missing_event_time(tmp_path: Path) -> None:
    row = {name: value for name, value in ROW.items() if name != "time"} | {"received_at": 1767600000794}
    path = json_file(tmp_path / "a.ndjson", row)
    (tick,) = ticks(path)
    assert tick.event_time_ns == tick.ingest_time_ns == TIME_NS
    assert "event_time" in describe([path])[0].substituted


@pytest.mark.parametrize(("exchange", "venue"), [("Binance", "binance"), ("", "coinbase"), ("kraken", "kraken")])
def test_venues_are_in_lower_case_as_in_keys(tmp_path: Path, exchange: str, venue: str) -> None:
    assert ticks(json_file(tmp_path / "a.ndjson", {**ROW, "exchange": exchange}))[0].venue == venue


def test_a_column_that_the_first_row_lacks_is_used(tmp_path: Path) -> None:
    first, second = ticks(json_file(tmp_path / "a.ndjson", ROW, {**ROW, "bid_size": 2, "ask_size": 3}))
    assert (first.bid_quantity, second.bid_quantity) == (0.0, 2.0)


@pytest.mark.parametrize("null", ["", "NaN", "N/A", "null"])
def test_sizes_without_any_value_cannot_be_computed(tmp_path: Path, null: str) -> None:
    path = text_file(tmp_path / "a.csv", f"{HEADER},bid_size,ask_size", *[f"{LINE},{null},{null}"] * 3)
    (report,) = describe([path])
    assert "bid_size: no value" in report.not_computed["order_book_imbalance"]


def test_a_single_row_with_sizes_keeps_their_columns(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", f"{HEADER},bid_size,ask_size", f"{LINE},,", f"{LINE},2,3")
    assert "order_book_imbalance" not in describe([path])[0].not_computed


def test_rows_without_sizes_among_others_are_reported(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", f"{HEADER},bid_size,ask_size", f"{LINE},1,2", f"{LINE},,2")
    assert describe([path])[0].substituted["order_book_imbalance"] == "0 in rows without a value of bid_size"


def test_text_in_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(f"{HEADER}\n{LINE}\n".encode("utf-16"))
    with pytest.raises(InputError, match="the text is UTF-16; save it as UTF-8"):
        read_archive([tmp_path / "a.csv"])


def test_rows_with_one_sequence_number_go_on_after_a_hole(tmp_path: Path) -> None:
    times = [1767600000000 + 1000 * second for second in (0, 1, 4000, 4001, 4002)]
    records = list(
        read_archive([json_file(tmp_path / "a.ndjson", *({**ROW, "time": time, "seq": 0} for time in times))])
    )
    kinds = [type(record) for record in records]
    assert kinds == [Tick, Tick, DeadLetter, Gap, Tick, Tick], "one row is set aside until the next row agrees"


@pytest.mark.parametrize("name", ["b.csv", "b.ndjson", "b.parquet", "b.csv.gz"])
def test_an_empty_file_among_rows_is_skipped(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    path = text_file(tmp_path / "a.csv", HEADER, LINE)
    assert len(list(read_archive([tmp_path / name, path]))) == 1


@pytest.mark.parametrize("line", ["1,2," + "x" * 200_000, '"1767600000794,BTC-USD,99.5,100.5'])
def test_a_line_that_is_no_csv_is_a_dead_letter(tmp_path: Path, line: str) -> None:
    records = list(read_archive([text_file(tmp_path / "a.csv", HEADER, line, LINE)]))
    assert [type(record) for record in records] == [DeadLetter, Tick]


def test_a_gzip_stream_that_is_cut_off_keeps_the_rows_before(tmp_path: Path) -> None:
    lines = [f"{1767600000000 + number},BTC-USD,{90 + number * 7 % 9}.5,100.5" for number in range(5000)]
    packed = gzip.compress("\n".join([HEADER, *lines]).encode())
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    records = list(read_archive([tmp_path / "a.csv.gz"]))
    assert len(records) > 1000
    assert isinstance(records[-1], DeadLetter)
    assert all(isinstance(record, Tick) for record in records[:-1])


def test_the_unnamed_index_of_a_table_is_its_time(tmp_path: Path) -> None:
    index = pa.array([TIME_NS], pa.timestamp("ns"))
    assert ticks(table(tmp_path / "a.parquet", __index_level_0__=index))[0].event_time_ns == TIME_NS


def test_a_time_beyond_nanoseconds_costs_one_row(tmp_path: Path) -> None:
    times = pa.array([TIME_NS // 1000, 253_402_300_799_000_000], pa.timestamp("us"))
    columns = {"symbol": ["A", "A"], "bid": [1.0, 1.0], "ask": [2.0, 2.0]}
    tick, dead = read_archive([table(tmp_path / "a.parquet", time=times, **columns)])
    assert isinstance(tick, Tick)
    assert isinstance(dead, DeadLetter)
    assert dead.reason == "bad_time"


def test_damage_inside_a_parquet_file_is_a_dead_letter(tmp_path: Path) -> None:
    count = 200_000
    columns = {"symbol": ["A"] * count, "bid": [1.0] * count, "ask": [2.0 + n % 7 for n in range(count)]}
    path = table(tmp_path / "a.parquet", time=[1767600000000 + n for n in range(count)], **columns)
    data = bytearray(path.read_bytes())
    data[5000:5400] = b"\xff" * 400
    path.write_bytes(data)
    last = list(read_archive([path]))[-1]
    assert isinstance(last, DeadLetter)
    assert "damaged" in last.detail


def test_the_first_reason_is_explained_for_its_own_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.ndjson", tmp_path / "b.ndjson"
    first.write_bytes(b"")
    json_file(second, {"foo": 1})
    dead = next(record for record in read_archive([first, second]) if isinstance(record, DeadLetter))
    assert "among foo" in explain_unknown(first, dead)


def test_messages_beside_rows_are_still_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(message(0) + b"\n")
    text_file(tmp_path / "b.txt", HEADER, LINE)
    with pytest.raises(InputError, match="read them apart"):
        read_archive([tmp_path / "a.ndjson", tmp_path / "b.txt"])


def test_lines_of_json_named_csv_are_named(tmp_path: Path) -> None:
    path = text_file(tmp_path / "a.csv", json.dumps(ROW))
    assert len(ticks(path)) == 1
