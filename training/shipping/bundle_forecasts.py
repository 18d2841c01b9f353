"""A bundle on rows: the answers of its graph and of its baselines, as a part to evaluate. Needs no training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.bundle import LinearForm, Manifest, Survival
from common.errors import InputError
from common.schema import SCHEMAS, FeatureSchema
from pipeline.features.engine import reach_ns
from training.forecasting.bundle import baseline_forecasts
from training.forecasting.distribution import Forecasts
from training.forecasting.onnx_forecast import OnnxForecast
from training.judging.part_scores import SingleSize
from training.problem.forecast_rows import ForecastRows
from training.problem.target import BPS, DEFAULT_TARGET, NS_PER_S, Floats, Ints
from training.shipping.onnx_model import OnnxModel

EVALUATION = "evaluation"  # name of the part
CHUNK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class BundlePart:
    """Rows with the forecasts of a bundle and of its baselines."""

    name: str
    rows: ForecastRows
    forecasts: Mapping[str, Forecasts | SingleSize]
    sizes: Survival


@dataclass(frozen=True, slots=True)
class GraphForecasts:
    """Forecasts of rows by a graph. features: (n, features of the model's schema)."""

    model: OnnxForecast
    features: Floats

    def quantiles_bps(self, levels: Floats) -> Floats:
        return self._run(np.ones(len(self.features)), levels)[2]

    def exceedance(self, size_bps: float | Floats) -> Floats:
        return self._run(np.broadcast_to(size_bps, len(self.features)), np.empty(0))[0]

    def median_bps(self) -> Floats:
        return self._run(np.ones(len(self.features)), np.empty(0))[1]

    def _run(self, sizes: Floats, levels: Floats) -> tuple[Floats, Floats, Floats]:
        outputs = []
        for start in range(0, len(self.features), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            some = self.features[rows]
            outputs.append(self.model.run(some, sizes[rows], np.tile(levels, (len(some), 1))))
        probability, median, quantiles = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return probability, median, quantiles


def spike_bps(manifest: Manifest) -> float:
    """The size that the bundle answers at by default."""
    return manifest.forecast.spike_bps if manifest.forecast else manifest.label.threshold * BPS


def embargo_s(manifest: Manifest) -> float:
    """Rows nearer to a training row share ticks with its features or its outcome."""
    own = SCHEMAS.get(manifest.schema.name)
    window_s = reach_ns(own) / NS_PER_S if own else 0.0
    return max(manifest.parameters.get("embargo_s", 0.0), window_s + DEFAULT_TARGET.reach_ns / NS_PER_S)


def unseen(rows: ForecastRows, manifest: Manifest) -> ForecastRows:
    """Without rows of the training spans and the embargo around them."""
    return rows.take(outside_training(manifest, rows.time_ns))


def outside_training(manifest: Manifest, time_ns: Ints) -> NDArray[np.bool_]:
    """Marks times (n,) outside the training span of every recording and the embargo around it, (n,)."""
    embargo_ns = int(embargo_s(manifest) * NS_PER_S)
    spans = (manifest.forecast.spans if manifest.forecast else ()) or (manifest.training,)
    seen = np.zeros(len(time_ns), np.bool_)
    for span in spans:
        seen |= (time_ns >= span.start_ns - embargo_ns) & (time_ns <= span.end_ns + embargo_ns)
    return ~seen


def schema_for(manifest: Manifest) -> FeatureSchema:
    """The served schema whose rows have all features of the model and, if there is one, of its baselines.

    Raises InputError for a model of another schema, or of another version of it.
    """
    wanted = manifest.schema
    own = SCHEMAS.get(wanted.name)
    if own is None or own.hash != wanted.hash:
        known = ", ".join(f"{schema.name} ({schema.hash})" for schema in SCHEMAS.values())
        raise InputError(
            f"bundle {manifest.name}/{manifest.version} takes schema {wanted.name} ({wanted.hash}); ticks give {known}"
        )
    needed = {name for columns in _baseline_columns(manifest).values() for name in columns}
    fitting = [schema for schema in (own, *SCHEMAS.values()) if needed | set(own.names) <= set(schema.names)]
    return fitting[0] if fitting else own


def missing_baselines(manifest: Manifest, schema: FeatureSchema) -> tuple[str, ...]:
    """Baselines that need a feature that the schema lacks."""
    columns = _baseline_columns(manifest)
    return tuple(kind for kind, names in columns.items() if not set(names) <= set(schema.names))


def bundle_part(manifest: Manifest, model: bytes, rows: ForecastRows) -> BundlePart:
    """The bundle's kind and its baselines on rows. Raises InputError if the rows lack a feature of the model."""
    names = manifest.feature_schema().names
    missing = [name for name in names if name not in rows.schema.names]
    if missing:
        raise InputError(
            f"bundle {manifest.name}/{manifest.version} takes schema {manifest.schema.name}; the rows' schema "
            f"{rows.schema.name} lacks {missing[0]}"
        )
    features = np.ascontiguousarray(rows.features[:, [rows.schema.names.index(name) for name in names]])
    forecast = manifest.forecast
    forecasts: dict[str, Forecasts | SingleSize] = {}
    left_out = {*missing_baselines(manifest, rows.schema), manifest.kind}
    if forecast is None:
        forecasts[manifest.kind] = SingleSize(OnnxModel(model).probabilities(features))
        forecasts |= {
            kind: SingleSize(linear_probabilities(form, rows))
            for kind, form in manifest.baselines.items()
            if kind not in left_out
        }
        sizes = Survival((spike_bps(manifest),), (1 - manifest.label.quantile,))
    else:
        forecasts[manifest.kind] = GraphForecasts(OnnxForecast(model), features)
        forecasts |= {
            kind: baseline_forecasts(form, rows, forecast.floor_bps)
            for kind, form in forecast.baselines.items()
            if kind not in left_out
        }
        sizes = forecast.sizes
    return BundlePart(EVALUATION, rows, forecasts, sizes)


def linear_probabilities(form: LinearForm, rows: ForecastRows) -> Floats:
    """sigmoid(sum of weight * log(|column| + offset) + bias), (n,): a baseline of an old-style bundle."""
    columns = rows.features[:, [rows.schema.names.index(name) for name in form.columns]]
    logit = np.log(np.abs(columns) + np.asarray(form.offsets)) @ np.asarray(form.weights) + form.bias
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0, small) / (1.0 + small), dtype=np.float64)


def _baseline_columns(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    forms = manifest.forecast.baselines if manifest.forecast else manifest.baselines
    return {kind: form.columns for kind, form in forms.items()}
