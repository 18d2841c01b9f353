"""Converts messages of volcast.v1 to values of the core, and back."""

from __future__ import annotations

from common.schema import Feature
from common.versions import version_order
from server.core.dataplane import Result
from server.core.requests import DEFAULT_QUERY, DEFAULT_SELECTION, ForecastQuery, PredictInput, Selection
from server.core.rows import NamedInput, PackedInput
from server.core.snapshot import Model, ModelSnapshot
from server.runtime.state import ServerState
from volcast.v1 import FeatureSpec, HealthResponse, ModelSelector, ModelStatus, PredictRequest, PredictResponse


def predict_input(request: PredictRequest) -> PredictInput:
    selection = _selection(request.model) if request.HasField("model") else DEFAULT_SELECTION
    query = _query(request)
    encoding = request.WhichOneof("rows")
    if encoding == "packed":
        rows = request.packed
        packed = PackedInput(
            rows.schema_hash,
            rows.data_type,
            rows.row_count,
            rows.values,
            len(rows.event_times_ns),
            len(rows.product_ids),
        )
        return PredictInput(packed, selection, request.routing_key, query)
    if encoding == "named":
        # Plain dicts: reading a missing key of a protobuf map would insert that key.
        named = NamedInput([dict(row.features) for row in request.named.rows])
        return PredictInput(named, selection, request.routing_key, query)
    return PredictInput(None, selection, request.routing_key, query)


def _query(request: PredictRequest) -> ForecastQuery:
    if request.spike_bps or request.spike_multiple or request.quantiles:
        return ForecastQuery(request.spike_bps, request.spike_multiple, tuple(request.quantiles))
    return DEFAULT_QUERY


def _selection(model: ModelSelector) -> Selection:
    return Selection(model.name, model.version, model.label)


def predict_response(result: Result) -> PredictResponse:
    """Returns the protobuf message.

    Building it measured 1.3 us for one row and 8 us for 256 rows; writing the bytes by hand takes 1 us for both.
    """
    response = PredictResponse(
        model_name=result.model.name,
        model_version=result.model.version,
        threshold=result.model.threshold,
        probabilities=result.probabilities.tolist(),
        queue_ns=result.queue_ns,
        compute_ns=result.compute_ns,
    )
    forecast = result.forecast
    if forecast is not None:
        response.spike_bps = forecast.spike_bps
        response.base_rate = forecast.base_rate
        response.median_bps.extend(forecast.median_bps.tolist())
        response.quantile_bps.extend(forecast.quantile_bps.reshape(-1).tolist())
    return response


def health_response(snapshot: ModelSnapshot, default_model: str, state: ServerState) -> HealthResponse:
    entries = {key: _model_status(model, snapshot.labels(model)) for key, model in snapshot.models.items()}
    for failure in snapshot.failures:
        entry = entries.setdefault(
            (failure.name, failure.version), ModelStatus(name=failure.name, version=failure.version)
        )
        entry.load_error = failure.public_reason
    return HealthResponse(
        ready=state.ready,
        models=[entries[key] for key in sorted(entries, key=lambda key: (key[0], version_order(key[1])))],
        default_model=default_model,
        uptime_s=state.uptime_s,
        build=state.build,
        front=state.front,
    )


def _model_status(model: Model, labels: list[str]) -> ModelStatus:
    forecast = model.forecast
    return ModelStatus(
        name=model.name,
        version=model.version,
        labels=labels,
        ready=True,
        schema_name=model.schema.name,
        schema_hash=model.schema.hash,
        features=[_feature_spec(model, feature) for feature in model.schema.features],
        threshold=model.threshold,
        spike_bps=0.0 if forecast is None else forecast.spike_bps,
        takes_spike_multiple=forecast is not None and forecast.multiples is not None,
    )


def _feature_spec(model: Model, feature: Feature) -> FeatureSpec:
    low, high = model.ranges.get(feature.name, (None, None))
    return FeatureSpec(name=feature.name, unit=feature.unit, used=model.uses(feature.name), low=low, high=high)
