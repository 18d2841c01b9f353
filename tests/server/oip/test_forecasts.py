"""The Open Inference Protocol with models that forecast a distribution."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.errors import RequestError
from common.schema import CORE_1, FULL_2
from server.core.dataplane import DataPlane
from server.oip.infer import InferFrame, decode
from server.oip.service import OpenInference
from server.runtime.state import ServerState
from tests.server.forecast_server import CORE, FULL, RANGES, USED
from tests.server.forecasts import MULTIPLES, SIZES, SPIKE_BPS, rows_of
from tests.server.oip.conftest import outputs_of, score
from tests.server.oip.test_infer import raw_request, typed_request
from volcast.oip.v2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
)

Requested = ModelInferRequest.InferRequestedOutputTensor
MATRIX = rows_of(CORE_1, 3)
LEVELS = (0.1, 0.5, 0.9)


def asking(
    matrix: Any = MATRIX, outputs: tuple[str, ...] = (), model: str = "", **parameters: Any
) -> ModelInferRequest:
    """A raw request with parameters: float, int or str."""
    request = raw_request(matrix, model_name=model, outputs=[Requested(name=name) for name in outputs])
    kinds = {float: "double_param", int: "int64_param", str: "string_param", bool: "bool_param"}
    for name, value in parameters.items():
        setattr(request.parameters[name], kinds[type(value)], value)
    return request


def infer(plane: DataPlane, request: ModelInferRequest) -> ModelInferResponse:
    answered, encode = decode(outputs_of(plane), request.SerializeToString())
    return ModelInferResponse.FromString(encode(score(plane, answered)))


def tensors(answer: ModelInferResponse) -> dict[str, np.ndarray[Any, Any]]:
    raws = answer.raw_output_contents or [
        np.array(output.contents.fp64_contents).tobytes() for output in answer.outputs
    ]
    return {
        output.name: np.frombuffer(raw).reshape(output.shape) for output, raw in zip(answer.outputs, raws, strict=True)
    }


def numbers(answer: ModelInferResponse) -> dict[str, float]:
    return {name: float(parameter.string_param) for name, parameter in answer.parameters.items()}


def fault(plane: DataPlane, request: ModelInferRequest) -> tuple[str, str]:
    with pytest.raises(RequestError) as raised:
        infer(plane, request)
    violation = raised.value.violations[0]
    return violation.field, violation.description


def metadata(plane: DataPlane, name: str) -> ModelMetadataResponse:
    service = OpenInference(plane.repository, ServerState(build="", front=""))
    raw = service.model_metadata(ModelMetadataRequest(name=name).SerializeToString())
    return ModelMetadataResponse.FromString(raw)


# ModelInfer


def test_without_parameters_probability_and_median_are_of_the_default_size(forecast_plane: DataPlane) -> None:
    answer = infer(forecast_plane, raw_request(MATRIX))
    given = tensors(answer)
    assert list(given) == ["probability", "median_bps"]
    assert_allclose(given["probability"], CORE.probability(MATRIX, np.full(3, SPIKE_BPS)), atol=1e-9)
    assert_allclose(given["median_bps"], CORE.medians(MATRIX), rtol=1e-9)
    assert numbers(answer) == {
        "threshold": 0.5, "spike_bps": SPIKE_BPS, "base_rate": pytest.approx(SIZES.share_at(SPIKE_BPS)),
    }  # fmt: skip


@pytest.mark.parametrize("size", [4.0, 4, "4", "4.0"])
def test_a_spike_size_may_be_a_double_an_integer_or_a_string(forecast_plane: DataPlane, size: Any) -> None:
    answer = infer(forecast_plane, asking(spike_bps=size))
    assert numbers(answer)["spike_bps"] == 4.0
    assert_allclose(tensors(answer)["probability"], CORE.probability(MATRIX, np.full(3, 4.0)), atol=1e-9)


@pytest.mark.parametrize("make", [raw_request, typed_request])
def test_quantiles_are_rows_of_levels_in_both_forms(forecast_plane: DataPlane, make: Any) -> None:
    request = make(MATRIX)
    request.parameters["quantiles"].string_param = "0.1, 0.5,0.9"
    answer = infer(forecast_plane, request)
    assert bool(answer.raw_output_contents) == (make is raw_request)
    assert_allclose(tensors(answer)["quantile_bps"], CORE.quantiles(MATRIX, np.tile(LEVELS, (3, 1))), rtol=1e-9)


def test_a_multiple_gives_each_row_a_size_of_its_own(forecast_plane: DataPlane) -> None:
    matrix = rows_of(FULL_2, 3)
    answer = infer(forecast_plane, asking(matrix, model="wide", spike_multiple=2.0))
    sizes = 2.0 * matrix[:, FULL.column] * 1e4
    assert_allclose(tensors(answer)["probability"], FULL.probability(matrix, sizes), atol=1e-9)
    assert numbers(answer)["spike_bps"] == 0.0
    assert numbers(answer)["base_rate"] == pytest.approx(MULTIPLES.share_at(2.0))


@pytest.mark.parametrize(
    "names", [("probability",), ("median_bps",), ("quantile_bps", "probability"), ("median_bps", "quantile_bps")]
)
def test_only_requested_outputs_are_sent(forecast_plane: DataPlane, names: tuple[str, ...]) -> None:
    answer = infer(forecast_plane, asking(outputs=names, quantiles="0.25"))
    assert {output.name for output in answer.outputs} == set(names)
    assert len(answer.raw_output_contents) == len(names)
    complete = tensors(infer(forecast_plane, asking(quantiles="0.25")))
    for name, values in tensors(answer).items():
        assert_allclose(values, complete[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("request_", "field", "text"),
    [
        (asking(spike_bps="four"), "parameters[spike_bps]", "expected a number"),
        (asking(spike_multiple=True), "parameters[spike_multiple]", "expected a number"),
        (asking(quantiles=0.5), "parameters[quantiles]", "expected a string_param of at most 16 numbers"),
        (asking(quantiles="0.1;0.5"), "parameters[quantiles]", "expected a string_param of at most 16 numbers"),
        (asking(quantiles="," * 100_000), "parameters[quantiles]", "expected a string_param of at most 16 numbers"),
        (asking(quantiles="0.5,0.1"), "quantiles[1]", "expected ascending levels"),
        (asking(quantiles="0.5,nan"), "quantiles[1]", "expected a level in (0, 1)"),
        (asking(spike_bps=-1.0), "spike_bps", "expected a positive, finite number"),
        (asking(spike_bps="inf"), "spike_bps", "expected a positive, finite number"),
        (asking(spike_multiple=2.0), "spike_multiple", "model volatility/1 takes no multiples"),
        (asking(outputs=("quantile_bps",)), "outputs[0].name", "quantile_bps needs the parameter quantiles"),
        (
            asking(outputs=("probability", "label")),
            "outputs[1].name",
            "no output 'label'; the model gives 'probability', 'median_bps', 'quantile_bps'",
        ),
        (
            asking(outputs=("median_bps",), model="plain"),
            "outputs[0].name",
            "no output 'median_bps'; the model gives 'probability'",
        ),
        (asking(model="plain", spike_bps=1.0), "spike_bps", "model plain/1 forecasts no distribution"),
        (asking(model="plain", quantiles="0.5"), "quantiles", "model plain/1 forecasts no distribution"),
    ],
)
def test_a_wrong_question_is_named(
    forecast_plane: DataPlane, request_: ModelInferRequest, field: str, text: str
) -> None:
    named, description = fault(forecast_plane, request_)
    assert (named, description[: len(text)]) == (field, text)
    assert len(description) < 300


def test_seventeen_levels_are_refused(forecast_plane: DataPlane) -> None:
    levels = [str(round((1 + index) / 20, 2)) for index in range(17)]
    assert len(tensors(infer(forecast_plane, asking(quantiles=",".join(levels[:16]))))["quantile_bps"][0]) == 16
    field, _ = fault(forecast_plane, asking(quantiles=",".join(levels)))
    assert "quantiles" in field


@pytest.mark.parametrize("parameters", [{"spike_bps": 0.0}, {"quantiles": ""}, {"quantiles": " ", "spike_multiple": 0}])
def test_a_question_that_is_zero_or_empty_is_none(forecast_plane: DataPlane, parameters: dict[str, Any]) -> None:
    assert list(tensors(infer(forecast_plane, asking(model="plain", **parameters)))) == ["probability"]


def test_a_model_of_one_probability_answers_as_before(forecast_plane: DataPlane) -> None:
    answer = infer(forecast_plane, asking(model="plain"))
    assert (list(answer.parameters), [output.name for output in answer.outputs]) == (["threshold"], ["probability"])


def test_a_frame_of_the_stream_honours_requested_outputs(forecast_plane: DataPlane) -> None:
    frame = InferFrame(outputs_of(forecast_plane), asking(outputs=("median_bps",)).SerializeToString())
    assert len(score(forecast_plane, frame.input).probabilities) == 3
    refused = InferFrame(outputs_of(forecast_plane), asking(outputs=("label",)).SerializeToString())
    assert isinstance(refused.input, RequestError)


# Metadata


def test_metadata_lists_the_outputs_of_each_kind_of_model(forecast_plane: DataPlane) -> None:
    outputs = {
        name: [(o.name, list(o.shape)) for o in metadata(forecast_plane, name).outputs] for name in ("wide", "plain")
    }
    assert outputs == {
        "wide": [("probability", [-1]), ("median_bps", [-1]), ("quantile_bps", [-1, -1])],
        "plain": [("probability", [-1])],
    }


def test_properties_state_used_features_and_ranges(forecast_plane: DataPlane) -> None:
    properties = dict(metadata(forecast_plane, "volatility").properties)
    features = json.loads(properties.pop("features"))
    assert properties == {"spike_bps": repr(SPIKE_BPS), "takes_spike_multiple": "false"}
    assert list(features) == list(CORE_1.names)
    assert {name for name, facts in features.items() if facts["used"]} == set(USED)
    assert {name: (facts["low"], facts["high"]) for name, facts in features.items() if "low" in facts} == RANGES
    assert features["midprice"] == {"unit": "quote", "used": False}
    assert features["price"] == {"unit": "quote", "used": False, "low": 80_000.0, "high": 100_000.0}


def test_a_model_that_states_nothing_has_no_properties(forecast_plane: DataPlane) -> None:
    assert dict(metadata(forecast_plane, "plain").properties) == {}
    assert dict(metadata(forecast_plane, "wide").properties)["takes_spike_multiple"] == "true"


# REST


def test_rest_takes_the_parameters_and_gives_numbers(forecast_gateway: httpx.Client) -> None:
    body = {
        "inputs": [{"name": "features", "shape": [3, 11], "datatype": "FP64", "data": MATRIX.reshape(-1).tolist()}],
        "parameters": {"spike_bps": 4, "quantiles": "0.1,0.5,0.9"},
        "outputs": [{"name": "probability"}, {"name": "quantile_bps"}],
    }
    answer = forecast_gateway.post("/v2/models/volatility/infer", json=body)
    assert answer.status_code == 200, answer.text
    fields = answer.json()
    assert fields["parameters"] == {"threshold": 0.5, "spike_bps": 4.0, "base_rate": pytest.approx(0.1)}
    probability, quantiles = fields["outputs"]
    assert (quantiles["name"], quantiles["shape"]) == ("quantile_bps", [3, 3])
    assert_allclose(probability["data"], CORE.probability(MATRIX, np.full(3, 4.0)), atol=1e-9)
    assert_allclose(np.reshape(quantiles["data"], (3, 3)), CORE.quantiles(MATRIX, np.tile(LEVELS, (3, 1))), rtol=1e-9)


def test_rest_metadata_has_outputs_and_properties(forecast_gateway: httpx.Client) -> None:
    fields = forecast_gateway.get("/v2/models/volatility").json()
    assert [output["name"] for output in fields["outputs"]] == ["probability", "median_bps", "quantile_bps"]
    assert json.loads(fields["properties"]["features"])["volatility"] == {
        "unit": "log", "used": True, "low": 0.0001, "high": 0.002,
    }  # fmt: skip


def test_rest_names_a_wrong_question(forecast_gateway: httpx.Client) -> None:
    body = {
        "inputs": [{"name": "features", "shape": [1, 11], "datatype": "FP64", "data": MATRIX[0].tolist()}],
        "parameters": {"spike_bps": "x"},
    }
    answer = forecast_gateway.post("/v2/models/volatility/infer", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("parameters[spike_bps]: expected a number")


def test_parameters_of_no_kind_are_refused(forecast_plane: DataPlane) -> None:
    request = raw_request(MATRIX)
    request.parameters["spike_bps"].CopyFrom(InferParameter())
    assert fault(forecast_plane, request)[0] == "parameters[spike_bps]"
