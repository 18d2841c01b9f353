"""The protocol's REST form: a gateway process in front of a server process."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.testing import assert_allclose

from server.gateway.oip import MAX_BODY_BYTES
from server.oip.rest import HEADER_LENGTH
from tests.server.bundles import Logistic, rows

STABLE = Logistic(10)
INFER = "/v2/models/volatility/infer"


def tensor(matrix: Any, datatype: str = "FP64", **fields: Any) -> dict[str, Any]:
    matrix = np.asarray(matrix)
    return {"name": "features", "shape": list(matrix.shape), "datatype": datatype, **fields}


def in_json(matrix: Any, datatype: str = "FP64") -> dict[str, Any]:
    return tensor(matrix, datatype, data=np.asarray(matrix).reshape(-1).tolist())


def binary(request: dict[str, Any], *values: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers; each input's size is set."""
    for tensor_fields, data in zip(request["inputs"], values, strict=True):
        tensor_fields.setdefault("parameters", {}).setdefault("binary_data_size", len(data))
    head = json.dumps(request).encode()
    return b"".join([head, *values]), {HEADER_LENGTH: str(len(head))}


def infer(rest: httpx.Client, request: dict[str, Any], path: str = INFER) -> dict[str, Any]:
    answer = rest.post(path, json=request)
    assert answer.status_code == 200, answer.text
    assert HEADER_LENGTH not in answer.headers
    fields: dict[str, Any] = answer.json()
    return fields


def refused(rest: httpx.Client, content: Any, code: int = 400, path: str = INFER, **headers: Any) -> str:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = rest.post(path, content=body, headers={key.replace("_", "-"): value for key, value in headers.items()})
    assert answer.status_code == code, answer.text
    fields = answer.json()
    assert set(fields) <= {"error", "violations"}
    text: str = fields["error"]
    return text


# Health, metadata, repository


def test_the_server_is_live_and_ready(rest: httpx.Client) -> None:
    assert rest.get("/v2/health/live").json() == {"live": True}
    assert rest.get("/v2/health/ready").json() == {"ready": True}


@pytest.mark.parametrize(
    ("path", "code", "fields"),
    [
        ("volatility/ready", 200, {"name": "volatility", "ready": True}),
        ("volatility/versions/9/ready", 200, {"name": "volatility", "ready": True}),
        ("moon/ready", 404, {"error": "model_name: no model 'moon'; loaded: jumps, volatility"}),
        (
            "volatility/versions/7/ready",
            404,
            {"error": "model_version: model 'volatility' has no version '7'; loaded: 9, 10"},
        ),
    ],
)
def test_a_model_is_ready_or_not_there(rest: httpx.Client, path: str, code: int, fields: dict[str, Any]) -> None:
    answer = rest.get(f"/v2/models/{path}")
    assert (answer.status_code, answer.json()) == (code, fields)


def test_metadata_of_the_server(rest: httpx.Client) -> None:
    extensions = ["binary_tensor_data", "model_repository"]
    build = rest.get("/version").json()["server"]
    assert rest.get("/v2").json() == {"name": "volcast", "version": build, "extensions": extensions}


@pytest.mark.parametrize("path", ["/v2/models/volatility", "/v2/models/volatility/versions/9"])
def test_metadata_of_a_model(rest: httpx.Client, path: str) -> None:
    assert rest.get(path).json() == {
        "name": "volatility",
        "versions": ["9", "10"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "features", "datatype": "FP64", "shape": [-1, 11]}],
        "outputs": [{"name": "probability", "datatype": "FP64", "shape": [-1]}],
    }


def test_metadata_of_an_unknown_model_is_404(rest: httpx.Client) -> None:
    assert rest.get("/v2/models/moon").status_code == 404


@pytest.mark.parametrize(("body", "count"), [(b"", 4), (b"{}", 4), (b'{"ready": true}', 3)])
def test_the_index_lists_every_version_or_those_that_are_ready(rest: httpx.Client, body: bytes, count: int) -> None:
    index = rest.post("/v2/repository/index", content=body).json()
    assert len(index) == count
    assert index[0] == {"name": "jumps", "version": "1", "state": "READY", "reason": ""}


@pytest.mark.parametrize("body", [b'{"ready": 1}', b"[]", b"{", b"\xff"])
def test_an_index_request_that_is_none_is_refused(rest: httpx.Client, body: bytes) -> None:
    refused(rest, body, path="/v2/repository/index")


def test_the_servers_word_on_loading_and_unloading_is_passed_on(rest: httpx.Client) -> None:
    load, unload = (f"/v2/repository/models/volatility/{verb}" for verb in ("load", "unload"))
    assert refused(rest, {"parameters": {"config": "{}"}}, 400, load).startswith("parameters: expected none")
    assert refused(rest, b"", 501, unload).startswith("models are not unloaded on request")


# Infer


@pytest.mark.parametrize("count", [1, 2, 256])
def test_rows_in_json_are_answered_in_json(rest: httpx.Client, count: int) -> None:
    answer = infer(rest, {"id": "7", "inputs": [in_json(rows(count))]})
    (output,) = answer.pop("outputs")
    expected = {"model_name": "volatility", "model_version": "10", "id": "7", "parameters": {"threshold": 0.25}}
    assert answer == expected
    assert_allclose(output.pop("data"), STABLE.predict(rows(count)), rtol=0, atol=1e-12)
    assert output == {"name": "probability", "datatype": "FP64", "shape": [count]}


@pytest.mark.parametrize(
    "data", [rows(2).tolist(), rows(2).reshape(-1).tolist()], ids=["rows of lists", "one flat list"]
)
def test_rows_may_be_lists_of_lists(rest: httpx.Client, data: Any) -> None:
    (output,) = infer(rest, {"inputs": [tensor(rows(2), data=data)]})["outputs"]
    assert_allclose(output["data"], STABLE.predict(rows(2)), rtol=0, atol=1e-12)


def test_float32_in_json_is_rounded_as_the_caller_asked(rest: httpx.Client) -> None:
    (output,) = infer(rest, {"inputs": [in_json(rows(2), "FP32")]})["outputs"]
    narrow = rows(2).astype(np.float32).astype(float)
    assert_allclose(output["data"], STABLE.predict(narrow), rtol=0, atol=1e-12)


def test_a_version_is_chosen_by_the_path(rest: httpx.Client) -> None:
    answer = infer(rest, {"inputs": [in_json(rows(1))]}, "/v2/models/volatility/versions/9/infer")
    assert answer["model_version"] == "9"


def test_whole_numbers_and_a_tensor_for_each_feature_are_accepted(rest: httpx.Client) -> None:
    described = rest.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]
    names = list(described["content"]["application/json"]["example"])
    inputs = [{"name": name, "shape": [2], "datatype": "FP64", "data": [1, 2]} for name in names]
    assert infer(rest, {"inputs": inputs})["outputs"][0]["shape"] == [2]


@pytest.mark.parametrize(
    ("changes", "as_bytes"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "probability", "parameters": {"binary_data": True}}]}, True),
        ({"outputs": [{"name": "probability"}], "parameters": {"binary_data_output": True}}, True),
        (
            {
                "outputs": [{"name": "probability", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
    ],
)
def test_binary_rows_are_answered_in_the_form_that_is_asked_for(
    rest: httpx.Client, changes: dict[str, Any], as_bytes: bool
) -> None:
    body, headers = binary({"inputs": [tensor(rows(3))], **changes}, rows(3).tobytes())
    answer = rest.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200
    size = int(answer.headers.get(HEADER_LENGTH, len(answer.content)))
    (output,) = json.loads(answer.content[:size])["outputs"]
    assert ("data" in output) is not as_bytes
    assert (output.get("parameters") == {"binary_data_size": 24}) is as_bytes
    values = struct.unpack("<3d", answer.content[size:]) if as_bytes else output["data"]
    assert_allclose(values, STABLE.predict(rows(3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body_is_unpacked(rest: httpx.Client, encoding: str, pack: Any) -> None:
    body = pack(json.dumps({"inputs": [in_json(rows(1))]}).encode())
    assert rest.post(INFER, content=body, headers={"Content-Encoding": encoding}).status_code == 200


# What is wrong


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"inputs": {}}', b'{"inputs": [1]}', b'{"inputs": [], "id": 7}', b"\xff", b"[" * 9999],
)
def test_a_body_that_is_no_inference_request_is_refused(rest: httpx.Client, body: bytes) -> None:
    assert refused(rest, body).startswith("body: no inference request: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data": [1.0] * 10}, "inputs[0].data: expected 11 values, got 10"),
        ({"data": [[1.0] * 10, [1.0]]}, "inputs[0].data: expected numbers, or equally long lists of them"),
        ({"data": [[1.0]] * 11}, "inputs[0].data: its lists have the shape [11, 1], `shape` says [1, 11]"),
        ({"data": ["1.0"] * 11}, "inputs[0].data: expected numbers, or equally long lists of them"),
        ({"data": [True] * 11}, "inputs[0].data: expected numbers, or equally long lists of them"),
        ({"data": [None] * 11}, "inputs[0].data: expected numbers, or equally long lists of them"),
        ({"data": "text"}, "inputs[0].data: expected numbers, or equally long lists of them"),
        ({"datatype": "BYTES", "data": ["text"] * 11}, "inputs[0].datatype: expected FP64 or FP32, got 'BYTES'"),
        ({"datatype": "INT64"}, "inputs[0].datatype: expected FP64 or FP32, got 'INT64'"),
        ({"shape": [-1, 11]}, "inputs[0].shape: expected 1 or 2 dimensions, none below 0, got 2: [-1, 11]"),
        ({"shape": []}, "inputs[0].shape: expected 1 or 2 dimensions, none below 0, got 0: []"),
        ({"shape": [2**63, 11]}, "body: no inference request: "),
        ({"shape": [2**62, 11]}, f"inputs[0].data: expected {11 * 2**62} values, got 11"),
        ({"shape": [1, 1, 11]}, "inputs[0].shape: expected 1 or 2 dimensions, none below 0, got 3: [1, 1, 11]"),
        ({"shape": [11, 1]}, "inputs[0].shape: features: expected [rows, 11], 1 to 500 rows, got [11, 1]"),
        ({"name": "moon"}, "inputs[0].name: no input 'moon' here; the model takes 'features' alone, or each feature"),
        ({"datatype": "FP32", "data": [1e300] * 11}, "inputs[0]: row 0, feature price: expected a finite number"),
        ({"parameters": {"shared_memory_region": "r"}, "data": None}, "inputs[0].parameters[shared_memory"),
    ],
)
def test_a_wrong_input_is_named(rest: httpx.Client, change: dict[str, Any], expected: str) -> None:
    assert refused(rest, {"inputs": [{**in_json(rows(1)), **change}]}).startswith(expected)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_infinities(rest: httpx.Client, value: str) -> None:
    body = json.dumps({"inputs": [in_json(rows(1))]}).replace(repr(rows(1)[0, 0].item()), value, 1)
    assert value in body
    refused(rest, body.encode())


@pytest.mark.parametrize("value", ["1e999", "-1e999", "9" * 400])
def test_a_number_beyond_float64_is_refused(rest: httpx.Client, value: str) -> None:
    body = json.dumps({"inputs": [in_json(rows(1))]}).replace(repr(rows(1)[0, 0].item()), value, 1)
    refused(rest, body.encode())


def test_no_inputs_and_no_values_are_refused(rest: httpx.Client) -> None:
    assert refused(rest, {"inputs": []}) == "inputs: missing: features"
    assert refused(rest, {"inputs": [tensor(rows(1))]}).startswith("raw_input_contents[0]: expected 88 bytes")


def test_an_unknown_output_is_refused(rest: httpx.Client) -> None:
    request = {"inputs": [in_json(rows(1))], "outputs": [{"name": "label"}]}
    assert refused(rest, request) == "outputs[0].name: no output 'label'; the model gives 'probability'"


@pytest.mark.parametrize("path", ["/v2/models/moon/infer", "/v2/models/volatility/versions/7/infer"])
def test_an_unknown_model_or_version_is_404(rest: httpx.Client, path: str) -> None:
    assert refused(rest, {"inputs": [in_json(rows(1))]}, 404, path).startswith("model_")


@pytest.mark.parametrize("length", ["", "-1", "1.5", "x", "99999999", "9" * 5000, "²"])
def test_a_header_length_that_is_none_is_refused(rest: httpx.Client, length: str) -> None:
    body, _ = binary({"inputs": [tensor(rows(1))]}, rows(1).tobytes())
    answer = rest.post(INFER, content=body, headers=[(HEADER_LENGTH.encode(), length.encode("latin-1"))])
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Inference-Header-Content-Length: expected the length of the JSON")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (89, "inputs[0].parameters[binary_data_size]: expected at most the 88 bytes"),
        (-1, "inputs[0].parameters[binary_data_size]: expected at most the 88 bytes"),
        (True, "inputs[0].parameters[binary_data_size]: expected at most the 88 bytes"),
        ("88", "inputs[0].parameters[binary_data_size]: expected at most the 88 bytes"),
        (80, "body: 8 bytes follow that are no input's"),
    ],
)
def test_a_binary_size_that_does_not_fit_is_refused(rest: httpx.Client, size: Any, expected: str) -> None:
    request = {"inputs": [tensor(rows(1), parameters={"binary_data_size": size})]}
    body, headers = binary(request, rows(1).tobytes())
    assert refused(rest, body, 400, **headers).startswith(expected)


def test_values_both_in_json_and_behind_it_are_refused(rest: httpx.Client) -> None:
    body, headers = binary({"inputs": [in_json(rows(1))]}, rows(1).tobytes())
    assert refused(rest, body, 400, **headers) == "inputs[0].data: expected none beside binary_data_size"


def test_a_body_over_the_limit_is_refused_packed_or_not(rest: httpx.Client) -> None:
    body = bytes(MAX_BODY_BYTES + 1)
    refused(rest, body, 413)
    refused(rest, gzip.compress(body), 413, Content_Encoding="gzip")


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [("br", b"x", 415), ("gzip", b"x", 400), ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400), ("deflate", b"x", 400)],
)
def test_a_body_that_cannot_be_unpacked_is_refused(rest: httpx.Client, encoding: str, body: bytes, code: int) -> None:
    refused(rest, body, code, Content_Encoding=encoding)


def test_a_gateway_without_its_server_is_live_and_not_ready(unreachable: httpx.Client) -> None:
    assert unreachable.get("/v2/health/live").status_code == 200
    away = unreachable.get("/v2/health/ready")
    assert (away.status_code, away.json()["ready"]) == (503, False)
    refused(unreachable, {"inputs": [in_json(rows(1))]}, 503)


# Clients that dump their models send null for every field that they leave out.

ROW = in_json(rows(1))
NULLS: dict[str, dict[str, Any]] = {
    "id": {"id": None},
    "parameters": {"parameters": None},
    "a parameter": {"parameters": {"routing_key": None, "binary_data_output": None}},
    "outputs": {"outputs": None},
    "parameters of an output": {"outputs": [{"name": "probability", "parameters": None}]},
    "a parameter of an output": {"outputs": [{"name": "probability", "parameters": {"binary_data": None}}]},
    "parameters of an input": {"inputs": [ROW | {"parameters": None}]},
    "a parameter of an input": {"inputs": [ROW | {"parameters": {"binary_data_size": None, "content_type": None}}]},
}


@pytest.mark.parametrize("fields", NULLS.values(), ids=NULLS)
def test_null_means_absent(rest: httpx.Client, fields: dict[str, Any]) -> None:
    plain = {"inputs": [ROW]}
    answer, expected = infer(rest, plain | fields), infer(rest, plain)
    assert answer["outputs"] == expected["outputs"]
    assert "id" not in answer


def test_null_data_beside_bytes_means_absent(rest: httpx.Client) -> None:
    matrix = rows(2)
    body, headers = binary({"inputs": [tensor(matrix, data=None)]}, matrix.astype("<f8").tobytes())
    answer = rest.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200, answer.text


def test_null_data_is_data_that_is_missing(rest: httpx.Client) -> None:
    assert refused(rest, {"inputs": [ROW | {"data": None}]}) == refused(
        rest, {"inputs": [{key: value for key, value in ROW.items() if key != "data"}]}
    )


@pytest.mark.parametrize("field", ["name", "shape", "datatype"])
def test_null_in_a_required_field_is_refused_by_name(rest: httpx.Client, field: str) -> None:
    assert field in refused(rest, {"inputs": [ROW | {field: None}]})


@pytest.mark.parametrize("body", [{"ready": None}, None, {"ready": False, "parameters": None}])
def test_null_in_the_body_of_the_index_means_absent(rest: httpx.Client, body: Any) -> None:
    expected = rest.post("/v2/repository/index").json()
    answer = rest.post("/v2/repository/index", content=json.dumps(body))
    assert (answer.status_code, answer.json()) == (200, expected)
