"""A backfill of flat recordings, or with gaps by silence, gives the rows of the stream too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.archive import ReadOptions, read_archive
from pipeline.backfill import tasks
from pipeline.backfill.units import flat_unit, recordings, whole
from pipeline.features.table import compute_features
from pipeline.parquet import read_features
from tests.pipeline.backfill.recordings import DAY_NS, FIRST_DAY_NS, three_days
from tests.pipeline.backfill.test_tasks import assert_is_the_stream, computed

BOTH = pytest.mark.parametrize("schema", [CORE_1, FULL_1], ids=lambda schema: schema.name)


def flat_days(folder: Path) -> list[Path]:
    """Three files around two midnights: a product on two venues, a product that begins in the second day, a hole of
    hours within a file, and files that do not end with a day.
    """
    folder.mkdir()
    random = np.random.default_rng(1)
    files, time_ns = [], FIRST_DAY_NS + DAY_NS - 200 * 10**9
    for part in range(3):
        rows = []
        for number in range(400):
            time_ns += int(random.exponential(1.0) * 1e9)
            if part == 1 and number == 200:
                time_ns += 5 * 3600 * 10**9
            mid = 100 + 0.01 * int(random.integers(-5, 6))
            row = {"ts": time_ns, "bid": mid - 0.01, "ask": mid + 0.01, "symbol": "X-USD"}
            rows.append(row | {"exchange": "kraken" if number % 3 else "okx"})
            if part and number % 5 == 0:
                rows.append(row | {"symbol": "Y-USD", "exchange": "okx"})
        path = folder / f"{part}.ndjson"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(path)
        if part == 1:
            time_ns = FIRST_DAY_NS + 2 * DAY_NS - 100 * 10**9
    return files


@BOTH
def test_flat_recordings_give_the_rows_of_the_stream(schema: FeatureSchema, tmp_path: Path) -> None:
    files = flat_days(tmp_path / "in")
    want = compute_features(read_archive(files), schema)
    totals = computed(flat_unit(files), tasks.Plan(schema, tmp_path / "out"))
    assert_is_the_stream(tmp_path / "out", totals, want)
    assert totals.gaps == want.counts.gaps
    assert set(want.rows.product_ids) == {"X-USD", "kraken:X-USD", "Y-USD"}, "okx is seen first"


def test_features_that_the_rows_do_not_allow_are_nan(tmp_path: Path) -> None:
    files = flat_days(tmp_path / "in")
    computed(flat_unit(files), tasks.Plan(CORE_1, tmp_path / "out", blank=("order_book_imbalance",)))
    rows = read_features(tmp_path / "out")
    column = CORE_1.names.index("order_book_imbalance")
    assert np.isnan(rows.values[:, column]).all()
    assert not np.isnan(rows.values[rows.warm][:, column - 1]).any()


@BOTH
def test_gaps_by_silence_are_those_of_the_stream(schema: FeatureSchema, tmp_path: Path) -> None:
    files = three_days(tmp_path / "in", every_s=5.0)
    options = ReadOptions(gap_after_ns=20 * 10**9)
    want = compute_features(read_archive(files, options), schema)
    totals = computed(whole(recordings(files)), tasks.Plan(schema, tmp_path / "out", options))
    assert_is_the_stream(tmp_path / "out", totals, want)
    assert totals.gaps["silence"] == want.counts.gaps["silence"] > 10


def test_two_venues_of_a_product_never_share_a_window(tmp_path: Path) -> None:
    def rows(venues: list[str]) -> Path:
        path = tmp_path / f"{len(venues)}.ndjson"
        lines = [
            {"ts": FIRST_DAY_NS + n * 10**9, "bid": 100 + 50 * (venue == "okx") + n % 3, "ask": 200, "symbol": "X-USD",
             "exchange": venue}
            for n in range(90) for venue in venues
        ]  # fmt: skip
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    alone = compute_features(read_archive([rows(["kraken"])])).rows
    both = compute_features(read_archive([rows(["kraken", "okx"])])).rows
    kraken = np.flatnonzero(np.array(both.product_ids) == "X-USD")
    assert both.values[kraken].tobytes() == alone.values.tobytes()
    assert both.product_ids.count("okx:X-USD") == len(alone)
