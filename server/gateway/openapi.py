"""What OpenAPI states about the model that is served: used features, their ranges, an example with a spike size."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from server.gateway.schemas import EXAMPLE_LEVELS
from volcast.v1 import FeatureSpec, HealthResponse, ModelStatus

STABLE = "stable"


def described(document: dict[str, Any], health: HealthResponse) -> dict[str, Any]:
    """A copy of the OpenAPI document, with the facts of the default model in the body of /predict."""
    model = _default_model(health)
    if model is None:
        return document
    document = deepcopy(document)
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    properties = body["schema"]["properties"]
    states_use = any(feature.used for feature in model.features)  # older servers do not fill the field
    for feature in model.features:
        if feature.name in properties:
            facts = _facts(feature, f"{model.name}/{model.version}", states_use)
            properties[feature.name]["description"] = " ".join([properties[feature.name]["description"], *facts])
    if model.spike_bps:
        body["example"] |= {"spike_bps": model.spike_bps, "quantiles": list(EXAMPLE_LEVELS)}
    return document


def _default_model(health: HealthResponse) -> ModelStatus | None:
    """The version that answers a request without a selection; None if none is loaded."""
    for model in health.models:
        if model.name == health.default_model and STABLE in model.labels and model.ready:
            return model
    return None


def _facts(feature: FeatureSpec, model: str, states_use: bool) -> list[str]:
    if states_use and not feature.used:
        return [f"Required, but {model} does not use it."]  # any finite value is plausible
    if feature.HasField("low") and feature.HasField("high"):
        return [f"Plausible range, from the training rows of {model}: {feature.low:g} to {feature.high:g}."]
    return []
