"""Recordings as rows: features of the engine, and the outcome after each row."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from common.schema import CORE_1, FULL_2
from pipeline.archive import ReadOptions, read_archive
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine
from pipeline.records import Tick
from training import DATASETS
from training.problem import recordings
from training.problem.data.dataset import Dataset
from training.problem.data.load import load
from training.problem.forecast_rows import ForecastRows, pooled
from training.problem.recordings import (
    POLL_SILENCE_S,
    Recording,
    dataset_recordings,
    known_recordings,
    read_recording,
    read_recordings,
)
from training.problem.target import NS_PER_S

BEGIN_S = 1_700_000_000


def polled(folder: Path, seconds: list[int], name: str = "polled", product: str = "BTC-USD") -> Recording:
    """Quotes at these seconds after BEGIN_S, with mids that are a random walk of the time."""
    walk = 100_000 + np.cumsum(np.random.default_rng(1).normal(scale=5, size=max(seconds) + 1))
    mid = walk[seconds]
    table = {
        "ts_utc": pa.array([(BEGIN_S + second) * 1_000_000 for second in seconds], pa.timestamp("us")),
        "bid": mid - 1,
        "ask": mid + 1,
        "mark": mid,
    }
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(table), path)
    return Recording(name, (path,), ReadOptions({"time": "ts_utc"}, product, POLL_SILENCE_S * NS_PER_S))


def test_every_tick_is_a_row_or_counted_by_reason(tmp_path: Path) -> None:
    rows = read_recording(polled(tmp_path, [*range(900), *range(1000, 1900)]), FULL_2, 5)
    counts = dict(rows.counts)
    assert counts["ticks"] == 1800
    assert counts["gaps"] == 1
    assert counts["not_warm"] == 2 * 300  # five minutes after the beginning and after the gap
    reasons = ("not_used", "not_warm", "not_finite", "outcome_unknown", "thinned", "rows")
    assert sum(counts[reason] for reason in reasons) == 1800
    assert counts["rows"] == len(rows)


def test_a_row_is_the_first_usable_row_of_its_period(tmp_path: Path) -> None:
    recording = polled(tmp_path, list(range(900)))
    every, some = (read_recording(recording, FULL_2, period) for period in (0, 20))
    periods = every.time_ns // (20 * NS_PER_S)
    first = np.flatnonzero(np.diff(periods, prepend=0))
    assert np.array_equal(some.time_ns, every.time_ns[first])
    assert np.array_equal(some.features, every.features[first])
    assert np.array_equal(some.outcome_bps, every.outcome_bps[first])


@pytest.mark.parametrize("schema", [CORE_1, FULL_2])
def test_features_have_the_bits_of_the_engine(tmp_path: Path, schema: object) -> None:
    recording = polled(tmp_path, list(range(0, 900, 5)))
    wanted = {"core/1": CORE_1, "full/2": FULL_2}[schema.name]  # type: ignore[attr-defined]
    rows = read_recording(recording, wanted, 5)
    ticks = [each for each in read_archive(recording.files, recording.options) if isinstance(each, Tick)]
    engine = FeatureEngine(wanted)
    live = [engine.update(TickColumns.from_records([tick], codes)) for codes in [ProductCodes()] for tick in ticks]
    by_time = {tick.event_time_ns: batch.values[0] for tick, batch in zip(ticks, live, strict=True)}
    assert len(rows) > 50
    for time_ns, features in zip(rows.time_ns.tolist(), rows.features, strict=True):
        assert features.tobytes() == by_time[time_ns].tobytes()


def test_an_outcome_is_that_of_the_rows_time(tmp_path: Path) -> None:
    rows = read_recording(polled(tmp_path, list(range(900))), CORE_1, 5)
    mids = dict(zip((rows.time_ns // NS_PER_S).tolist(), rows.features[:, 1], strict=True))
    second = next(second for second in mids if second % 5 == 0 and second + 60 in mids)
    path = np.log([mids[second + 5 * step] for step in range(13)])
    (row,) = np.flatnonzero(rows.time_ns == second * NS_PER_S)
    assert rows.outcome_bps[row] == pytest.approx(1e4 * np.sqrt(np.sum(np.diff(path) ** 2)))


def test_pooled_rows_keep_their_recording_and_product(tmp_path: Path) -> None:
    parts = [
        read_recording(polled(tmp_path, list(range(600)), "first"), CORE_1, 5),
        read_recording(polled(tmp_path, list(range(500)), "second", "ETH-USD"), CORE_1, 5),
    ]
    rows = pooled(parts)
    assert rows.recordings == ("first", "second")
    for number, part in enumerate(parts):
        of_part = rows.take(rows.recording == number)
        assert np.array_equal(of_part.features, part.features)
        assert {rows.products[code] for code in of_part.product} == set(part.products)
    assert rows.counts["rows"] == len(rows) == len(parts[0]) + len(parts[1])


def test_rows_of_different_schemas_are_not_pooled(tmp_path: Path) -> None:
    recording = polled(tmp_path, list(range(600)))
    with pytest.raises(ValueError, match="one schema"):
        pooled([read_recording(recording, schema, 5) for schema in (CORE_1, FULL_2)])


def test_a_recording_too_short_for_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too little data: no row of 200 ticks can be used"):
        read_recording(polled(tmp_path, list(range(200))), FULL_2, 5)


@pytest.mark.skipif(len(known_recordings()) < 4, reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
def test_ticks_and_polled_mids_have_the_same_features_and_target() -> None:
    perpetual = known_recordings()[2]
    rows: ForecastRows = read_recording(replace(perpetual, name="perpetual"), FULL_2, 20)
    assert len(rows) > 900
    assert np.isfinite(rows.features).all()
    trailing = rows.features[:, FULL_2.names.index("grid_volatility_1800s")] * 1e4
    assert np.corrcoef(np.log(trailing), np.log(rows.outcome_bps))[0, 1] > 0.4


def test_data_sets_name_recordings_by_their_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "coinbase_ticker").mkdir()
    for name in (
        "btc_quotes_5s_2021.parquet",
        "btc_mids_1s_dydx_202512.parquet",
        "btc_quotes_1s_usdm_20251130.parquet",
        "coinbase_ticker/BTC-USD_20251201T050000Z.ndjson.gz",
    ):
        (tmp_path / name).touch()
    monkeypatch.setenv("VOLCAST_DATA_DIR", str(tmp_path))
    quotes, mids, perpetual, ticks = known_recordings()
    assert tuple(recordings.DATASETS) == DATASETS
    assert dataset_recordings("ticks") == (ticks,)
    assert dataset_recordings("streams") == (mids, perpetual, ticks)
    assert dataset_recordings("quotes") == (quotes,)
    assert dataset_recordings("recordings") == (quotes, mids, perpetual, ticks)


@pytest.mark.parametrize("with_features", [False, True])
def test_ticks_are_known_unless_a_feature_file_is_among_the_recordings(
    with_features: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(files: tuple[Path, ...], **options: Any) -> Dataset:
        dataset = load(files, **options)
        return replace(dataset, recorded=()) if with_features and files[0].stem == "second" else dataset

    monkeypatch.setattr("training.problem.recordings.load", loaded)
    both = [polled(tmp_path, list(range(900)), name) for name in ("first", "second")]
    data = read_recordings(both, CORE_1, 5, lambda text: None)
    assert data.rows.recordings == ("first", "second")
    assert len(data.recorded) == (0 if with_features else 2)
