"""The bundle of a training run, and the folder that it is written to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.bundle import MANIFEST_FILE, MODEL_FILE, read_bundle
from common.errors import InputError, UsageError
from server.core.bundles import load_model
from tests.training.runs import experiment_of, market_rows
from training.fitting.forecast_experiment import AUTO, BASELINES, Experiment
from training.forecasting.bundle import baseline_forecasts
from training.judging.summary import best_kind
from training.problem.recordings import PooledData
from training.problem.target import DEFAULT_TARGET, NS_PER_S
from training.shipping.bundle import Bundle, bundle_folder, write_bundle
from training.shipping.training_run import forecast_bundle, shipped_kind


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return experiment_of("ridge", market_rows())


@pytest.fixture(scope="module")
def bundle(experiment: Experiment) -> Bundle:
    return made("ridge", experiment)


def made(kind: str, experiment: Experiment) -> Bundle:
    return forecast_bundle("volatility", "1", PooledData(market_rows(), (), ()), experiment, kind)


def test_what_is_written_is_what_a_server_reads(tmp_path: Path, bundle: Bundle) -> None:
    write_bundle(tmp_path / "volatility" / "1", bundle)
    assert read_bundle(tmp_path / "volatility" / "1") == (bundle.manifest, bundle.model)
    assert [path.name for path in (tmp_path / "volatility").iterdir()] == ["1"]


def test_the_server_loads_it_and_it_answers_its_self_test(tmp_path: Path, bundle: Bundle) -> None:
    write_bundle(tmp_path / "volatility" / "1", bundle)
    model = load_model(tmp_path / "volatility" / "1", "volatility", "1")
    assert model.schema.hash == bundle.manifest.schema.hash


def test_the_manifest_counts_the_rows_it_was_trained_and_tested_on(bundle: Bundle, experiment: Experiment) -> None:
    manifest = bundle.manifest
    assert manifest.forecast is not None
    size, train, final = manifest.forecast.spike_bps, experiment.train, experiment.final.rows
    assert manifest.rows == {**market_rows().counts, "training": len(train), "evaluation": len(final)}
    for span, rows in ((manifest.training, train), (manifest.evaluation, final)):
        assert (span.rows, span.positives) == (len(rows), int((rows.outcome_bps >= size).sum()))
        assert (span.start_ns, span.end_ns) == (int(rows.time_ns[0]), int(rows.time_ns[-1]))
    embargo_ns = manifest.parameters["embargo_s"] * NS_PER_S
    assert manifest.training.end_ns + embargo_ns < manifest.evaluation.start_ns
    assert manifest.parameters["bootstrap_resamples"] == 2000


def test_the_manifest_scores_every_kind_over_the_folds_and_the_final_part(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.metrics.keys() == manifest.walk_forward.keys() == {"ridge", *BASELINES} - {"ewma"}
    final, folds = (scores["climatology"]["crps"] for scores in (manifest.metrics, manifest.walk_forward))
    assert manifest.metrics["ridge"]["crps"] < final
    assert manifest.walk_forward["ridge"]["crps"] < folds
    assert final != folds


def test_the_spike_size_of_the_settings_is_that_of_the_manifest(experiment: Experiment) -> None:
    sized = replace(experiment, settings=replace(experiment.settings, spike_bps=3.5, alert_level=0.3))
    manifest = made("har", sized).manifest
    assert manifest.forecast is not None
    assert (manifest.forecast.spike_bps, manifest.decision_threshold) == (3.5, 0.3)
    assert manifest.evaluation.positives == np.count_nonzero(experiment.final.rows.outcome_bps >= 3.5)


def test_a_bundle_of_trees_is_loaded_too_and_made_again_byte_for_byte(tmp_path: Path) -> None:
    for folder in (tmp_path / "1", tmp_path / "2"):
        write_bundle(folder, made("xgboost", experiment_of("xgboost", market_rows())))
    for name in (MODEL_FILE, MANIFEST_FILE):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    manifest, _ = read_bundle(tmp_path / "1")
    assert load_model(tmp_path / "1", "volatility", "1").schema.hash == manifest.schema.hash
    assert manifest.kind == "xgboost"


def test_baselines_can_be_scored_from_the_manifest_alone(bundle: Bundle, experiment: Experiment) -> None:
    forecast, final = bundle.manifest.forecast, experiment.final
    assert forecast is not None
    assert forecast.baselines.keys() == set(BASELINES) - {"ewma"}  # core/1 has no feature for ewma
    for kind, form in forecast.baselines.items():
        again = baseline_forecasts(form, final.rows, DEFAULT_TARGET.floor_bps)
        assert again.median_bps() == pytest.approx(final.forecasts[kind].median_bps(), rel=1e-9)
        assert again.exceedance(forecast.spike_bps) == pytest.approx(
            final.forecasts[kind].exceedance(forecast.spike_bps), abs=1e-9
        )


def test_the_reference_of_drift_is_the_training_part(bundle: Bundle, experiment: Experiment) -> None:
    reference = bundle.manifest.reference
    assert reference is not None
    assert reference.rows == bundle.manifest.training.rows
    assert tuple(reference.features) == experiment.train.schema.names
    volatility = reference.features["volatility"]
    inside = np.histogram(experiment.train.column("volatility"), [-np.inf, *volatility.edges, np.inf])[0]
    assert inside / reference.rows == pytest.approx(volatility.fractions, abs=1e-9)


def test_the_kind_that_was_named_ships_and_else_the_best_of_the_folds(experiment: Experiment) -> None:
    assert shipped_kind(experiment) == "ridge"
    settings = replace(experiment.settings, model_type=AUTO)
    best, _ = best_kind(experiment.folds, settings.block_s(experiment.train), settings.seed)
    assert shipped_kind(replace(experiment, settings=settings)) == best


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
