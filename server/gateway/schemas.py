"""The JSON of POST /predict: a row of features, its prediction, and errors that name the wrong fields."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from common.errors import FieldViolation
from common.schema import CORE_1, CORE_1_EXAMPLE, Feature
from common.text import shown
from volcast.v1 import ModelSelector, NamedRow, NamedRows, PredictRequest, PredictResponse

_UNITS = {
    "quote": "quote currency",
    "log": "natural logarithm",
    "1/s": "per second",
    "1": "plain ratio",
}
EXAMPLE_LEVELS = (0.1, 0.5, 0.9)
_MAX_SHOWN = 60
_MAX_VIOLATIONS = 20
# Field paths of PredictRequest, and the names of these fields in the JSON body.
_JSON_NAMES = {"model.name": "model", "model.version": "version"}
_FEATURE_PREFIX = "named.rows[0].features["


def _feature_field(feature: Feature) -> Any:
    unit = _UNITS.get(feature.unit, feature.unit)
    description = f"{feature.description[0].upper()}{feature.description[1:]} ({unit})."
    return (float, Field(description=description, examples=[CORE_1_EXAMPLE[feature.name]]))


class _Row(BaseModel):
    """One row of features, flat. Numbers are JSON numbers: text, true and false, NaN and infinities are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


_FEATURES: dict[str, Any] = {feature.name: _feature_field(feature) for feature in CORE_1.features}
# Null means absent: clients that dump their models send it.
_OPTIONS: dict[str, Any] = {
    "product_id": (
        str | None,
        Field(None, description="Product the row describes; no model input.", examples=["BTC-USD"]),
    ),
    "event_time_ns": (
        Annotated[int, Field(ge=0, le=2**63 - 1)] | None,
        Field(
            None,
            description="Event time, ns since the epoch, UTC; no model input.",
            examples=[1_767_225_600_000_000_000],
        ),
    ),
    "model": (str | None, Field(None, description="Model name; empty: the server's default.", examples=["volatility"])),
    "version": (str | None, Field(None, description="Model version; empty: the one labelled stable.", examples=["1"])),
    "spike_bps": (
        float | None,
        Field(
            None,
            description="Spike size: realized volatility of the next 60 s in basis points; 0: the model's default. "
            "This field and the next two need a model that forecasts a distribution.",
            examples=[5.0],
        ),
    ),
    "spike_multiple": (
        float | None,
        Field(
            None,
            description="Spike size as a multiple of the trailing hour's volatility, instead of spike_bps; 0: not "
            "used. Only for models of schema full/2.",
            examples=[3.0],
        ),
    ),
    "quantiles": (
        list[float] | None,
        Field(
            None,
            description="Levels of the quantiles to return: ascending, in (0, 1), at most 16.",
            examples=[list(EXAMPLE_LEVELS)],
        ),
    ),
}
PredictBody = create_model("PredictBody", __base__=_Row, **_FEATURES, **_OPTIONS)
PredictBody.__doc__ = _Row.__doc__
_OWN: dict[str, Any] = {
    "features": (
        Annotated[dict[str, float], Field(min_length=1)],
        Field(description="Each feature of the model's schema, by name.", examples=[{"spread": 0.01, "depth": 12.5}]),
    )
}
OwnFeaturesBody = create_model("OwnFeaturesBody", __base__=_Row, **_OWN, **_OPTIONS)
OwnFeaturesBody.__doc__ = "One row for a model with features of its own (docs/own_model.md)."


class PredictAnswer(BaseModel):
    """Probability of a volatility spike in the next 60 s. Forecast models add spike_bps and the fields after it."""

    model_config = ConfigDict(protected_namespaces=())

    probability: float = Field(
        description="Probability, in [0, 1], that realized volatility in the 60 s after the row reaches the spike size."
    )
    threshold: float = Field(
        description="Alert level of the model, in [0, 1]. It belongs to the model's default spike size."
    )
    spike: bool = Field(description="Whether probability >= threshold.")
    model_name: str = Field(description="Model that answered.")
    model_version: str = Field(description="Its version.")
    queue_us: float = Field(description="Time the request waited for the model, microseconds.")
    compute_us: float = Field(description="Time the model ran, microseconds.")
    spike_bps: float | None = Field(None, description="Spike size of the probability, basis points of volatility.")
    base_rate: float | None = Field(
        None,
        description="Share of the training rows at or above the spike size, in [0, 1]: compare probability with it.",
    )
    median_bps: float | None = Field(None, description="Median of the forecast volatility, basis points.")
    quantiles: list[float] | None = Field(None, description="The requested levels.")
    quantile_bps: list[float] | None = Field(
        None, description="Quantiles of the forecast volatility at these levels, basis points."
    )


class Violation(BaseModel):
    """One field at fault."""

    field: str = Field(description="Name of the field, or `body`.")
    problem: str = Field(description="What was expected.")
    value: str | None = Field(default=None, description="What came instead, cut short; null where nothing came.")


class ErrorBody(BaseModel):
    """Why there is no prediction."""

    error: str = Field(description="One line for people.")
    violations: list[Violation] = Field(default_factory=list, description="The fields at fault, where the request is.")


def read_body(data: bytes) -> Any:
    """A PredictBody, or an OwnFeaturesBody if it has `features`. Raises pydantic's ValidationError."""
    try:
        return PredictBody.model_validate_json(data)
    except ValidationError as error:
        if not any(finding["loc"] == ("features",) for finding in error.errors(include_url=False, include_input=False)):
            raise
    return OwnFeaturesBody.model_validate_json(data)


def predict_request(body: Any, model: str, version: str) -> PredictRequest:
    """Returns the request for a validated body. model, version: from the query, used if the body has none."""
    row = NamedRow(product_id=body.product_id or "", event_time_ns=body.event_time_ns or 0)
    own = isinstance(body, OwnFeaturesBody)
    row.features.update(body.features if own else {name: getattr(body, name) for name in CORE_1.names})
    request = PredictRequest(named=NamedRows(rows=[row]))
    name, chosen = body.model or model, body.version or version
    if name or chosen:
        request.model.CopyFrom(ModelSelector(name=name, version=chosen or None))
    request.spike_bps = body.spike_bps or 0.0
    request.spike_multiple = body.spike_multiple or 0.0
    request.quantiles.extend(body.quantiles or ())
    return request


def predict_answer(request: PredictRequest, response: PredictResponse) -> PredictAnswer:
    """Returns the answer. If the model forecasts no distribution, the fields of the forecast are None."""
    probability = response.probabilities[0]
    forecast: dict[str, Any] = {}
    if response.median_bps:
        forecast = {
            "spike_bps": response.spike_bps,
            "base_rate": response.base_rate,
            "median_bps": response.median_bps[0],
        }
    if response.quantile_bps:
        forecast |= {"quantiles": list(request.quantiles), "quantile_bps": list(response.quantile_bps)}
    return PredictAnswer(
        probability=probability,
        threshold=response.threshold,
        spike=probability >= response.threshold,
        model_name=response.model_name,
        model_version=response.model_version,
        queue_us=response.queue_ns / 1000,
        compute_us=response.compute_ns / 1000,
        **forecast,
    )


def violations_of(error: ValidationError) -> list[Violation]:
    """Returns pydantic's findings as violations: field, expectation, value."""
    findings = error.errors(include_url=False, include_context=False)
    return [_violation(finding) for finding in findings[:_MAX_VIOLATIONS]]


def _violation(finding: Any) -> Violation:
    where, value = finding["loc"], _shown(finding["input"])
    field = shown(str(where[0]), _MAX_SHOWN) if where else "body"
    if field == "features" and len(where) > 1:  # the feature's own name, as in the server's findings
        return Violation(field=shown(str(where[1]), _MAX_SHOWN), problem="expected a finite number", value=value)
    if field == "quantiles" and len(where) > 1:
        return Violation(field=f"quantiles[{where[1]}]", problem="expected a finite number", value=value)
    match finding["type"]:
        case "missing":
            return Violation(field=field, problem=f"missing, expected {_expected(field)}")
        case "extra_forbidden":
            return Violation(field=field, problem="no such field", value=value)
        case "model_type" | "model_attributes_type":
            return Violation(field="body", problem="expected one JSON object", value=value)
        case _:
            return Violation(field=field, problem=f"expected {_expected(field)}", value=value)


def _expected(field: str) -> str:
    if field in CORE_1.names or field in ("spike_bps", "spike_multiple"):
        return "a finite number"
    if field == "quantiles":
        return "a list of numbers"
    if field == "features":
        return "an object of feature names and numbers"
    return "a whole number from 0 to 2^63 - 1" if field == "event_time_ns" else "text"


def _shown(value: Any) -> str:
    return shown(json.dumps(value, ensure_ascii=False), _MAX_SHOWN)


def named_violations(violations: Iterable[FieldViolation]) -> list[Violation]:
    """Returns the server's violations with the names of JSON fields: `named.rows[0].features[price]` is `price`."""
    return [Violation(field=_json_name(violation.field), problem=violation.description) for violation in violations]


def _json_name(path: str) -> str:
    feature = path.removeprefix(_FEATURE_PREFIX)
    return _JSON_NAMES.get(path) or (feature.removesuffix("]") if feature != path else path)


def one_line(violations: Iterable[Violation]) -> str:
    return "; ".join(
        f"{violation.field}: {violation.problem}" + (f", got {violation.value}" if violation.value is not None else "")
        for violation in violations
    )
