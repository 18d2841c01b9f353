from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError, UsageError
from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.datasets import coinbase_ticker_2025, data_dir
from tests.training.problem.data.files import (
    FIRST_MINUTE,
    MINUTES_HEADER,
    QUOTES_START_NS,
    minute_lines,
    quotes_table,
    write_features,
    write_minutes,
    write_quotes,
)
from tests.training.synthetic import START_NS, market, write_recording
from training.problem.data import Dataset, load
from training.problem.schemas import MINUTES_1, QUOTES_1
from training.problem.ticks import NS_PER_S


def adds_up(dataset: Dataset) -> bool:
    """Whether every tick read is a row, or dropped for one reason."""
    counts = {
        name: count
        for name, count in dataset.counts.items()
        if name not in ("ticks", "gaps") and not name.startswith(("dead_", "late_"))
    }
    return dataset.counts["ticks"] == sum(counts.values()) and counts["rows"] == len(dataset.rows)


@pytest.fixture(scope="module")
def ticks_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty minutes of one tick a second."""
    return write_recording(tmp_path_factory.mktemp("ticks") / "BTC-USD_a.ndjson", *market(1200, seed=3))


@pytest.fixture
def quotes_file(tmp_path: Path) -> Path:
    return write_quotes(tmp_path / "quotes.parquet", quotes_table())


@pytest.mark.parametrize(("schema", "warm_s"), [(CORE_1, 60), (FULL_1, 300)], ids=["core/1", "full/1"])
def test_a_recording_comes_through_the_live_decoder_and_engine(
    ticks_file: Path, schema: FeatureSchema, warm_s: int
) -> None:
    dataset = load([ticks_file], schema=schema)
    assert (dataset.kind, dataset.products, dataset.window_s) == ("ticks", ("BTC-USD",), warm_s)
    assert dataset.counts["ticks"] == 1200
    assert len(dataset.rows) == 1200 - warm_s - 60
    assert adds_up(dataset)


def test_full_rows_hold_core_rows(ticks_file: Path) -> None:
    core, full = load([ticks_file], schema=CORE_1).rows, load([ticks_file]).rows
    same = np.isin(core.time_ns, full.time_ns)
    assert full.schema == FULL_1
    assert np.array_equal(full.features[:, :11], core.features[same])
    assert np.array_equal(full.future_volatility, core.future_volatility[same])


def test_pieces_with_a_hole_between_give_a_gap_that_says_where_and_why(tmp_path: Path) -> None:
    time_ns, mid = market(1200, seed=3)
    write_recording(tmp_path / "a.ndjson", time_ns[:600], mid[:600])
    write_recording(tmp_path / "b.ndjson", time_ns[600:] + 900 * NS_PER_S, mid[600:])
    dataset = load([tmp_path], schema=CORE_1)
    [hole] = dataset.gaps
    assert (hole.product, hole.reason, hole.seconds) == ("BTC-USD", "reconnect", 901.0)
    assert hole.start_ns == START_NS + 599 * NS_PER_S
    assert adds_up(dataset)


@pytest.mark.parametrize("schema", [CORE_1, FULL_1], ids=lambda schema: schema.name)
def test_a_feature_file_gives_the_rows_of_its_recording(tmp_path: Path, schema: FeatureSchema) -> None:
    time_ns, mid = market(1800, seed=3)
    for number, (start, stop) in enumerate([(0, 700), (700, 800), (800, 1800)]):
        write_recording(tmp_path / f"{number}.ndjson", time_ns[start:stop] + number * 10**9, mid[start:stop])
    recorded = load(sorted(tmp_path.glob("*.ndjson")), schema=schema)
    (tmp_path / "out").mkdir()
    for path in sorted(tmp_path.glob("*.ndjson")):
        write_features(tmp_path / "out" / f"{path.stem}.parquet", path, schema)
    stored = load([tmp_path / "out"])
    assert (stored.kind, stored.rows.schema) == ("features", schema)
    assert np.array_equal(stored.rows.features, recorded.rows.features)
    assert np.array_equal(stored.rows.time_ns, recorded.rows.time_ns)
    assert stored.rows.future_volatility == pytest.approx(recorded.rows.future_volatility, rel=1e-9)
    assert {hole.reason for hole in stored.gaps} == {"cold"}
    assert adds_up(stored)


def test_quotes_give_rows_of_their_mids(quotes_file: Path) -> None:
    dataset = load([quotes_file])
    assert (dataset.kind, dataset.rows.schema, dataset.window_s) == ("quotes", QUOTES_1, 3600)
    assert dataset.rows.time_ns[0] == QUOTES_START_NS + 3600 * NS_PER_S
    squares = np.diff(np.log(dataset.ticks.mid)) ** 2
    first = 3600 // 5
    assert dataset.rows.future_volatility[0] == pytest.approx(math.sqrt(squares[first : first + 12].sum()), rel=1e-9)
    assert dataset.rows.column("volatility")[0] == pytest.approx(math.sqrt(squares[first - 12 : first].sum()), rel=1e-9)
    assert adds_up(dataset)


def test_quotes_that_are_none_are_dropped_and_counted_by_reason(tmp_path: Path) -> None:
    table = quotes_table()
    table["bid"][[3, 4]] = table["ask"][[3, 4]] + 1
    table["bid"][7] = np.nan
    table["ask"][[9, 10, 11]] = 0.0
    table["ts_utc"][20] = table["ts_utc"][19]
    dataset = load([write_quotes(tmp_path / "q.parquet", table)])
    found = {name: dataset.counts[name] for name in ("crossed_quote", "not_a_number", "not_positive", "not_later")}
    assert found == {"crossed_quote": 2, "not_a_number": 1, "not_positive": 3, "not_later": 1}
    assert adds_up(dataset)


def test_a_silence_of_quotes_is_a_gap_that_no_window_spans(tmp_path: Path) -> None:
    table = quotes_table(3000)
    table["ts_utc"][1500:] += np.timedelta64(7, "D")
    dataset = load([write_quotes(tmp_path / "q.parquet", table)])
    [hole] = dataset.gaps
    assert (hole.reason, hole.seconds) == ("silence", 7 * 86_400 + 5)
    inside = (dataset.rows.time_ns > hole.start_ns - 60 * NS_PER_S) & (
        dataset.rows.time_ns < hole.end_ns + 3600 * NS_PER_S
    )
    assert not inside.any()
    assert dataset.counts["label_crosses_gap"] == 12


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_a_time_with_a_zone_is_the_instant_it_names(tmp_path: Path, quotes_file: Path, zone: str) -> None:
    table = pa.table(quotes_table())
    zoned = pa.table(
        {**{name: table[name] for name in ("bid", "ask")}, "ts_utc": table["ts_utc"].cast(pa.timestamp("us", tz=zone))}
    )
    pq.write_table(zoned, tmp_path / "zoned.parquet")
    assert np.array_equal(load([tmp_path / "zoned.parquet"]).rows.time_ns, load([quotes_file]).rows.time_ns)


def test_minutes_give_rows_whose_label_is_the_next_minutes_range(tmp_path: Path) -> None:
    lines = minute_lines()
    dataset = load([write_minutes(tmp_path / "BTC-USD_x.csv.gz", lines)])
    assert (dataset.kind, dataset.rows.schema, dataset.products) == ("minutes", MINUTES_1, ("BTC-USD",))
    assert dataset.rows.time_ns[0] == (FIRST_MINUTE + 61) * 60 * NS_PER_S
    high, low = map(float, lines[61].split(",")[-2:])
    assert dataset.rows.future_volatility[0] == pytest.approx(math.log(high / low) / math.sqrt(4 * math.log(2)))
    assert adds_up(dataset)


def test_minutes_in_which_the_recorder_stood_still_are_dropped_and_a_long_run_is_a_gap(tmp_path: Path) -> None:
    lines = minute_lines(400)
    for number in [100, *range(200, 210)]:
        lines[number] = ",".join(lines[number].split(",")[:6]) + ",,,,,"
    dataset = load([write_minutes(tmp_path / "m.csv", lines)])
    assert dataset.counts["recorder_stood_still"] == 11
    assert [hole.seconds for hole in dataset.gaps] == [660.0]
    assert (FIRST_MINUTE + 100) * 60 * NS_PER_S not in dataset.rows.time_ns
    assert adds_up(dataset)


def test_a_longer_horizon_of_minutes_adds_their_variances(tmp_path: Path) -> None:
    path = write_minutes(tmp_path / "m.csv", minute_lines())
    one, three = load([path]).rows, load([path], horizon_s=180).rows
    assert three.future_volatility[0] ** 2 == pytest.approx(np.sum(one.future_volatility[:3] ** 2))
    with pytest.raises(InputError, match="whole minutes, got 90 s"):
        load([path], horizon_s=90)


def test_a_constant_feature_is_noted_and_stops_nothing(ticks_file: Path, tmp_path: Path) -> None:
    table = quotes_table()
    table["bid"][:], table["ask"][:] = 100.0, 100.0
    notes = load([write_quotes(tmp_path / "still.parquet", table)]).notes
    assert "feature volatility: 0 in all 768 rows" in notes
    assert not any("feature volatility:" in note for note in load([ticks_file]).notes)


def test_the_fingerprint_is_of_names_and_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, seed in ((first, 0), (second, 0)):
        folder.mkdir()
        write_minutes(folder / "m.csv", minute_lines(seed=seed))
    same = load([first]).sha256, load([second]).sha256
    write_minutes(second / "m.csv", minute_lines(seed=1))
    assert same[0] == same[1] != load([second]).sha256


def test_progress_tells_each_step(quotes_file: Path) -> None:
    steps: list[str] = []
    load([quotes_file], progress=steps.append)
    assert steps == ["reading 1 files of quotes", "computing quotes/1 for 1,500 quotes", "labelling 1,500 rows"]


def quotes_with(**columns: Any) -> Callable[[Path], Path]:
    return lambda folder: write_quotes(folder / "q.parquet", quotes_table() | columns)


def cut_off(folder: Path) -> Path:
    path = write_quotes(folder / "q.parquet", quotes_table())
    path.write_bytes(path.read_bytes()[:-100])
    return path


def flipped(folder: Path) -> Path:
    path = folder / "q.parquet"
    pq.write_table(pa.table(quotes_table()), path, write_page_checksum=True, compression="none")
    raw = bytearray(path.read_bytes())
    raw[3000] ^= 0xFF
    path.write_bytes(raw)
    return path


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def cut_off_gzip(folder: Path) -> Path:
    path = folder / "m.csv.gz"
    path.write_bytes(gzip.compress("\n".join([MINUTES_HEADER, *minute_lines()]).encode())[:-400])
    return path


REVERSED = {name: values[::-1].copy() for name, values in quotes_table().items()}
EMPTY = {name: values[:0] for name, values in quotes_table().items()}
NO_NUMBERS = np.full(1500, np.nan)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            cut_off,
            r"q.parquet: not a complete Parquet file: expected PAR1 at both ends, got b'.*' at the end of [\d,]+ "
            "bytes, as if it were cut off$",
        ),
        (flipped, "q.parquet: ts_utc: damaged: .*CRC checksum"),
        (text("q.parquet", ""), "q.parquet: not a complete Parquet file: expected PAR1 at both ends, got 0 bytes$"),
        (text("q.parquet", "hello there"), "expected PAR1 at both ends, got b'hell' at its beginning$"),
        (text("q.parquet", "PAR1____PAR1"), "expected a footer that can be read, got Parquet file size is 12 bytes"),
        (quotes_with(bid=NO_NUMBERS), "q.parquet: bid: expected numbers, got 1500 times NaN"),
        (quotes_with(bid=["1"] * 1500), "q.parquet: bid: expected numbers, got string"),
        (quotes_with(ts_utc=["2021-01-01"] * 1500), "q.parquet: ts_utc: expected timestamps, got string"),
        (
            quotes_with(ts_utc=pa.array([None] * 1500, pa.timestamp("us"))),
            "q.parquet: ts_utc: 1500 of 1500 times are missing",
        ),
        (
            quotes_with(ts_utc=np.full(1500, 2**61).astype("datetime64[us]")),
            "q.parquet: ts_utc: expected times between the years 1678 and 2262, got 2305843009213693952 to "
            "2305843009213693952 us since 1970$",
        ),
        (quotes_with(**REVERSED), "ts_utc: 1499 of 1500 times are not later .* row 2;"),
        (quotes_with(bid=np.full(1500, 1e9)), "no usable quote in 1500 rows"),
        (
            lambda folder: write_quotes(folder / "q.parquet", quotes_table(100)),
            "too little data: no row of 100 can be used; one takes 3600 s of unbroken data before it .quotes/1. and "
            "60 s after it, and the longest unbroken stretch lasts 495 s",
        ),
        (quotes_with(**EMPTY), "q.parquet: no usable quote in 0 rows"),
        (
            lambda folder: write_quotes(folder / "q.parquet", {"a": [1]}),
            "q.parquet: expected a feature file .* or quotes with columns ts_utc, bid, ask; it has a",
        ),
        (
            lambda folder: write_quotes(folder / "q.parquet", {f"c{number}": [1] for number in range(60)}),
            "; it has c0, c1, c2, c3, c4, c5 and 54 more$",
        ),
        (text("m.csv", ""), "m.csv: no column minute_epoch"),
        (text("m.csv", "a,b\n1,2\n"), "m.csv: no column minute_epoch; the first line is 'a,b'"),
        (text("m.csv", f"{MINUTES_HEADER}\n"), "m.csv: no usable minute in 0 rows"),
        (text("m.csv", f"{MINUTES_HEADER}\n1,t,x,0,0,d,1,1,1,1,1\n"), "m.csv:2: close: expected a number, got 'x'"),
        (text("m.csv", f"{MINUTES_HEADER}\n1,t,,0,0,d,1,1,1,1,1\n"), "m.csv:2: close: expected a number, got nothing"),
        (text("m.csv", f"{MINUTES_HEADER}\n1,t,2\n"), "m.csv:2: expected 11 fields or more, got 3"),
        (cut_off_gzip, "m.csv.gz: damaged: "),
        (text("t.ndjson", ""), "no tick in .*t.ndjson"),
        (text("t.ndjson", "hello\n"), "no tick in .*; the first line that is none: .*t.ndjson:1"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load([make(tmp_path)])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) - len(str(tmp_path)) < 200


def test_whole_numbers_that_doubles_round_are_numbers(tmp_path: Path) -> None:
    huge = np.full(1500, 2**63 + 1, np.uint64)
    assert load([quotes_with(bid=huge, ask=huge)(tmp_path)]).counts["not_a_number"] == 0


def test_a_feature_file_of_another_schema_version_is_refused(tmp_path: Path, ticks_file: Path) -> None:
    path = write_features(tmp_path / "f.parquet", ticks_file)
    table = pq.read_table(path)
    old = {b"volcast.schema.name": b"core/1", b"volcast.schema.hash": b"0123456789ab"}
    pq.write_table(table.replace_schema_metadata(old), tmp_path / "old.parquet")
    with pytest.raises(
        InputError, match=r"expected schema core/1 \(\w+\), got one of another version \(0123456789ab\)"
    ):
        load([tmp_path / "old.parquet"])
    pq.write_table(table.replace_schema_metadata(old | {b"volcast.schema.name": b"core/9"}), tmp_path / "new.parquet")
    with pytest.raises(InputError, match="expected schema core/1 or full/1 or full/2, got core/9"):
        load([tmp_path / "new.parquet"])
    with pytest.raises(InputError, match=r"f\.parquet: expected schema full/1 .*, got core/1"):
        load([path], schema=FULL_1)


def test_a_feature_that_is_nan_throughout_is_named(tmp_path: Path, ticks_file: Path) -> None:
    table = pq.read_table(write_features(tmp_path / "f.parquet", ticks_file))
    nan = pa.array(np.full(len(table), np.nan))
    number = table.schema.get_field_index("spread_rel")
    pq.write_table(table.set_column(number, table.schema.field(number), nan), tmp_path / "nan.parquet")
    with pytest.raises(InputError, match="feature spread_rel: NaN or infinite in all 1140 rows; expected numbers"):
        load([tmp_path / "nan.parquet"])


def test_kinds_are_not_mixed_and_schemas_not_given_to_files_that_cannot_have_them(
    tmp_path: Path, quotes_file: Path, ticks_file: Path
) -> None:
    with pytest.raises(InputError, match=r"quotes\.parquet: holds quotes, but BTC-USD_a\.ndjson holds ticks"):
        load([ticks_file, quotes_file])
    with pytest.raises(UsageError, match="schema core/1: quotes give quotes/1"):
        load([quotes_file], schema=CORE_1)
    with pytest.raises(InputError, match="absent: no such file"):
        load([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: the directory holds no data \(\.parquet, "):
        load([tmp_path / "empty"])


@pytest.mark.slow
def test_the_real_recordings_add_up() -> None:
    root = data_dir()
    if root is None:
        pytest.skip("the real recordings are not on this machine (VOLCAST_DATA_DIR)")
    quotes = load([root / "btc_quotes_5s_2021.parquet"])
    assert (quotes.counts["ticks"], quotes.counts["crossed_quote"]) == (357_424, 120)
    assert max(hole.seconds for hole in quotes.gaps) == pytest.approx(561_567, abs=1)
    minutes = load([root / "coinbase_1min"])
    assert (minutes.counts["ticks"], minutes.counts["recorder_stood_still"]) == (64_906, 15_042)
    ticks = load(coinbase_ticker_2025())
    assert (ticks.counts["ticks"], len(ticks.gaps)) == (73_334, 29)
    assert adds_up(quotes)
    assert adds_up(minutes)
    assert adds_up(ticks)
