from __future__ import annotations

from pathlib import Path

import pytest

from common.bundle import MANIFEST_FILE, MODEL_FILE, read_bundle
from common.errors import InputError, UsageError
from training.bundle import Bundle, build_bundle, bundle_folder, one_row_latency_us, write_bundle
from training.dataset import Dataset
from training.experiment import Experiment


@pytest.fixture(scope="module")
def bundle(dataset: Dataset, trained: Experiment) -> Bundle:
    return build_bundle("volatility", "1", dataset, trained)


def test_what_is_written_is_what_a_server_reads(tmp_path: Path, bundle: Bundle) -> None:
    write_bundle(tmp_path / "volatility" / "1", bundle)
    assert read_bundle(tmp_path / "volatility" / "1") == (bundle.manifest, bundle.model)
    assert [path.name for path in (tmp_path / "volatility").iterdir()] == ["1"]


def test_every_tick_is_accounted_for(bundle: Bundle) -> None:
    rows = bundle.manifest.rows
    reasons = ("unused_jumped_back", "unused_repeated", "not_warm", "label_crosses_gap", "label_past_end", "thinned")
    assert rows["ticks"] == sum(rows[reason] for reason in reasons) + rows["rows"]
    assert rows["rows"] == rows["training"] + rows["purged"] + rows["embargoed"] + rows["evaluation"]


def test_the_manifest_counts_what_it_was_trained_on(bundle: Bundle, trained: Experiment) -> None:
    manifest = bundle.manifest
    assert manifest.training.positives == int(trained.final.train_y.sum())
    assert manifest.evaluation.positives / manifest.evaluation.rows == pytest.approx(
        manifest.metrics["logistic"]["base_rate"], rel=1e-5
    )
    assert manifest.training.end_ns + 120 * 10**9 < manifest.evaluation.start_ns


def test_the_next_version_is_one_above_the_highest(tmp_path: Path) -> None:
    for name in ("1", "10", ".11.new-5", "notes"):
        (tmp_path / "volatility" / name).mkdir(parents=True)
    assert bundle_folder(tmp_path, "volatility", None, force=False) == tmp_path / "volatility" / "11"
    assert bundle_folder(tmp_path, "other", None, force=False) == tmp_path / "other" / "1"


def test_a_version_that_exists_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "volatility" / "1").mkdir(parents=True)
    with pytest.raises(UsageError, match="exists: choose another --version, or replace it with --force"):
        bundle_folder(tmp_path, "volatility", 1, force=False)
    assert bundle_folder(tmp_path, "volatility", 1, force=True) == tmp_path / "volatility" / "1"


def test_a_forced_write_replaces_the_whole_folder(tmp_path: Path, bundle: Bundle) -> None:
    folder = tmp_path / "volatility" / "1"
    folder.mkdir(parents=True)
    (folder / "left_over").touch()
    write_bundle(folder, bundle)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST_FILE, MODEL_FILE]
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_disk_that_refuses_leaves_the_old_bundle(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "volatility" / "1"
    write_bundle(folder, bundle)
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_bundle(folder, bundle)
    assert read_bundle(folder) == (bundle.manifest, bundle.model)
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_latency_is_measured_on_the_exported_model(bundle: Bundle, dataset: Dataset) -> None:
    assert 0.1 < one_row_latency_us(bundle.model, dataset.rows.features[:1], calls=50) < 100_000
