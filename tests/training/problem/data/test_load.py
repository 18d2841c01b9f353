"""One loader: recordings of every format and feature files become rows of forecasts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from pipeline.archive import ReadOptions
from tests.training.problem.data.files import quotes_table, write_features, write_quotes
from tests.training.synthetic import START_NS, market, write_recording
from training.problem.data import Dataset, load
from training.problem.target import DEFAULT_TARGET, NS_PER_S

REASONS = ("not_used", "not_warm", "not_finite", "outcome_unknown", "thinned", "rows")
CASES = (
    Path(os.environ.get("VOLCAST_DATA_DIR", Path(__file__).resolve().parents[5] / "shared" / "data")).parent / "cases"
)
PRODUCT = ReadOptions(product="BTC-USD")


def adds_up(dataset: Dataset) -> bool:
    return sum(dataset.counts.get(reason, 0) for reason in REASONS) == dataset.counts["ticks"]


@pytest.fixture(scope="module")
def ticks_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("ticks") / "BTC-USD_a.ndjson", *market(1200, seed=3))


@pytest.fixture
def quotes_file(tmp_path: Path) -> Path:
    return write_quotes(tmp_path / "quotes.parquet", quotes_table())


@pytest.mark.parametrize(("schema", "warm_s"), [(CORE_1, 60), (FULL_1, 300), (FULL_2, 300)], ids=lambda each: str(each))
def test_a_recording_passes_through_the_live_decoder_and_engine(
    ticks_file: Path, schema: FeatureSchema, warm_s: int
) -> None:
    dataset = load([ticks_file], schema=schema, sample_period_s=0)
    assert (dataset.kind, dataset.products, dataset.schema) == ("ticks", ("BTC-USD",), schema)
    assert dataset.counts["ticks"] == 1200
    assert dataset.counts["not_warm"] == warm_s
    assert adds_up(dataset)


def test_core_rows_are_a_part_of_full_rows(ticks_file: Path) -> None:
    core, full = load([ticks_file], schema=CORE_1).rows, load([ticks_file]).rows
    same = np.isin(core.time_ns, full.time_ns)
    assert full.schema == FULL_2
    assert np.array_equal(full.features[:, :11], core.features[same])
    assert np.array_equal(full.outcome_bps, core.outcome_bps[same])


def test_a_break_between_files_is_a_gap_with_its_reason(tmp_path: Path) -> None:
    time_ns, mid = market(1200, seed=3)
    write_recording(tmp_path / "a.ndjson", time_ns[:600], mid[:600])
    write_recording(tmp_path / "b.ndjson", time_ns[600:] + 900 * NS_PER_S, mid[600:])
    dataset = load([tmp_path], schema=CORE_1)
    [hole] = dataset.gaps
    assert (hole.product, hole.reason, hole.seconds) == ("BTC-USD", "reconnect", 901.0)
    assert hole.start_ns == START_NS + 599 * NS_PER_S
    assert len(dataset.rows.recordings) == 1
    assert adds_up(dataset)


@pytest.mark.parametrize("schema", [CORE_1, FULL_2], ids=lambda schema: schema.name)
def test_a_feature_file_gives_the_rows_of_its_recording(tmp_path: Path, schema: FeatureSchema) -> None:
    time_ns, mid = market(1800, seed=3)
    for number, (start, stop) in enumerate([(0, 700), (700, 800), (800, 1800)]):
        write_recording(tmp_path / f"{number}.ndjson", time_ns[start:stop] + number * 10**9, mid[start:stop])
    recorded = load(sorted(tmp_path.glob("*.ndjson")), schema=schema)
    (tmp_path / "out").mkdir()
    for path in sorted(tmp_path.glob("*.ndjson")):
        write_features(tmp_path / "out" / f"{path.stem}.parquet", path, schema)
    stored = load([tmp_path / "out"])
    assert (stored.kind, stored.schema, stored.recorded) == ("features", schema, ())
    assert np.array_equal(stored.rows.features, recorded.rows.features)
    assert np.array_equal(stored.rows.time_ns, recorded.rows.time_ns)
    assert stored.rows.outcome_bps == pytest.approx(recorded.rows.outcome_bps, rel=1e-9)
    assert {hole.reason for hole in stored.gaps} == {"cold"}
    assert adds_up(stored)


def test_quotes_are_a_flat_recording_whose_columns_are_guessed_and_reported(quotes_file: Path) -> None:
    dataset = load([quotes_file], options=PRODUCT)
    (form,) = dataset.formats
    assert (dataset.kind, form.format, form.product) == ("quotes", "Parquet", "BTC-USD")
    assert form.columns == {"time": "ts_utc", "bid": "bid", "ask": "ask"}
    assert sorted(form.guessed) == ["ask", "bid", "time"]
    row = 100
    first = int(np.searchsorted(dataset.ticks.time_ns, dataset.rows.time_ns[row]))
    squares = np.square(np.diff(np.log(dataset.ticks.mid[first : first + 13])))
    assert dataset.rows.outcome_bps[row] == pytest.approx(1e4 * np.sqrt(squares.sum()), rel=1e-9)


def test_refused_quotes_are_counted_by_reason(tmp_path: Path) -> None:
    table = quotes_table()
    table["bid"][[3, 4]] = table["ask"][[3, 4]] + 1
    table["ask"][[9, 10, 11]] = 0.0
    dataset = load([write_quotes(tmp_path / "q.parquet", table)], options=PRODUCT)
    assert dataset.counts["dead_crossed_quote"] == 2
    assert dataset.counts["ticks"] == 1495
    assert adds_up(dataset)


@pytest.mark.parametrize(("days", "recordings"), [(29, 1), (31, 2)])
def test_rows_more_than_thirty_days_apart_are_different_recordings(tmp_path: Path, days: int, recordings: int) -> None:
    table = quotes_table(1500)
    table["ts_utc"][750:] += np.timedelta64(days, "D")
    options = PRODUCT
    dataset = load([write_quotes(tmp_path / "q.parquet", table)], options=options)
    [hole] = dataset.gaps
    inside = (dataset.rows.time_ns > hole.start_ns - 60 * NS_PER_S) & (dataset.rows.time_ns < hole.end_ns)
    assert hole.reason == "clock"
    assert not inside.any()
    assert len(dataset.rows.recordings) == len(dataset.recorded) == recordings
    assert np.unique(dataset.rows.recording).tolist() == list(range(recordings))


def test_files_of_different_formats_are_different_recordings_in_time_order(ticks_file: Path, quotes_file: Path) -> None:
    dataset = load([ticks_file, quotes_file], options=PRODUCT)
    assert dataset.kind == "ticks+quotes"
    assert dataset.rows.recordings == ("quotes of 2021-05-03", "ticks of 2025-12-01")
    assert [len(each.columns) for each in dataset.recorded] == [1500, 1200]
    assert dataset.products == ("BTC-USD",)
    assert (np.diff(dataset.rows.recording) >= 0).all()
    assert adds_up(dataset)


def test_feature_files_and_their_recording_are_different_recordings(tmp_path: Path) -> None:
    both = [write_recording(tmp_path / "a.ndjson", *market(400, seed=3))]
    both += [write_features(tmp_path / "f.parquet", both[0]), write_quotes(tmp_path / "q.parquet", quotes_table())]
    names = load(both, schema=CORE_1, options=PRODUCT).rows.recordings
    assert names == ("quotes of 2021-05-03", "ticks of 2025-12-01", "features of 2025-12-01")


def test_a_constant_feature_is_noted(ticks_file: Path, tmp_path: Path) -> None:
    table = quotes_table()
    table["bid"][:], table["ask"][:] = 100.0, 100.0
    still = load([write_quotes(tmp_path / "still.parquet", table)], options=PRODUCT)
    assert any(note.startswith("feature volatility: 0 in all") for note in still.notes)
    assert set(still.rows.outcome_bps) == {DEFAULT_TARGET.floor_bps}
    with pytest.raises(InputError, match="the mid never moved in the 60 s after any of"):
        still.require_moves()
    assert not any("feature volatility:" in note for note in load([ticks_file]).notes)


def test_the_fingerprint_is_of_names_and_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        write_quotes(folder / "q.parquet", quotes_table())
    same = load([first], options=PRODUCT).sha256, load([second], options=PRODUCT).sha256
    write_quotes(second / "q.parquet", quotes_table(seed=1))
    assert same[0] == same[1] != load([second], options=PRODUCT).sha256


def test_progress_names_each_step(quotes_file: Path) -> None:
    steps: list[str] = []
    load([quotes_file], options=PRODUCT, progress=steps.append)
    assert steps == ["computing full/2 for 1,500 quotes", "computing the outcomes of 1,500 ticks"]


@pytest.mark.parametrize(
    "name", ["flat_iso.ndjson.gz", "flat_epoch_two_products.ndjson.gz", "flat_mid_and_spread.parquet"]
)
def test_the_flat_cases_are_read(name: str) -> None:
    path = CASES / "feed" / name
    if not path.exists():
        pytest.skip("the small inputs are not on this machine")
    options = ReadOptions(product="BTC-USD") if name.endswith(".parquet") else ReadOptions()
    dataset = load([path], schema=CORE_1, options=options)
    assert len(dataset.formats) == 1
    assert len(dataset.rows) > 0
    assert adds_up(dataset)


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def cut_off(folder: Path) -> Path:
    path = write_quotes(folder / "q.parquet", quotes_table())
    path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut_off, "not a complete Parquet file"),
        (text("t.ndjson", ""), "no tick in .*t.ndjson: it holds no message and no row"),
        (text("t.ndjson", "hello\n"), "no tick in .*: the format is not known; first reason, at .*t.ndjson:1"),
        (text("m.csv", "a,b\n1,2\n"), "m.csv: the format is not known: as CSV rows it lacks a column for time"),
        (
            lambda folder: write_quotes(folder / "q.parquet", {"a": [1]}),
            "the format is not known: as Parquet rows .* try --columns time=COLUMN,bid=COLUMN,ask=COLUMN",
        ),
        (lambda folder: folder / "absent", "absent: no such file"),
        (
            lambda folder: write_quotes(folder / "q.parquet", quotes_table(60)),
            "too little data: no row of 60 ticks can be used; a row needs 300 s of unbroken data before it .full/2. "
            "and 65 s after it, and the longest unbroken stretch lasts 295 s",
        ),
    ],
)  # fmt: skip
def test_a_file_that_gives_no_row_is_refused_in_a_line(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load([make(tmp_path)], options=PRODUCT)
    assert "\n" not in str(caught.value)


def test_quotes_without_a_product_are_refused_with_the_option(quotes_file: Path) -> None:
    with pytest.raises(InputError, match="add --product NAME"):
        load([quotes_file])


def test_a_feature_file_of_another_schema_version_is_refused(tmp_path: Path, ticks_file: Path) -> None:
    path = write_features(tmp_path / "f.parquet", ticks_file)
    table = pq.read_table(path)
    old = {b"volcast.schema.name": b"core/1", b"volcast.schema.hash": b"0123456789ab"}
    pq.write_table(table.replace_schema_metadata(old), tmp_path / "old.parquet")
    with pytest.raises(InputError, match=r"schema core/1 \(\w+\), got one of another version \(0123456789ab\)"):
        load([tmp_path / "old.parquet"])
    pq.write_table(table.replace_schema_metadata(old | {b"volcast.schema.name": b"core/9"}), tmp_path / "new.parquet")
    with pytest.raises(InputError, match="expected schema core/1 or full/1 or full/2, got core/9"):
        load([tmp_path / "new.parquet"])
    with pytest.raises(InputError, match=r"f\.parquet: expected schema full/1 .*, got core/1"):
        load([path], schema=FULL_1)


def test_a_feature_that_is_always_nan_is_named(tmp_path: Path, ticks_file: Path) -> None:
    table = pq.read_table(write_features(tmp_path / "f.parquet", ticks_file))
    nan = pa.array(np.full(len(table), np.nan))
    number = table.schema.get_field_index("spread_rel")
    pq.write_table(table.set_column(number, table.schema.field(number), nan), tmp_path / "nan.parquet")
    with pytest.raises(InputError, match="feature spread_rel: NaN or infinite in all 1140 rows; expected numbers"):
        load([tmp_path / "nan.parquet"])
