"""A fitted forecast as a bundle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.bundle import manifest_json, parse_bundle
from common.errors import TrainingError
from common.schema import CORE_1, FULL_2, FeatureSchema
from tests.training.forecasting.samples import sample_rows
from training.forecasting import bundle
from training.forecasting.bundle import make_bundle, survival
from training.forecasting.kinds import kind_named
from training.forecasting.onnx_forecast import OnnxForecast
from training.problem.forecast_rows import pooled


@pytest.mark.parametrize("schema", [FULL_2, CORE_1], ids=lambda schema: schema.name)
def test_a_manifest_survives_writing_and_reading(schema: FeatureSchema) -> None:
    rows = sample_rows(1500, schema)
    manifest, model = make_bundle("volatility", "3", kind_named("ridge").fit(rows), rows)
    assert parse_bundle(Path("here"), manifest_json(manifest), model) == manifest


def test_the_self_test_is_the_graphs_answer_at_the_default_size() -> None:
    rows = sample_rows(1500)
    manifest, model = make_bundle("volatility", "1", kind_named("ridge").fit(rows), rows, spike_bps=7.5)
    assert manifest.forecast is not None
    assert manifest.forecast.spike_bps == 7.5
    row = np.array([manifest.self_test.features])
    probability, _, _ = OnnxForecast(model).run(row, np.array([7.5]), np.zeros((1, 0)))
    assert probability[0] == pytest.approx(manifest.self_test.probability, abs=1e-11)
    assert manifest.training.positives == np.count_nonzero(rows.outcome_bps >= 7.5)
    assert manifest.label.threshold == pytest.approx(7.5e-4)


def test_each_recording_has_a_training_span_of_its_own() -> None:
    first, later = sample_rows(600), sample_rows(900, seed=1)
    rows = pooled([first, replace(later, time_ns=later.time_ns + 10**17)])
    manifest, _ = make_bundle("volatility", "1", kind_named("har").fit(rows), rows, spike_bps=7.5)
    assert manifest.forecast is not None
    spans = manifest.forecast.spans
    assert [(span.start_ns, span.end_ns, span.rows) for span in spans] == [
        (first.time_ns[0], first.time_ns[-1], 600),
        (later.time_ns[0] + 10**17, later.time_ns[-1] + 10**17, 900),
    ]
    assert sum(span.positives for span in spans) == manifest.training.positives
    assert (manifest.training.start_ns, manifest.training.end_ns) == (spans[0].start_ns, spans[1].end_ns)


def test_the_default_size_is_a_quantile_of_the_training_rows() -> None:
    rows = sample_rows(1500)
    manifest, _ = make_bundle("volatility", "1", kind_named("har").fit(rows), rows)
    assert manifest.training.positives == pytest.approx(150, abs=1)


def test_multiples_are_of_the_trailing_hour() -> None:
    rows = sample_rows(1500)
    manifest, _ = make_bundle("volatility", "1", kind_named("har").fit(rows), rows)
    forecast = manifest.forecast
    assert forecast is not None
    assert forecast.trailing_feature == "grid_volatility_3600s"
    assert forecast.multiples is not None
    hour_bps = rows.features[:, FULL_2.names.index("grid_volatility_3600s")] * 1e4
    for value, share in list(zip(forecast.multiples.values, forecast.multiples.shares, strict=True))[::20]:
        assert np.mean(rows.outcome_bps / hour_bps >= value) == pytest.approx(share, abs=1e-6)


def test_a_schema_without_the_trailing_hour_has_no_multiples() -> None:
    rows = sample_rows(1500, CORE_1)
    manifest, _ = make_bundle("volatility", "1", kind_named("har").fit(rows), rows)
    assert manifest.forecast is not None
    assert (manifest.forecast.trailing_feature, manifest.forecast.multiples) == ("", None)


def test_survival_begins_at_all_values_and_ends_at_the_largest() -> None:
    values = np.array([5.0, 1.0, 1.0, 2.0])
    curve = survival(values)
    assert curve.values == (1.0, 2.0, 5.0)
    assert curve.shares == (1.0, 0.5, 0.25)


def test_ranges_are_those_of_the_training_rows() -> None:
    rows = sample_rows(800)
    manifest, _ = make_bundle("volatility", "1", kind_named("har").fit(rows), rows)
    column = rows.features[:, FULL_2.names.index("grid_volatility_60s")]
    assert manifest.ranges["grid_volatility_60s"] == (column.min(), column.max())
    assert set(manifest.ranges) == set(FULL_2.names)
    assert manifest.inputs == ("grid_volatility_60s", "grid_volatility_300s", "grid_volatility_3600s")


def test_files_are_named_and_fingerprinted(tmp_path: Path) -> None:
    rows = sample_rows(800)
    fitted = kind_named("har").fit(rows)
    files = [tmp_path / name for name in ("b.parquet", "a.parquet")]
    for file in files:
        file.write_text(file.name)
    first, again = (make_bundle("v", "1", fitted, rows, files=order)[0] for order in (files, files[::-1]))
    assert first.data == ("a.parquet", "b.parquet")
    assert first.data_sha256 == again.data_sha256
    files[0].write_text("changed")
    assert make_bundle("v", "1", fitted, rows, files=files)[0].data_sha256 != first.data_sha256


def test_a_graph_that_differs_from_the_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sample_rows(800)
    monkeypatch.setattr(bundle, "parity_error", lambda *_: 2e-6)
    with pytest.raises(TrainingError, match="the exported har differs by 2e-06"):
        make_bundle("v", "1", kind_named("har").fit(rows), rows)
