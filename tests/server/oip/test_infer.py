"""ModelInfer as a pair of functions: bytes to an input, a result to bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from common.errors import ModelNotFoundError, RequestError
from common.schema import CORE_1
from server.core.dataplane import DataPlane
from server.core.requests import Selection
from server.oip.infer import InferFrame, decode
from tests.server.bundles import Logistic, rows
from tests.server.conftest import MAX_ROWS
from tests.server.oip.conftest import outputs_of, score
from volcast.oip.v2 import InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

Tensor = ModelInferRequest.InferInputTensor
STABLE = Logistic(10)
DTYPES = {"FP64": "<f8", "FP32": "<f4"}


def raw_request(matrix: Any, datatype: str = "FP64", **fields: Any) -> ModelInferRequest:
    """`features` with its bytes beside it; fields: of the request."""
    matrix = np.asarray(matrix)
    tensor = Tensor(name="features", datatype=datatype, shape=matrix.shape)
    fields.setdefault("raw_input_contents", [matrix.astype(DTYPES[datatype]).tobytes()])
    return ModelInferRequest(**{"inputs": [tensor], **fields})


def typed_request(matrix: Any, datatype: str = "FP64") -> ModelInferRequest:
    matrix = np.asarray(matrix)
    tensor = Tensor(name="features", datatype=datatype, shape=matrix.shape)
    getattr(tensor.contents, f"{datatype.lower()}_contents").extend(matrix.reshape(-1).tolist())
    return ModelInferRequest(inputs=[tensor])


def by_feature(matrix: Any, *, column: bool = False) -> ModelInferRequest:
    """One tensor a feature, in the reverse of the schema's order."""
    request = ModelInferRequest()
    for index, name in reversed(list(enumerate(CORE_1.names))):
        shape = (len(matrix), 1) if column else (len(matrix),)
        request.inputs.append(Tensor(name=name, datatype="FP64", shape=shape))
        request.raw_input_contents.append(matrix[:, index].tobytes())
    return request


def infer(plane: DataPlane, request: ModelInferRequest) -> ModelInferResponse:
    asked, encode = decode(outputs_of(plane), request.SerializeToString())
    return ModelInferResponse.FromString(encode(score(plane, asked)))


def fault(plane: DataPlane, request: ModelInferRequest | bytes) -> tuple[str, str]:
    """The field at fault, and what is said of it."""
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    with pytest.raises(RequestError) as raised:
        score(plane, decode(outputs_of(plane), raw)[0])
    (violation,) = raised.value.violations
    return violation.field, violation.description


# What is right


@pytest.mark.parametrize("count", [1, 2, 256, MAX_ROWS])
def test_raw_rows_are_answered_raw(plane: DataPlane, count: int) -> None:
    answer = infer(plane, raw_request(rows(count)))
    assert (answer.model_name, answer.model_version) == ("volatility", "10")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("probability", "FP64", [count])
    assert not output.HasField("contents")
    (values,) = answer.raw_output_contents
    assert_allclose(np.frombuffer(values, "<f8"), STABLE.predict(rows(count)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 256])
def test_typed_rows_are_answered_typed(plane: DataPlane, count: int) -> None:
    answer = infer(plane, typed_request(rows(count)))
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("probability", "FP64", [count])
    assert list(answer.raw_output_contents) == []
    assert_allclose(output.contents.fp64_contents, STABLE.predict(rows(count)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [raw_request, typed_request])
def test_float32_is_widened(plane: DataPlane, make: Any) -> None:
    narrow = rows(3).astype(np.float32)
    asked, _ = decode(outputs_of(plane), make(narrow, "FP32").SerializeToString())
    assert_allclose(score(plane, asked).probabilities, STABLE.predict(narrow.astype(float)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("column", [False, True])
def test_one_tensor_a_feature_in_any_order_is_the_same_row(plane: DataPlane, column: bool) -> None:
    answer = infer(plane, by_feature(rows(5), column=column))
    assert answer.raw_output_contents == infer(plane, raw_request(rows(5))).raw_output_contents


def test_fields_of_a_later_protocol_beside_typed_values_change_nothing(plane: DataPlane) -> None:
    sound = typed_request(rows(2))
    unknown = b"\xfa\x3f\x03abc"  # field 1023, three bytes
    contents = sound.inputs[0].contents.SerializeToString()
    sound.inputs[0].contents.MergeFromString(unknown)
    assert sound.inputs[0].contents.SerializeToString() in (contents + unknown, unknown + contents)
    assert infer(plane, sound) == infer(plane, typed_request(rows(2)))


def test_raw_bytes_are_scored_where_they_lie(plane: DataPlane) -> None:
    asked, _ = decode(outputs_of(plane), raw_request(rows(4)).SerializeToString())
    matrix = plane.prepare(asked, 0).matrix
    assert isinstance(matrix.base, np.ndarray)
    assert not matrix.flags.owndata
    assert not matrix.flags.writeable


def test_the_id_and_the_threshold_come_with_the_answer(plane: DataPlane) -> None:
    answer = infer(plane, raw_request(rows(1), id="row 7 é"))
    assert answer.id == "row 7 é"
    assert answer.parameters["threshold"].string_param == "0.25"


@pytest.mark.parametrize(
    ("name", "version", "served"),
    [("", "", ("volatility", "10")), ("volatility", "9", ("volatility", "9")), ("jumps", "", ("jumps", "1"))],
)
def test_name_and_version_choose_the_model(plane: DataPlane, name: str, version: str, served: Any) -> None:
    answer = infer(plane, raw_request(rows(1), model_name=name, model_version=version))
    assert (answer.model_name, answer.model_version) == served


def test_a_routing_key_is_passed_on_and_other_parameters_are_not_looked_at(plane: DataPlane) -> None:
    parameters = {
        "routing_key": InferParameter(string_param="BTC-USD"),
        "sequence_id": InferParameter(int64_param=7),
        "priority": InferParameter(uint64_param=1),
    }
    asked, _ = decode(
        outputs_of(plane), raw_request(rows(1), model_name="m", parameters=parameters).SerializeToString()
    )
    assert asked.routing_key == "BTC-USD"
    assert asked.selection == Selection(name="m")


def test_an_output_may_be_asked_for_by_name(plane: DataPlane) -> None:
    asked = raw_request(rows(2), outputs=[ModelInferRequest.InferRequestedOutputTensor(name="probability")])
    assert infer(plane, asked).raw_output_contents == infer(plane, raw_request(rows(2))).raw_output_contents


# What is wrong

ROW = rows(1)
RAW = ROW.tobytes()


def features(*shape: int, datatype: str = "FP64", name: str = "features", raw: Any = (RAW,)) -> ModelInferRequest:
    tensor = Tensor(name=name, datatype=datatype, shape=shape)
    return ModelInferRequest(inputs=[tensor], raw_input_contents=raw)


def changed(request: ModelInferRequest, change: Any) -> ModelInferRequest:
    change(request)
    return request


@pytest.mark.parametrize("datatype", ["", "BYTES", "BOOL", "INT64", "FP16", "BF16", "fp64", "FP64 " * 100])
def test_another_datatype_is_refused_and_quoted_shortly(plane: DataPlane, datatype: str) -> None:
    field, text = fault(plane, features(1, 11, datatype=datatype))
    assert field == "inputs[0].datatype"
    assert text == f"expected FP64 or FP32, got {datatype[:40]!r}"


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ((), "inputs[0].shape"),
        ((1, 11, 1), "inputs[0].shape"),
        ((-1, 11), "inputs[0].shape"),
        ((-1, -11), "inputs[0].shape"),
        ((1, -(2**63)), "inputs[0].shape"),
        ((2**62, 11), "raw_input_contents[0]"),
        ((2**63 - 1, 2**63 - 1), "raw_input_contents[0]"),
        ((2, 11), "raw_input_contents[0]"),
        ((1, 10), "raw_input_contents[0]"),
        ((0, 11), "raw_input_contents[0]"),
        ((11,), "inputs[0].shape"),
        ((11, 1), "inputs[0].shape"),
    ],
)
def test_a_shape_that_is_none_or_fits_neither_bytes_nor_model_is_refused(
    plane: DataPlane, shape: tuple[int, ...], field: str
) -> None:
    assert fault(plane, features(*shape))[0] == field


def test_a_million_dimensions_are_counted_not_multiplied(plane: DataPlane) -> None:
    field, text = fault(plane, features(*[2**62] * 1_000_000))
    assert field == "inputs[0].shape"
    assert "got 1000000" in text
    assert len(text) < 200


@pytest.mark.parametrize("count", [0, MAX_ROWS + 1])
def test_no_rows_and_too_many_rows_are_refused(plane: DataPlane, count: int) -> None:
    field, text = fault(plane, raw_request(np.zeros((count, 11))))
    assert (field, text) == ("inputs[0].shape", f"features: expected [rows, 11], 1 to 500 rows, got [{count}, 11]")


@pytest.mark.parametrize("length", [0, 1, 87, 89, 8 * 11 * 2])
def test_bytes_of_another_length_are_refused(plane: DataPlane, length: int) -> None:
    field, text = fault(plane, features(1, 11, raw=[bytes(length)]))
    assert (field, text) == (
        "raw_input_contents[0]",
        f"expected 88 bytes (shape [1, 11] of FP64), got {length}",
    )


@pytest.mark.parametrize("raw", [[RAW, RAW], [RAW] * 3])
def test_bytes_for_more_tensors_than_there_are_are_refused(plane: DataPlane, raw: list[bytes]) -> None:
    field, text = fault(plane, features(1, 11, raw=raw))
    assert (field, text) == ("raw_input_contents", f"expected one for each of 1 inputs, or none, got {len(raw)}")


def test_values_both_typed_and_raw_are_refused(plane: DataPlane) -> None:
    request = changed(typed_request(ROW), lambda message: message.raw_input_contents.append(RAW))
    assert fault(plane, request) == ("inputs[0].contents", "expected none beside raw_input_contents")


@pytest.mark.parametrize(
    ("given", "field"), [(10, "inputs[0].contents.fp64_contents"), (0, "inputs[0].contents.fp64_contents")]
)
def test_too_few_typed_values_are_refused(plane: DataPlane, given: int, field: str) -> None:
    request = changed(
        typed_request(ROW), lambda message: message.inputs[0].contents.fp64_contents.__delitem__(slice(given, None))
    )
    assert fault(plane, request) == (field, f"expected 11 values (shape [1, 11]), got {given}")


def test_values_of_another_type_than_the_tensors_are_refused(plane: DataPlane) -> None:
    request = changed(typed_request(ROW), lambda message: message.inputs[0].contents.int_contents.append(1))
    expected = "expected fp64_contents alone for FP64, got int_contents, fp64_contents"
    assert fault(plane, request) == ("inputs[0].contents", expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", [raw_request, typed_request])
def test_a_value_that_is_not_finite_is_named(plane: DataPlane, make: Any, value: float) -> None:
    matrix = rows(3)
    matrix[1, 9] = value
    field, text = fault(plane, make(matrix))
    assert (field, text) == ("inputs[0]", f"row 1, feature spread_rel: expected a finite number, got {value}")


@pytest.mark.parametrize("request_of", [lambda message: message, lambda message: by_feature(rows(1), column=True)])
def test_a_signalling_nan_is_refused_without_a_warning(plane: DataPlane, request_of: Any) -> None:
    request = request_of(raw_request(np.ones((1, 11)), "FP32"))
    width = 11 if len(request.inputs) == 1 else 1
    request.inputs[0].datatype = "FP32"
    request.raw_input_contents[0] = np.full(width, 0x7FA00000, "<u4").tobytes()
    assert fault(plane, request)[1].endswith("expected a finite number, got nan")


def test_a_value_of_a_single_feature_that_is_not_finite_is_named(plane: DataPlane) -> None:
    matrix = rows(3)
    matrix[2, 0] = math.nan
    field, text = fault(plane, by_feature(matrix))
    assert (field, text) == ("inputs[10]", "row 2, feature price: expected a finite number, got nan")


def test_a_request_without_inputs_is_refused(plane: DataPlane) -> None:
    assert fault(plane, b"") == ("inputs", "missing: features")


def test_a_feature_that_is_missing_is_named(plane: DataPlane) -> None:
    request = by_feature(rows(1))
    del request.inputs[0], request.raw_input_contents[0]
    assert fault(plane, request) == ("inputs", "missing: order_book_imbalance")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("moon", "no input 'moon' here"), ("price", "'price' is given twice"), ("features", "no input 'features' here")],
)
def test_an_input_too_many_is_named(plane: DataPlane, name: str, expected: str) -> None:
    request = by_feature(rows(1))
    request.inputs.append(Tensor(name=name, datatype="FP64", shape=[1]))
    request.raw_input_contents.append(bytes(8))
    field, text = fault(plane, request)
    assert field == "inputs[11].name"
    assert text.startswith(expected)


def test_more_inputs_than_any_schema_has_are_not_looked_at(plane: DataPlane) -> None:
    request = ModelInferRequest(inputs=[Tensor()] * 10_000)
    assert fault(plane, request) == ("inputs", "expected at most 256, got 10000")


@pytest.mark.parametrize(("shape", "length"), [([2], 2), ([1, 2], 2), ([0], 0), ([MAX_ROWS + 1], MAX_ROWS + 1)])
def test_features_of_different_lengths_are_refused(plane: DataPlane, shape: list[int], length: int) -> None:
    request = by_feature(rows(1))
    request.inputs[4].CopyFrom(Tensor(name=request.inputs[4].name, datatype="FP64", shape=shape))
    request.raw_input_contents[4] = bytes(8 * length)
    assert fault(plane, request)[0] == "inputs[4].shape"


@pytest.mark.parametrize("count", [0, MAX_ROWS + 1])
def test_single_features_of_no_rows_or_too_many_are_refused(plane: DataPlane, count: int) -> None:
    field, text = fault(plane, by_feature(np.zeros((count, 11))))
    assert field == "inputs[0].shape"
    assert "1 to 500 rows" in text


def test_an_unknown_output_is_refused(plane: DataPlane) -> None:
    request = raw_request(ROW, outputs=[ModelInferRequest.InferRequestedOutputTensor(name="label")])
    assert fault(plane, request) == ("outputs[0].name", "no output 'label'; the model gives 'probability'")


def test_a_classification_is_refused(plane: DataPlane) -> None:
    output = ModelInferRequest.InferRequestedOutputTensor(name="probability")
    output.parameters["classification"].int64_param = 2
    assert fault(plane, raw_request(ROW, outputs=[output]))[0] == "outputs[0].parameters[classification]"


@pytest.mark.parametrize("where", ["input", "output"])
def test_shared_memory_is_refused_as_such(plane: DataPlane, where: str) -> None:
    request = raw_request(ROW, outputs=[ModelInferRequest.InferRequestedOutputTensor(name="probability")])
    tensor = request.inputs[0] if where == "input" else request.outputs[0]
    tensor.parameters["shared_memory_region"].string_param = "r"
    if where == "input":
        del request.raw_input_contents[:]
    field, text = fault(plane, request)
    assert field == f"{where}s[0].parameters[shared_memory_region]"
    assert text == "there is no shared memory here; send the values"


def test_a_routing_key_that_is_no_string_is_refused(plane: DataPlane) -> None:
    request = raw_request(ROW, parameters={"routing_key": InferParameter(int64_param=7)})
    assert fault(plane, request) == ("parameters[routing_key]", "expected a string_param")


@pytest.mark.parametrize(
    ("fields", "field"), [({"model_name": "moon"}, "model.name"), ({"model_version": "7"}, "model.version")]
)
def test_an_unknown_model_or_version_is_not_found(plane: DataPlane, fields: dict[str, str], field: str) -> None:
    asked, _ = decode(outputs_of(plane), raw_request(ROW, **fields).SerializeToString())
    with pytest.raises(ModelNotFoundError) as raised:
        score(plane, asked)
    assert raised.value.violations[0].field == field


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff"])
def test_bytes_that_are_no_request_are_refused(plane: DataPlane, raw: bytes) -> None:
    assert fault(plane, raw) == ("request", "the bytes are no inference.ModelInferRequest")


@given(st.integers(0, 10_000), st.binary(max_size=3), st.booleans())
def test_a_damaged_request_is_answered_or_refused_and_nothing_else(
    plane: DataPlane, position: int, noise: bytes, cut: bool
) -> None:
    sound = by_feature(rows(2)).SerializeToString() if position % 2 else raw_request(rows(2)).SerializeToString()
    position %= len(sound)
    damaged = sound[:position] + noise + (b"" if cut else sound[position + len(noise) :])
    try:
        asked, encode = decode(outputs_of(plane), damaged)
        encode(score(plane, asked))
    except RequestError:
        pass


# ModelStreamInfer


def test_a_frame_is_answered_as_model_infer_would(plane: DataPlane) -> None:
    request = raw_request(rows(2), id="7")
    frame = InferFrame(outputs_of(plane), request.SerializeToString())
    answer = ModelStreamInferResponse.FromString(frame.encode(score(plane, frame.input)))
    assert (answer.error_message, answer.infer_response) == ("", infer(plane, request))


def test_a_frame_at_fault_is_answered_with_its_id(plane: DataPlane) -> None:
    frame = InferFrame(outputs_of(plane), raw_request(rows(2), id="7", raw_input_contents=[b""]).SerializeToString())
    assert isinstance(frame.input, RequestError)
    answer = ModelStreamInferResponse.FromString(frame.fail(frame.input))
    assert answer.error_message == "raw_input_contents[0]: expected 176 bytes (shape [2, 11] of FP64), got 0"
    assert answer.infer_response == ModelInferResponse(id="7")


def test_a_frame_that_is_none_is_answered_without_an_id(plane: DataPlane) -> None:
    frame = InferFrame(outputs_of(plane), b"\xff")
    assert isinstance(frame.input, RequestError)
    assert ModelStreamInferResponse.FromString(frame.fail(frame.input)).infer_response.id == ""


def test_a_fault_of_ours_never_carries_its_text_into_the_stream(plane: DataPlane) -> None:
    frame = InferFrame(outputs_of(plane), raw_request(rows(1)).SerializeToString())
    answer = ModelStreamInferResponse.FromString(frame.fail(ZeroDivisionError("secret")))
    assert answer.error_message == "internal error"
