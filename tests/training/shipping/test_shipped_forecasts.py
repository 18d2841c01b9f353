"""The forecasts in the repository: their manifests, their graphs, and the same bytes from the same recordings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from common.bundle import Manifest, ManifestForecast, read_bundle
from common.model_store import ModelStore
from common.schema import SCHEMAS
from server.core.bundles import load_model
from tests.lengths import length
from tests.training.forecasting.samples import sample_rows
from training.fitting import forecast_experiment
from training.fitting.forecast_experiment import BASELINES, Settings
from training.forecasting.bundle import PARITY_LEVELS
from training.forecasting.form import FittedForecast
from training.forecasting.graph import forecast_graph
from training.forecasting.kinds import usable_kinds
from training.forecasting.onnx_forecast import PARITY, OnnxForecast, parity_error
from training.judging.gate import GateLimits
from training.problem.recordings import dataset_recordings, known_recordings, read_recordings
from training.problem.target import BPS, DEFAULT_TARGET, NS_PER_S, Floats
from training.shipping.bundle_forecasts import embargo_s
from training.shipping.run_checks import require_kind
from training.shipping.trained_form import TRAINED_FILE, read_trained, trained_files
from training.shipping.training_run import SAMPLE_PERIOD_S, forecast_bundle

MODELS = Path(__file__).parents[3] / "models"
SPIKE_BPS = 6.0
APRIL_2026_NS = 1_775_001_600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Shipped:
    """A forecast below models/, and the options of `volcast train` that made it (docs/training.md)."""

    name: str
    version: str
    schema: str
    dataset: str

    @property
    def folder(self) -> Path:
        return MODELS / self.name / self.version

    @property
    def manifest(self) -> Manifest:
        return read_bundle(self.folder)[0]

    @property
    def forecast(self) -> ManifestForecast:
        forecast = self.manifest.forecast
        assert forecast is not None
        return forecast

    @property
    def graph(self) -> OnnxForecast:
        return OnnxForecast(read_bundle(self.folder)[1])

    @property
    def trained(self) -> FittedForecast:
        return read_trained(self.folder)


FORECASTS = (
    Shipped("volatility", "4", "core/1", "streams"),
    Shipped("volatility-trailing", "1", "full/2", "recordings"),
)
each_forecast = pytest.mark.parametrize("shipped", FORECASTS, ids=lambda shipped: f"{shipped.name}/{shipped.version}")


def test_these_are_all_forecasts_below_models() -> None:
    forecasts = {
        (folder.parent.name, folder.name)
        for folder in MODELS.glob("*/[0-9]*")
        if read_bundle(folder)[0].forecast is not None
    }
    assert forecasts == {(shipped.name, shipped.version) for shipped in FORECASTS}


@each_forecast
def test_it_is_the_version_that_answers(shipped: Shipped) -> None:
    assert ModelStore(MODELS, shipped.name).answering() == shipped.folder
    assert json.loads((shipped.folder.parent / "labels.json").read_text()) == {"stable": shipped.version}


@each_forecast
def test_a_server_loads_it(shipped: Shipped) -> None:
    model = load_model(shipped.folder, shipped.name, shipped.version)
    assert model.schema.hash == SCHEMAS[shipped.schema].hash


@each_forecast
def test_it_answers_its_self_test(shipped: Shipped) -> None:
    test = shipped.manifest.self_test
    probability, median, quantiles = shipped.graph.run(
        np.array([test.features]), np.array([SPIKE_BPS]), np.array([[0.1, 0.5, 0.9]])
    )
    assert probability[0] == pytest.approx(test.probability, abs=1e-9)
    assert quantiles[0, 1] == pytest.approx(median[0])
    assert (np.diff(quantiles[0]) > 0).all()


@each_forecast
def test_its_manifest_states_the_forecast(shipped: Shipped) -> None:
    manifest, forecast = shipped.manifest, shipped.forecast
    assert (manifest.kind, manifest.decision_threshold) == ("ridge", 0.5)
    target = (DEFAULT_TARGET.horizon_s, DEFAULT_TARGET.step_s, DEFAULT_TARGET.floor_bps)
    assert (forecast.horizon_s, forecast.step_s, forecast.floor_bps) == target
    assert (manifest.label.horizon_s, manifest.label.threshold) == (DEFAULT_TARGET.horizon_s, SPIKE_BPS / BPS)
    assert forecast.spike_bps == SPIKE_BPS
    assert (forecast.multiples is None) == (not forecast.trailing_feature)
    assert bool(forecast.trailing_feature) == (shipped.schema == "full/2")
    assert forecast.baselines.keys() == {
        kind.name for kind in usable_kinds(SCHEMAS[shipped.schema]) if kind.name in BASELINES
    }


@each_forecast
def test_its_inputs_have_plausible_ranges(shipped: Shipped) -> None:
    manifest = shipped.manifest
    assert set(manifest.inputs) < set(manifest.ranges)
    assert tuple(manifest.ranges) == SCHEMAS[shipped.schema].names
    assert all(manifest.ranges[name][0] < manifest.ranges[name][1] for name in manifest.inputs)
    values = dict(zip(manifest.ranges, manifest.self_test.features, strict=True))
    assert all(low <= values[name] <= high for name, (low, high) in manifest.ranges.items())


@each_forecast
def test_its_base_rate_is_the_share_of_spikes_in_the_training_rows(shipped: Shipped) -> None:
    manifest, training = shipped.manifest, shipped.manifest.training
    share = training.positives / training.rows
    assert shipped.forecast.sizes.share_at(SPIKE_BPS) == pytest.approx(share, abs=1e-3)  # between 101 stored sizes
    assert manifest.label.quantile == pytest.approx(1 - share, abs=1e-9)


@each_forecast
def test_its_spans_and_counts_add_up(shipped: Shipped) -> None:
    manifest, spans = shipped.manifest, shipped.forecast.spans
    training, counts = manifest.training, manifest.rows
    assert (sum(span.rows for span in spans), sum(span.positives for span in spans)) == (
        training.rows,
        training.positives,
    )
    assert (min(span.start_ns for span in spans), max(span.end_ns for span in spans)) == (
        training.start_ns,
        training.end_ns,
    )
    assert (counts["training"], counts["evaluation"]) == (training.rows, manifest.evaluation.rows)
    assert training.rows + manifest.evaluation.rows < counts["rows"]  # the embargo before the final parts
    dropped = sum(counts[reason] for reason in ("not_used", "not_warm", "not_finite", "outcome_unknown", "thinned"))
    assert counts["ticks"] - dropped == counts["rows"]
    assert manifest.parameters["embargo_s"] == embargo_s(manifest)


@each_forecast
def test_the_reserved_recording_of_april_2026_was_not_touched(shipped: Shipped) -> None:
    manifest = shipped.manifest
    assert max(manifest.training.end_ns, manifest.evaluation.end_ns) < APRIL_2026_NS
    assert not any("202604" in name for name in manifest.data)


@each_forecast
def test_its_recorded_scores_pass_the_gate(shipped: Shipped) -> None:
    manifest, limits = shipped.manifest, GateLimits()
    folds, final = manifest.walk_forward[manifest.kind], manifest.metrics[manifest.kind]
    assert folds["crps_minus_har_high"] < 0  # shown to beat HAR
    assert folds["crps"] - manifest.walk_forward["har"]["crps"] == pytest.approx(folds["crps_minus_har"], abs=1e-5)
    assert final["crps"] - manifest.metrics["har"]["crps"] == pytest.approx(final["crps_minus_har"], abs=1e-5)
    for claimed, tolerance in ((0.8, limits.coverage_80), (0.95, limits.coverage_95)):
        assert abs(final[f"coverage_{100 * claimed:.0f}"] - claimed) <= tolerance.shown
    assert final["log_loss"] < manifest.metrics["climatology"]["log_loss"]
    assert manifest.parity_max_abs_error <= limits.parity
    kinds = {kind.name for kind in usable_kinds(SCHEMAS[shipped.schema])}
    assert manifest.walk_forward.keys() == manifest.metrics.keys() == kinds


@each_forecast
def test_its_graph_is_made_of_its_trained_form(shipped: Shipped) -> None:
    trained, (manifest, model) = shipped.trained, read_bundle(shipped.folder)
    require_kind(trained, manifest, SCHEMAS[shipped.schema])
    assert forecast_graph(trained) == model
    assert trained_files(trained) == {TRAINED_FILE: (shipped.folder / TRAINED_FILE).read_bytes()}


@each_forecast
def test_its_graph_gives_the_distribution_of_its_trained_form(shipped: Shipped) -> None:
    """On rows of a sample and of all plausible values, at sizes from below the floor to above crashes."""
    features = np.concatenate([sample_rows(500, SCHEMAS[shipped.schema]).features, rows_of_ranges(shipped.manifest)])
    sizes = np.geomspace(0.01, 1e4, 20)
    assert parity_error(shipped.graph, shipped.trained.forecasts, features, sizes, PARITY_LEVELS) <= PARITY


def rows_of_ranges(manifest: Manifest, rows: int = 500) -> Floats:
    """Rows (n, F), each value uniform in the feature's plausible range."""
    low, high = np.array(list(manifest.ranges.values())).T
    return np.random.default_rng(0).uniform(low, high, (rows, len(low)))


@each_forecast
def test_it_says_more_when_the_market_moves_more(shipped: Shipped) -> None:
    manifest, names = shipped.manifest, SCHEMAS[shipped.schema].names
    sizes_of_moves = [names.index(name) for name in manifest.inputs if name != "reference_error_size"]
    rows = np.repeat([[np.sqrt(max(low, 1e-6) * high) for low, high in manifest.ranges.values()]], 5, axis=0)
    rows[:, sizes_of_moves] = np.array([0.2, 1.0, 4.0, 16.0, 64.0])[:, None] / BPS
    probability, median, _ = shipped.graph.run(rows, np.full(5, SPIKE_BPS), np.empty((5, 0)))
    assert (np.diff(probability) > 0).all()
    assert (np.diff(median) > 0).all()
    assert probability[0] < 0.05 < 0.95 < probability[-1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(len(known_recordings()) < 4, reason="no recordings: ../shared/data or VOLCAST_DATA_DIR")
@pytest.mark.parametrize("shipped", FORECASTS[: length(1, len(FORECASTS))], ids=lambda shipped: shipped.name)
def test_the_recordings_give_the_same_bytes(shipped: Shipped) -> None:
    """Without logistic regression and trees, which take longest. CPU time: 28 s on core/1, 68 s on full/2."""
    manifest, model = read_bundle(shipped.folder)
    data = read_recordings(
        dataset_recordings(shipped.dataset), SCHEMAS[shipped.schema], SAMPLE_PERIOD_S, lambda step: None
    )
    experiment = forecast_experiment.run(data.rows, Settings(model_type="ridge", spike_bps=SPIKE_BPS))
    again = forecast_bundle(shipped.name, shipped.version, data, experiment, "ridge")
    assert again.model == model
    assert trained_files(experiment.fitted["ridge"])[TRAINED_FILE] == (shipped.folder / TRAINED_FILE).read_bytes()
    for name in set(manifest.__struct_fields__) - {"metrics", "walk_forward"}:
        assert getattr(again.manifest, name) == getattr(manifest, name), name
    for mine, theirs in (
        (again.manifest.metrics, manifest.metrics),
        (again.manifest.walk_forward, manifest.walk_forward),
    ):
        assert mine == {kind: theirs[kind] for kind in mine}
