"""The gateway in front of models that forecast a distribution."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from common.schema import CORE_1, CORE_1_EXAMPLE, FULL_2
from tests.server.bundles import EXAMPLE
from tests.server.forecast_server import CORE, FULL
from tests.server.forecasts import MULTIPLES, SIZES, SPIKE_BPS, TRAILING, example_row

OLD_KEYS = ["probability", "threshold", "spike", "model_name", "model_version", "queue_us", "compute_us"]
ROW = np.array([EXAMPLE])
WIDE_ROW = np.array([example_row(FULL_2)])
WIDE = {"model": "wide", "features": dict(zip(FULL_2.names, WIDE_ROW[0].tolist(), strict=True))}


def predict(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/predict", json={**CORE_1_EXAMPLE, **fields})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def violations(client: httpx.Client, **fields: Any) -> list[tuple[str, str]]:
    answer = client.post("/predict", json={**CORE_1_EXAMPLE, **fields})
    assert answer.status_code == 422, answer.text
    return [(violation["field"], violation["problem"]) for violation in answer.json()["violations"]]


def test_without_a_question_the_answer_is_of_the_default_spike_size(forecast_gateway: httpx.Client) -> None:
    body = predict(forecast_gateway)
    assert body["spike_bps"] == SPIKE_BPS
    assert body["probability"] == pytest.approx(CORE.probability(ROW, np.array([SPIKE_BPS]))[0], abs=1e-9)
    assert body["median_bps"] == pytest.approx(CORE.medians(ROW)[0], rel=1e-9)
    assert body["base_rate"] == pytest.approx(SIZES.share_at(SPIKE_BPS))
    assert list(body) == [*OLD_KEYS, "spike_bps", "base_rate", "median_bps"]


def test_a_spike_size_and_levels_are_answered(forecast_gateway: httpx.Client) -> None:
    body = predict(forecast_gateway, spike_bps=4, quantiles=[0.1, 0.5, 0.9])
    assert (body["spike_bps"], body["quantiles"]) == (4, [0.1, 0.5, 0.9])
    assert body["base_rate"] == pytest.approx(SIZES.share_at(4.0))
    assert body["probability"] == pytest.approx(CORE.probability(ROW, np.array([4.0]))[0], abs=1e-9)
    np.testing.assert_allclose(body["quantile_bps"], CORE.quantiles(ROW, np.array([[0.1, 0.5, 0.9]]))[0], rtol=1e-9)


def test_a_multiple_of_the_trailing_hour_is_answered_with_its_size(forecast_gateway: httpx.Client) -> None:
    answer = forecast_gateway.post("/predict", json={**WIDE, "spike_multiple": 2.0})
    size = 2.0 * dict(zip(FULL_2.names, WIDE_ROW[0], strict=True))[TRAILING] * 1e4
    body = answer.json()
    assert body["spike_bps"] == pytest.approx(size, rel=1e-12)
    assert body["base_rate"] == pytest.approx(MULTIPLES.share_at(2.0))
    assert body["probability"] == pytest.approx(FULL.probability(WIDE_ROW, np.array([size]))[0], abs=1e-9)


@pytest.mark.parametrize("absent", [None, 0])
def test_null_and_zero_mean_the_default_size(forecast_gateway: httpx.Client, absent: int | None) -> None:
    assert predict(forecast_gateway, spike_bps=absent, spike_multiple=absent, quantiles=None)["spike_bps"] == SPIKE_BPS


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"spike_bps": -1.0}, "spike_bps", "expected a positive, finite number or 0, got -1"),
        ({"spike_bps": 1.0, "spike_multiple": 2.0}, "spike_bps", "expected at most one of spike_bps and spike_mul"),
        ({"spike_multiple": 2.0}, "spike_multiple", "model volatility/1 takes no multiples"),
        ({"quantiles": [0.5, 0.1]}, "quantiles[1]", "expected ascending levels, got 0.1 after 0.5"),
        ({"quantiles": [0.5, 1.0]}, "quantiles[1]", "expected a level in (0, 1), got 1"),
        ({"quantiles": [0.5, "1"]}, "quantiles[1]", "expected a finite number"),
        ({"quantiles": 0.5}, "quantiles", "expected a list of numbers"),
        ({"spike_bps": "5"}, "spike_bps", "expected a finite number"),
        ({"spike_multiple": True}, "spike_multiple", "expected a finite number"),
    ],
)
def test_a_wrong_question_is_named(
    forecast_gateway: httpx.Client, fields: dict[str, Any], field: str, problem: str
) -> None:
    problems = [text for name, text in violations(forecast_gateway, **fields) if name == field]
    assert [text[: len(problem)] for text in problems] == [problem]


def test_a_size_that_is_not_finite_is_refused_before_the_server(forecast_gateway: httpx.Client) -> None:
    content = '{"spike_bps": NaN, ' + ", ".join(f'"{name}": {value}' for name, value in CORE_1_EXAMPLE.items()) + "}"
    answer = forecast_gateway.post("/predict", content=content)
    assert answer.json()["error"] == "spike_bps: expected a finite number, got NaN"


def test_a_model_of_one_probability_answers_with_the_keys_of_before(forecast_gateway: httpx.Client) -> None:
    assert list(predict(forecast_gateway, model="plain")) == OLD_KEYS


@pytest.mark.parametrize(
    ("field", "value"), [("spike_bps", 2.0), ("spike_multiple", 2.0), ("quantiles", [0.5])], ids=str
)
def test_a_model_of_one_probability_refuses_each_question(
    forecast_gateway: httpx.Client, field: str, value: Any
) -> None:
    ((named, problem),) = violations(forecast_gateway, model="plain", **{field: value})
    assert named == field
    assert "forecasts no distribution" in problem


def test_the_description_states_used_features_and_ranges_of_the_served_model(forecast_gateway: httpx.Client) -> None:
    document = forecast_gateway.get("/openapi.json").json()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    texts = {name: content["schema"]["properties"][name]["description"] for name in CORE_1.names}
    unused = "Required, but volatility/1 does not use it."
    assert {name for name, text in texts.items() if unused not in text} == {"volatility", "trade_intensity"}
    assert "Plausible range, from the training rows of volatility/1: 0.0001 to 0.002." in texts["volatility"]
    assert "Plausible range" not in texts["price"]


def test_the_example_of_the_description_asks_for_a_size_and_quantiles(forecast_gateway: httpx.Client) -> None:
    document = forecast_gateway.get("/openapi.json").json()
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    body = forecast_gateway.post("/predict", json=example).json()
    assert (body["spike_bps"], body["quantiles"]) == (SPIKE_BPS, [0.1, 0.5, 0.9])
    answer = document["components"]["schemas"]["PredictAnswer"]["properties"]
    assert {"spike_bps", "base_rate", "median_bps", "quantiles", "quantile_bps"} <= set(answer)


def test_health_states_used_features_and_ranges(forecast_gateway: httpx.Client) -> None:
    model = next(model for model in forecast_gateway.get("/health").json()["models"] if model["name"] == "volatility")
    features = {feature["name"]: feature for feature in model["features"]}
    assert (model["spike_bps"], model["takes_spike_multiple"]) == (SPIKE_BPS, False)
    assert features["midprice"] == {"name": "midprice", "unit": "quote", "used": False}
    assert features["price"] == {"name": "price", "unit": "quote", "used": False, "low": 80_000.0, "high": 100_000.0}
    assert features["volatility"] == {"name": "volatility", "unit": "log", "used": True, "low": 0.0001, "high": 0.002}
