"""A fitted forecast as a bundle: the graph, and the manifest that servers and reports read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np

from common.bundle import (
    MANIFEST_FORMAT,
    NO_SPAN,
    ForecastForm,
    Manifest,
    ManifestFeature,
    ManifestForecast,
    ManifestLabel,
    ManifestSchema,
    ManifestSpan,
    SelfTest,
    Survival,
)
from common.errors import InputError, TrainingError
from common.schema import FeatureSchema
from pipeline.drift import reference_of
from training.forecasting.designs import TRAILING_FEATURE
from training.forecasting.distribution import LocationScale
from training.forecasting.form import HIGH, LOW, FittedForecast
from training.forecasting.graph import OPSET, forecast_graph
from training.forecasting.onnx_forecast import PARITY, OnnxForecast, parity_error
from training.problem.forecast_rows import ForecastRows
from training.problem.target import BPS, DEFAULT_TARGET, NS_PER_S, Floats, Target

SURVIVAL_VALUES = 101
SPIKE_QUANTILE = 0.9  # of the training rows, of the default spike size
ALERT_LEVEL = 0.5
PARITY_SIZES = 20
PARITY_LEVELS = np.concatenate([[1e-4], np.arange(1, 100) / 100, [1 - 1e-4]])
_DIGITS = 9


def make_bundle(
    name: str,
    version: str,
    fitted: FittedForecast,
    rows: ForecastRows,
    *,
    spike_bps: float = 0.0,
    alert_level: float = ALERT_LEVEL,
    target: Target = DEFAULT_TARGET,
    files: Sequence[Path] = (),
    baselines: Mapping[str, FittedForecast] = MappingProxyType({}),
    parameters: Mapping[str, float] = MappingProxyType({}),
    evaluation: ManifestSpan = NO_SPAN,
    metrics: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    walk_forward: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> tuple[Manifest, bytes]:
    """The manifest and the model's bytes. The same fit and rows give the same bytes, at any time and place.

    rows: the training rows. spike_bps: default spike size; 0: SPIKE_QUANTILE of their outcomes. files: names and
    fingerprint go into the manifest. baselines: linear kinds fitted on the same rows. evaluation: of the final part.
    metrics, walk_forward: kind -> score -> mean over the final part, and over the folds.

    Raises TrainingError if the graph differs from the fitted form by more than PARITY on a training row.
    """
    size = spike_bps or default_size_bps(rows)
    model = forecast_graph(fitted)
    exported = OnnxForecast(model)
    error = parity_error(exported, fitted.forecasts, rows.features, parity_sizes(rows), PARITY_LEVELS)
    if not error <= PARITY:
        raise TrainingError(
            f"the exported {fitted.kind} differs by {error:.2g} from the trained form, above {PARITY:g}"
        )
    no_levels = np.zeros((len(rows), 0))
    probability, _, _ = exported.run(rows.features, np.full(len(rows), size), no_levels)
    # A graph that ignores its input does not give the answer to the likeliest spike.
    likeliest = int(np.argmax(probability))
    spikes = rows.outcome_bps >= size
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        name=name,
        version=version,
        kind=fitted.kind,
        created=datetime.fromtimestamp(int(rows.time_ns.max()) // NS_PER_S, UTC).date().isoformat(),
        schema=_manifest_schema(fitted.schema),
        label=ManifestLabel(float(target.horizon_s), _digits(float(np.mean(~spikes))), _digits(size / BPS)),
        decision_threshold=alert_level,
        training=span_of(rows, size),
        data=tuple(sorted(file.name for file in files)),
        data_sha256=_fingerprint(files),
        model_sha256=hashlib.sha256(model).hexdigest(),
        opset=OPSET,
        parity_max_abs_error=float(f"{error:.2g}"),
        self_test=SelfTest(tuple(rows.features[likeliest].tolist()), float(f"{probability[likeliest]:.12g}")),
        parameters=dict(parameters),
        rows=dict(rows.counts),
        evaluation=evaluation,
        metrics={kind: dict(scores) for kind, scores in metrics.items()},
        walk_forward={kind: dict(scores) for kind, scores in walk_forward.items()},
        inputs=fitted.inputs,
        reference=reference_of(fitted.schema.names, rows.features, probability, alert_level),
        forecast=_forecast(fitted, rows, size, target, baselines),
        ranges=feature_ranges(rows),
    )
    return manifest, model


def span_of(rows: ForecastRows, size_bps: float) -> ManifestSpan:
    """First and last time of rows, their number, and the number of outcomes at or above a size."""
    spikes = int(np.count_nonzero(rows.outcome_bps >= size_bps))
    return ManifestSpan(int(rows.time_ns.min()), int(rows.time_ns.max()), len(rows), spikes)


def spans_of(rows: ForecastRows, size_bps: float) -> tuple[ManifestSpan, ...]:
    """The span of each recording that has rows, by its number."""
    return tuple(span_of(rows.take(rows.recording == number), size_bps) for number in np.unique(rows.recording))


def default_size_bps(rows: ForecastRows) -> float:
    """The spike size of a model for which nobody chose one: SPIKE_QUANTILE of the outcomes of its training rows."""
    return _digits(float(np.quantile(rows.outcome_bps, SPIKE_QUANTILE)))


def parity_sizes(rows: ForecastRows) -> Floats:
    """PARITY_SIZES spike sizes from below the floor to beyond every outcome, (sizes,)."""
    highest = 10 * float(rows.outcome_bps.max())
    return np.geomspace(0.01, highest, PARITY_SIZES)


def feature_ranges(rows: ForecastRows) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each feature in the rows."""
    lows, highs = rows.features.min(axis=0), rows.features.max(axis=0)
    names = rows.schema.names
    return {name: (float(low), float(high)) for name, low, high in zip(names, lows, highs, strict=True)}


def survival(values: Floats) -> Survival:
    """Share of values (n,) at or above each of at most SURVIVAL_VALUES of them, from the smallest to the largest."""
    ascending = np.sort(values)
    points = np.unique(np.quantile(ascending, np.linspace(0, 1, SURVIVAL_VALUES), method="higher"))
    at_or_above = 1 - np.searchsorted(ascending, points, side="left") / len(ascending)
    return Survival(tuple(points.tolist()), tuple(_digits(share) for share in at_or_above.tolist()))


def survivals(rows: ForecastRows) -> tuple[Survival, Survival | None]:
    """Of the outcomes in bps, and as multiples of the trailing hour's volatility; None: the schema has no such hour."""
    trailing = TRAILING_FEATURE.get(rows.schema.name)
    if trailing is None:
        return survival(rows.outcome_bps), None
    trailing_bps = rows.features[:, rows.schema.names.index(trailing)] * BPS
    return survival(rows.outcome_bps), survival(rows.outcome_bps / trailing_bps)


def form_of(fitted: FittedForecast) -> ForecastForm:
    """A linear kind as the manifest records it. Raises ValueError for trees."""
    if fitted.trees:
        raise ValueError(f"{fitted.kind} is not linear")
    names = fitted.schema.names[fitted.design.span]
    used = [place for place, name in enumerate(names) if name in fitted.inputs]
    location, log_scale = (weights[[*used, -1]] for weights in (fitted.location, fitted.log_scale))
    return ForecastForm(
        columns=tuple(names[place] for place in used),
        location=tuple(location.tolist()),
        log_scale=tuple(log_scale.tolist()),
        levels=tuple(fitted.levels.tolist()),
        knots=tuple(fitted.knots.tolist()),
        low=LOW,
        high=HIGH,
        signed=fitted.design.signed,
    )


def baseline_forecasts(form: ForecastForm, rows: ForecastRows, floor_bps: float) -> LocationScale:
    """Forecasts of rows by a baseline of a manifest. Raises InputError if the rows lack a feature."""
    missing = [name for name in form.columns if name not in rows.schema.names]
    if missing:
        raise InputError(f"schema {rows.schema.name}: no feature {missing[0]}, which a baseline of the bundle needs")
    columns = rows.features[:, [rows.schema.names.index(name) for name in form.columns]]
    logs = np.log(np.clip(np.abs(columns) if form.signed else columns, form.low, form.high))
    location = logs @ np.array(form.location[:-1]) + form.location[-1]
    scale = np.exp(logs @ np.array(form.log_scale[:-1]) + form.log_scale[-1])
    return LocationScale(location, scale, np.array(form.levels), np.array(form.knots), floor_bps)


def _forecast(
    fitted: FittedForecast,
    rows: ForecastRows,
    size: float,
    target: Target,
    baselines: Mapping[str, FittedForecast],
) -> ManifestForecast:
    sizes, multiples = survivals(rows)
    return ManifestForecast(
        horizon_s=float(target.horizon_s),
        step_s=float(target.step_s),
        floor_bps=fitted.floor_bps,
        spike_bps=size,
        sizes=sizes,
        trailing_feature=TRAILING_FEATURE.get(fitted.schema.name, ""),
        multiples=multiples,
        baselines={kind: form_of(each) for kind, each in baselines.items()},
        spans=spans_of(rows, size),
    )


def _manifest_schema(schema: FeatureSchema) -> ManifestSchema:
    features = tuple(ManifestFeature(feature.name, feature.unit) for feature in schema.features)
    return ManifestSchema(schema.name, schema.hash, features)


def _fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over names and bytes; "" for no file."""
    if not files:
        return ""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda file: file.name):
        with path.open("rb") as stream:
            digest.update(f"{path.name}\n{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _digits(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
