"""Damaged rows and files of flat recordings: a dead letter, or a line that names the file."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from pipeline.archive import read_archive
from pipeline.records import DeadLetter, Tick

HEAD = b"product,time,bid,ask,sequence\n"
GOOD = b"BTC-USD,1767225600000000000,1,2,5\n"


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"BTC-USD,1767225600000000000,1\r,2,5\n", "new-line character"),
        (b"x" * 200_000 + b",1767225600000000000,1,2,5\n", "field larger than field limit"),
        (b'"' + b"x" * 200_000 + b'",1767225600000000000,1,2,5\n', "field larger than field limit"),
    ],
    ids=["carriage return", "long cell", "long quoted cell"],
)
def test_a_line_that_is_no_csv_is_a_dead_letter(tmp_path: Path, line: bytes, detail: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(HEAD + GOOD + line + GOOD.replace(b"000,1", b"001,1"))
    first, dead, last = read_archive([file])
    assert isinstance(first, Tick)
    assert isinstance(last, Tick)
    assert isinstance(dead, DeadLetter)
    assert detail in dead.detail


def test_a_header_that_is_no_csv_is_no_known_format(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(HEAD.replace(b"bid", b"b\rid") + GOOD)
    with pytest.raises(InputError, match="the format is not known"):
        read_archive([file])


@pytest.mark.parametrize(("text", "number"), [("0" * 5000 + "7", 7), ("9223372036854775807", 2**63 - 1), ("0" * 9, 0)])
def test_a_number_may_have_any_count_of_digits(tmp_path: Path, text: str, number: int) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(HEAD + b"BTC-USD,1767225600000000000,1,2," + text.encode() + b"\n")
    (tick,) = read_archive([file])
    assert isinstance(tick, Tick)
    assert tick.sequence_num == number


def test_damage_anywhere_in_a_parquet_file_is_named(tmp_path: Path) -> None:
    times = list(range(1767225600 * 10**9, 1767225600 * 10**9 + 200))
    table = pa.table({"product": ["BTC-USD"] * 200, "time": times, "bid": [1.0] * 200, "ask": [2.0] * 200})
    file, draw = tmp_path / "a.parquet", random.Random(3)
    pq.write_table(table, file)
    whole = file.read_bytes()
    refused: list[str] = []
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 3, 10))):
            damaged[draw.randrange(4, len(damaged))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            list(read_archive([file]))
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(str(file) in line for line in refused)


@pytest.mark.parametrize("foreign", [b'{"stream":"btcusdt@bookTicker","data":{}}', b'{"channel":"ticker","events":[]}'])
def test_a_message_of_an_exchange_among_rows_is_a_dead_letter(tmp_path: Path, foreign: bytes) -> None:
    file = tmp_path / "a.jsonl"
    row = b'{"product":"BTC-USD","time":176722560000%d000000,"bid":1,"ask":2,"sequence":%d}'
    lines = [row % (number, number) for number in range(1, 9)]
    file.write_bytes(b"\n".join([*lines[:4], foreign, *lines[4:]]))
    results = list(read_archive([file]))
    assert [type(each) for each in results] == [Tick] * 4 + [DeadLetter] + [Tick] * 4
