"""A model with features of its own answers through every interface of the server, over both fronts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cli.main import run_command
from clients.requests import named_request
from clients.sync import Client
from common.errors import RequestError, SchemaMismatchError
from common.schema import CORE_1
from tests.cli.models.exports import Network, training_data
from tests.server.bundles import write_bundle
from tests.server.processes import running, serve
from volcast.oip.v2 import ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse
from volcast.v1 import ModelSelector, PredictRequest, PredictResponse

pytestmark = pytest.mark.process

NAMES = ("depth", "größe", "age at quote")
NETWORK = Network(width=3)
MATRIX = training_data(3)[0][:40]
EXPECTED = NETWORK.probabilities(MATRIX)
BOOK = ModelSelector(name="book")
FLOAT32 = 1e-5


class Interfaces(NamedTuple):
    client: Client
    channel: grpc.Channel
    rest: httpx.Client


@pytest.fixture(scope="module", params=["native", "grpcio"])
def interfaces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interfaces]:
    """A server that holds core/1's model too, and a gateway before it."""
    folder = tmp_path_factory.mktemp("own")
    write_bundle(folder / "models")
    (folder / "network.onnx").write_bytes(NETWORK.proto().SerializeToString())
    (folder / "features.json").write_text(json.dumps(NAMES))
    arguments = ["models", "add", str(folder / "network.onnx"), "--features", str(folder / "features.json")]
    assert run_command([*arguments, "--name", "book", "--models-dir", str(folder / "models")]) == 0
    with (
        serve(folder / "models", VOLCAST_SERVER__FRONT=request.param) as server,
        running("gateway", "--port", "0", "--server", server.address) as gateway,
        Client(server.address) as client,
        grpc.insecure_channel(server.address) as channel,
        httpx.Client(base_url=f"http://{gateway.address}", trust_env=False) as rest,
    ):
        yield Interfaces(client, channel, rest)


def schema_hash(client: Client) -> str:
    return next(model.schema_hash for model in client.health().models if model.name == "book")


def named(row: Any) -> dict[str, float]:
    return dict(zip(NAMES, row.tolist(), strict=True))


def infer(channel: grpc.Channel, request: ModelInferRequest) -> np.ndarray[Any, Any]:
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
    )
    return np.frombuffer(call(request, timeout=5).raw_output_contents[0], "<f8")


def test_predict_by_name(interfaces: Interfaces) -> None:
    response = interfaces.client.predict_named([named(row) for row in MATRIX], model=BOOK)
    assert_allclose(response.probabilities, EXPECTED, rtol=0, atol=FLOAT32)
    assert response.model_name == "book"


@pytest.mark.parametrize("count", [1, 40])
def test_predict_packed(interfaces: Interfaces, count: int) -> None:
    client = interfaces.client
    for _ in range(3):  # the first call teaches the front the request's layout
        response = client.predict_packed(MATRIX[:count].tobytes(), count, schema_hash(client), model=BOOK)
        assert_allclose(response.probabilities, EXPECTED[:count], rtol=0, atol=FLOAT32)


def test_rows_of_another_schema_are_refused(interfaces: Interfaces) -> None:
    with pytest.raises(SchemaMismatchError):
        interfaces.client.predict_packed(bytes(88), 1, CORE_1.hash, model=BOOK)
    with pytest.raises(RequestError, match=r"features\[depth\]: missing"):
        interfaces.client.predict_named([dict.fromkeys(CORE_1.names, 1.0)], model=BOOK)


def test_stream_predict(interfaces: Interfaces) -> None:
    client = interfaces.client
    with client.stream() as stream:
        for start in range(0, len(MATRIX), 8):
            part = MATRIX[start : start + 8]
            response = stream.predict_packed(part.tobytes(), len(part), schema_hash(client), model=BOOK)
            assert_allclose(response.probabilities, EXPECTED[start : start + 8], rtol=0, atol=FLOAT32)


def test_the_open_inference_protocol_takes_the_matrix(interfaces: Interfaces) -> None:
    request = ModelInferRequest(model_name="book", raw_input_contents=[MATRIX.tobytes()])
    request.inputs.add(name="features", datatype="FP64", shape=MATRIX.shape)
    assert_allclose(infer(interfaces.channel, request), EXPECTED, rtol=0, atol=FLOAT32)


def test_the_open_inference_protocol_takes_an_input_for_each_feature(interfaces: Interfaces) -> None:
    request = ModelInferRequest(model_name="book")
    for name in reversed(NAMES):
        request.inputs.add(name=name, datatype="FP64", shape=[len(MATRIX)])
        request.raw_input_contents.append(MATRIX[:, NAMES.index(name)].tobytes())
    assert_allclose(infer(interfaces.channel, request), EXPECTED, rtol=0, atol=FLOAT32)


def test_metadata_tells_the_width(interfaces: Interfaces) -> None:
    call = interfaces.channel.unary_unary(
        "/inference.GRPCInferenceService/ModelMetadata",
        ModelMetadataRequest.SerializeToString,
        ModelMetadataResponse.FromString,
    )
    (taken,) = call(ModelMetadataRequest(name="book"), timeout=5).inputs
    assert (taken.name, list(taken.shape)) == ("features", [-1, 3])


def test_rest_takes_tensors(interfaces: Interfaces) -> None:
    tensor = {"name": "features", "datatype": "FP64", "shape": list(MATRIX.shape), "data": MATRIX.tolist()}
    answer = interfaces.rest.post("/v2/models/book/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    assert_allclose(answer.json()["outputs"][0]["data"], EXPECTED, rtol=0, atol=FLOAT32)


def test_rest_takes_a_row_by_name(interfaces: Interfaces) -> None:
    answer = interfaces.rest.post("/predict", json={"model": "book", "features": named(MATRIX[0])})
    assert answer.status_code == 200, answer.text
    assert answer.json()["probability"] == pytest.approx(EXPECTED[0], abs=FLOAT32)


def test_rest_names_a_feature_that_is_missing(interfaces: Interfaces) -> None:
    answer = interfaces.rest.post("/predict?model=book", json={"features": {"depth": 1, "größe": 2}})
    assert answer.status_code == 422
    assert answer.json()["violations"] == [{"field": "age at quote", "problem": "missing", "value": None}]


def test_the_command_takes_a_row_by_name(interfaces: Interfaces, capfd: pytest.CaptureFixture[str]) -> None:
    features = json.dumps(named(MATRIX[0]))
    options = ["--server", interfaces.client.target, "--model", "book", "--features", features, "--json"]
    assert run_command(["predict", *options]) == 0
    assert json.loads(capfd.readouterr().out)["probability"] == pytest.approx(EXPECTED[0], abs=FLOAT32)


# Names that are not ASCII


WRONG_NAME = {"depth": 1.0, "gröse": 2.0, "age at quote": 3.0}


def test_a_violation_has_the_features_own_name(interfaces: Interfaces) -> None:
    with pytest.raises(RequestError) as raised:
        interfaces.client.predict_named([WRONG_NAME], model=BOOK)
    assert {(fault.field, fault.description) for fault in raised.value.violations} == {
        ("named.rows[0].features[größe]", "missing"),
        ("named.rows[0].features[gröse]", "no feature of schema book/1"),
    }


def test_the_status_message_has_the_features_own_name(interfaces: Interfaces) -> None:
    call = interfaces.channel.unary_unary(
        "/volcast.v1.InferenceService/Predict", PredictRequest.SerializeToString, PredictResponse.FromString
    )
    with pytest.raises(grpc.RpcError) as raised:
        call(named_request([WRONG_NAME], BOOK), timeout=5)
    assert (raised.value.details() or "").startswith("named.rows[0].features[größe]: missing")


def test_a_violation_in_a_stream_has_the_features_own_name(interfaces: Interfaces) -> None:
    with interfaces.client.stream() as stream:
        stream.send(1, named_request([WRONG_NAME], BOOK))
        error = stream.receive(5).error
    assert error.message.startswith("named.rows[0].features[größe]: missing")


def test_control_characters_stay_escaped(interfaces: Interfaces) -> None:
    with pytest.raises(RequestError, match=r"features\[\\x1b\[31mred\\u202e\]: no feature of schema book/1"):
        interfaces.client.predict_named([{**named(MATRIX[0]), "\x1b[31mred\u202e": 1.0}], model=BOOK)


def test_rest_names_a_feature_as_the_schema_does(interfaces: Interfaces) -> None:
    answer = interfaces.rest.post("/predict?model=book", json={"features": WRONG_NAME})
    assert answer.status_code == 422
    assert [fault["field"] for fault in answer.json()["violations"]] == ["größe", "gröse"]
    wrong_value = interfaces.rest.post("/predict?model=book", json={"features": {**WRONG_NAME, "größe": "groß"}})
    assert wrong_value.json()["violations"] == [
        {"field": "größe", "problem": "expected a finite number", "value": '"groß"'}
    ]


@pytest.mark.parametrize(("name", "shown"), [("gröse", "'gröse'"), ("a\x1b", r"'a\x1b'")])
def test_the_open_inference_protocol_names_an_input_as_it_came(interfaces: Interfaces, name: str, shown: str) -> None:
    tensor = {"name": name, "datatype": "FP64", "shape": [1], "data": [1.0]}
    answer = interfaces.rest.post("/v2/models/book/infer", json={"inputs": [tensor]})
    assert answer.json()["error"].startswith(f"inputs[0].name: no input {shown} here; the model takes ")


def test_the_open_inference_protocol_names_a_missing_input_as_the_schema_does(interfaces: Interfaces) -> None:
    tensor = {"name": "depth", "datatype": "FP64", "shape": [1], "data": [1.0]}
    answer = interfaces.rest.post("/v2/models/book/infer", json={"inputs": [tensor]})
    assert answer.json()["error"] == "inputs: missing: größe, age at quote"


def test_the_command_names_a_feature_as_the_schema_does(
    interfaces: Interfaces, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--server", interfaces.client.target, "--model", "book", "--features", json.dumps(WRONG_NAME)]
    assert run_command(["predict", *options]) == 2
    assert capfd.readouterr().err == (
        "volcast: --features: größe: missing; --features: gröse: no feature of schema book/1\n"
    )


def test_the_example_of_core_1_is_no_row_of_another_schema(
    interfaces: Interfaces, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["predict", "--server", interfaces.client.target, "--model", "book", "--example"]) == 2
    assert capfd.readouterr().err == (
        "volcast: --example is a row of core/1; model book takes book/1 (depth, größe, age at quote): use --features\n"
    )
