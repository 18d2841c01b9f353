"""A run on disk: whole or not there, and the same when it is read again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from common.errors import InputError
from tests.training.runs import Made, first, market_rows
from training.problem.forecast_rows import ForecastRows, pooled
from training.shipping.tracking.evidence import places_of
from training.shipping.tracking.record import (
    Upload,
    code_version,
    find_run,
    read_evidence,
    read_run,
    read_upload,
    run_key,
    runs,
    unreadable,
    write_upload,
)


@pytest.fixture(scope="module")
def made() -> Made:
    return first()


def test_evidence_comes_back_bit_for_bit(made: Made, tmp_path: Path) -> None:
    read = read_evidence(made.write(tmp_path))
    same_rows(read.rows, made.rows)
    assert (read.rows.schema, read.rows.products, read.rows.recordings, read.rows.counts) == (
        made.rows.schema,
        made.rows.products,
        made.rows.recordings,
        made.rows.counts,
    )
    assert [part.name for part in read.parts] == ["fold 1", "fold 2", "fold 3", "final"]
    for part, written in zip(read.parts, made.parts, strict=True):
        same_rows(part.rows, written.rows)
        assert (part.sizes, part.multiples) == (written.sizes, written.multiples)
        assert part.trained_until_ns == written.trained_until_ns
        assert list(part.forecasts) == list(written.forecasts)
        for kind, forecasts in written.forecasts.items():
            for name in ("location", "scale", "levels", "knots"):
                assert_array_equal(getattr(part.forecasts[kind], name), getattr(forecasts, name))
            assert part.forecasts[kind].floor_bps == forecasts.floor_bps


def same_rows(mine: ForecastRows, other: ForecastRows) -> None:
    for name in ("time_ns", "features", "outcome_bps", "product", "recording"):
        assert_array_equal(getattr(mine, name), getattr(other, name))
        assert getattr(mine, name).dtype == getattr(other, name).dtype


def test_rows_of_several_products_and_recordings_have_their_places() -> None:
    rows = market_rows()
    several = dataclasses.replace(
        pooled([rows.take(slice(0, 300)), rows.take(slice(0, 300))]), product=np.tile([0, 1], 300), products=("a", "b")
    )
    wanted = np.random.default_rng(1).permutation(600)[:50]
    assert_array_equal(places_of(several, several.take(wanted)), wanted)
    with pytest.raises(ValueError, match="features differs"):
        places_of(several, dataclasses.replace(several.take(wanted), features=several.features[:50]))
    with pytest.raises(ValueError, match="time_ns differs"):
        places_of(several, dataclasses.replace(several.take(wanted), time_ns=several.time_ns[wanted] + 1))


def test_a_run_whose_parts_have_rows_of_their_own_is_not_written(made: Made, tmp_path: Path) -> None:
    final = made.parts[-1]
    other = dataclasses.replace(final, rows=dataclasses.replace(final.rows, outcome_bps=final.rows.outcome_bps + 1))
    changed = dataclasses.replace(made, parts=[*made.parts[:-1], other])
    with pytest.raises(InputError, match="rows that are not among all rows: outcome_bps differs"):
        changed.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_an_older_format_is_refused(made: Made, tmp_path: Path) -> None:
    folder = made.write(tmp_path)
    run = msgspec.structs.replace(read_run(folder), format=1)
    (folder / "run.json").write_bytes(msgspec.json.encode(run))
    with pytest.raises(InputError, match="format: expected 2, got 1"):
        read_run(folder)


def test_the_verdict_on_look_ahead_is_kept(made: Made, tmp_path: Path) -> None:
    verdict = read_run(made.write(tmp_path)).look_ahead
    assert verdict is not None
    assert made.look_ahead is not None
    assert (verdict.name, verdict.passed, verdict.text) == ("look-ahead", True, made.look_ahead.text)
    assert read_run(dataclasses.replace(made, look_ahead=None).write(tmp_path, 1_765_000_009.0)).look_ahead is None


def test_a_run_says_what_it_was(made: Made, tmp_path: Path) -> None:
    run = read_run(made.write(tmp_path))
    assert run.parameters["horizon_s"] == "60"
    assert run.metrics["final/har/crps"] == made.manifest.metrics["har"]["crps"]
    assert run.data_sha256 == made.manifest.data_sha256
    assert run.code == code_version() != "unknown"
    assert run.id.startswith("volatility-har-20251206T")


def test_a_metric_that_is_no_number_is_left_out_and_the_run_can_be_read(made: Made, tmp_path: Path) -> None:
    changed = dataclasses.replace(made)
    changed.change(walk_forward={"har": {"crps": float("nan"), "brier": 0.1}})
    run = read_run(changed.write(tmp_path))
    assert "walk_forward/har/crps" not in run.metrics
    assert run.metrics["walk_forward/har/brier"] == 0.1


def test_a_full_disk_leaves_nothing(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        made.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_runs_come_oldest_first_and_half_written_ones_not_at_all(made: Made, tmp_path: Path) -> None:
    second, first = made.write(tmp_path, 1_765_000_002.0), made.write(tmp_path, 1_765_000_001.0)
    first.with_name(".half.new-1").mkdir()
    assert [folder for folder, _ in runs(tmp_path)] == [first, second]
    assert unreadable(tmp_path) == []
    assert list(runs(tmp_path / "absent")) == []


def test_a_damaged_run_is_passed_over_and_told(made: Made, tmp_path: Path) -> None:
    good, bad = made.write(tmp_path, 1_765_000_001.0), made.write(tmp_path, 1_765_000_002.0)
    (bad / "run.json").write_text("{")
    assert [folder for folder, _ in runs(tmp_path)] == [good]
    (line,) = unreadable(tmp_path)
    assert str(bad) in line


def test_a_run_is_found_by_its_id_the_beginning_of_it_and_the_servers_id(made: Made, tmp_path: Path) -> None:
    first, second = made.write(tmp_path, 1_765_000_001.0), made.write(tmp_path, 1_765_000_002.0)
    write_upload(second, Upload(uri="http://somewhere", run_id="abc123"))
    assert find_run(tmp_path, first.name) == first
    assert find_run(tmp_path, second.name[:-3]) == second
    assert find_run(tmp_path, "abc123") == second
    assert find_run(tmp_path, "other") is None
    with pytest.raises(InputError, match="2 runs begin so"):
        find_run(tmp_path, "volatility")


def test_how_far_a_run_got_counts_for_one_server_only(made: Made, tmp_path: Path) -> None:
    folder = made.write(tmp_path)
    assert read_upload(folder, "http://one").done == []
    write_upload(folder, Upload(uri="http://one", run_id="r", done=["run", "metrics"]))
    assert read_upload(folder, "http://one").has("metrics")
    assert read_upload(folder, "http://two") == Upload(uri="http://two")


def test_a_key_is_that_of_data_code_and_settings() -> None:
    one = run_key(data="a", code="b", seed=1)
    assert one == run_key(seed=1, code="b", data="a")
    assert one != run_key(data="a", code="b", seed=2)
    assert len(one) == 16


def test_evidence_of_another_schema_is_refused(made: Made, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = made.write(tmp_path)
    path = folder / "evidence" / "rows.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns([name.replace("f:price", "f:other") for name in table.column_names]), path)
    with pytest.raises(InputError, match=r"evidence cannot be read: .*price"):
        read_evidence(folder)
    pq.write_table(pa.table({"time_ns": np.zeros(0, np.int64)}), path)
    with pytest.raises(InputError, match="evidence cannot be read"):
        read_evidence(folder)
