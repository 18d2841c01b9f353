"""A run on disk: whole or not there, and the same when it is read again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from common.errors import InputError
from tests.training.runs import Made
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
    found = read_evidence(made.write(tmp_path))
    assert_array_equal(found.rows.features, made.rows.features)
    assert_array_equal(found.rows.time_ns, made.rows.time_ns)
    assert_array_equal(found.rows.future_volatility, made.rows.future_volatility)
    assert [part.part for part in found.parts] == ["fold 1", "fold 2", "fold 3", "final"]
    for read, wrote in zip(found.parts, made.parts, strict=True):
        assert (read.threshold, read.climatology) == (wrote.threshold, wrote.climatology)
        assert read.decision_thresholds == dict(wrote.decision_thresholds)
        for kind, probability in wrote.probabilities.items():
            assert_array_equal(read.probabilities[kind], probability)


def test_a_kind_that_a_part_has_not_is_not_there(made: Made, tmp_path: Path) -> None:
    first = made.parts[0]
    without = dataclasses.replace(
        first,
        probabilities={kind: one for kind, one in first.probabilities.items() if kind != "ewma"},
        decision_thresholds={kind: one for kind, one in first.decision_thresholds.items() if kind != "ewma"},
    )
    changed = dataclasses.replace(made, parts=[without, *made.parts[1:]])
    parts = read_evidence(changed.write(tmp_path)).parts
    assert "ewma" not in parts[0].probabilities
    assert "ewma" in parts[1].probabilities


def test_a_run_says_what_it_was(made: Made, tmp_path: Path) -> None:
    run = read_run(made.write(tmp_path))
    assert run.parameters["horizon_s"] == "60"
    assert run.metrics["final/logistic/pr_auc"] == made.manifest.metrics["logistic"]["pr_auc"]
    assert run.data_sha256 == made.manifest.data_sha256
    assert run.code == code_version() != "unknown"
    assert run.id.startswith("volatility-logistic-20251206T")


def test_a_metric_that_is_no_number_is_left_out_and_the_run_can_be_read(made: Made, tmp_path: Path) -> None:
    changed = dataclasses.replace(made)
    changed.change(walk_forward={"logistic": {"pr_auc": float("nan"), "brier": 0.1}})
    run = read_run(changed.write(tmp_path))
    assert "walk_forward/logistic/pr_auc" not in run.metrics
    assert run.metrics["walk_forward/logistic/brier"] == 0.1


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
