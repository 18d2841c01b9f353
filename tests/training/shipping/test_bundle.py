from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.bundle import MANIFEST_FILE, MODEL_FILE, read_bundle
from common.errors import InputError, UsageError
from common.schema import FULL_1
from server.core.bundles import load_model
from training.fitting import experiment
from training.fitting.experiment import Experiment, Settings
from training.fitting.search import Budget
from training.models import BASELINES
from training.problem.data import Dataset
from training.shipping.bundle import Bundle, build_bundle, bundle_folder, write_bundle
from training.shipping.onnx_model import OnnxModel

pytestmark = pytest.mark.slow


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
    assert manifest.training.positives == int(trained.part.train_y.sum())
    assert manifest.evaluation.positives / manifest.evaluation.rows == pytest.approx(
        manifest.metrics["logistic"]["base_rate"], rel=1e-5
    )
    assert manifest.training.end_ns + 360 * 10**9 < manifest.evaluation.start_ns


def test_the_server_loads_it_and_it_answers_its_self_test(tmp_path: Path, bundle: Bundle) -> None:
    write_bundle(tmp_path / "volatility" / "1", bundle)
    model = load_model(tmp_path / "volatility" / "1", "volatility", "1")
    assert model.schema.hash == bundle.manifest.schema.hash


def test_a_bundle_of_trees_is_loaded_too_and_made_again_byte_for_byte(
    tmp_path: Path, dataset: Dataset, settings: Settings
) -> None:
    settings = replace(settings, model_type="xgboost", ablate=False, folds=2, budget=Budget(trials=1, choices=1))
    first, second = (
        build_bundle("volatility-full", "1", dataset, experiment.run(dataset.rows, settings)) for _ in range(2)
    )
    for bundle, folder in ((first, tmp_path / "1"), (second, tmp_path / "2")):
        write_bundle(folder, bundle)
    for name in (MODEL_FILE, MANIFEST_FILE):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert load_model(tmp_path / "1", "volatility-full", "1").schema.hash == FULL_1.hash
    assert first.manifest.kind == "xgboost"


def test_baselines_can_be_scored_from_the_manifest_alone(bundle: Bundle, trained: Experiment) -> None:
    rows = trained.part.test
    assert bundle.manifest.baselines.keys() == set(BASELINES)
    for name, form in bundle.manifest.baselines.items():
        logit = np.log(np.abs(rows.columns(form.columns)) + form.offsets) @ form.weights + form.bias
        assert 1 / (1 + np.exp(-logit)) == pytest.approx(trained.final.probabilities[name], abs=1e-8)
        assert form.decision_threshold == pytest.approx(trained.final.decision_thresholds[name], rel=1e-5)


def test_the_yardstick_of_drift_is_the_training_part(bundle: Bundle, trained: Experiment) -> None:
    reference = bundle.manifest.reference
    assert reference is not None
    assert reference.rows == bundle.manifest.training.rows
    assert tuple(reference.features) == trained.schema.names
    volatility = reference.features["volatility"]
    inside = np.histogram(trained.part.train.column("volatility"), [-np.inf, *volatility.edges, np.inf])[0]
    assert inside / reference.rows == pytest.approx(volatility.fractions, abs=1e-9)


def test_the_manifest_says_what_the_model_looks_at_and_why(bundle: Bundle, trained: Experiment) -> None:
    manifest = bundle.manifest
    assert manifest.inputs == trained.model.fitted.columns
    assert manifest.calibration == trained.model.fitted.calibration
    dropped = {name for row in manifest.ablation if not row.kept for name in row.columns}
    assert manifest.ablation[0].group == "none"
    assert set(manifest.inputs) == set(manifest.ablation[0].columns) - dropped


def test_the_manifest_records_the_draws_of_the_intervals_that_decide(bundle: Bundle) -> None:
    assert bundle.manifest.parameters["bootstrap_resamples"] == 2000


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
    assert 0.1 < OnnxModel(bundle.model).one_row_us(dataset.rows.features[:1]) < 100_000
