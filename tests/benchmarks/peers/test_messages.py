"""Every door asks for the same rows and reads the same probabilities back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.peers import messages
from volcast.oip.v2 import ModelInferRequest, ModelInferResponse
from volcast.v1 import PredictRequest, PredictResponse

ROWS = [[0.5 * column + row for column in range(11)] for row in range(3)]
PROBABILITIES = [0.25, 0.5, 0.75]


def test_the_packed_request_carries_the_rows_bit_for_bit() -> None:
    packed = PredictRequest.FromString(messages.volcast_request(ROWS)).packed
    assert np.frombuffer(packed.values).reshape(packed.row_count, 11).tolist() == ROWS


def test_the_inference_protocol_request_carries_the_rows_raw_under_their_shape() -> None:
    request = ModelInferRequest.FromString(messages.infer_request(ROWS))
    assert (request.model_name, request.inputs[0].name, request.inputs[0].datatype) == (
        "volatility",
        "features",
        "FP64",
    )
    assert np.frombuffer(request.raw_input_contents[0]).reshape(tuple(request.inputs[0].shape)).tolist() == ROWS


def test_the_json_requests_carry_the_rows_digit_for_digit() -> None:
    assert json.loads(messages.json_request(ROWS))["rows"] == ROWS
    tensor = json.loads(messages.infer_json_request(ROWS))["inputs"][0]
    assert np.reshape(tensor["data"], tensor["shape"]).tolist() == ROWS


def test_probabilities_are_read_from_each_form_of_answer() -> None:
    raw = ModelInferResponse(raw_output_contents=[np.array(PROBABILITIES).tobytes()])
    typed = ModelInferResponse()
    typed.outputs.add(name="probability").contents.fp64_contents.extend(PROBABILITIES)
    assert messages.infer_answer(raw.SerializeToString()) == PROBABILITIES
    assert messages.infer_answer(typed.SerializeToString()) == PROBABILITIES
    assert messages.infer_json_answer(json.dumps({"outputs": [{"data": PROBABILITIES}]}).encode()) == PROBABILITIES
    assert messages.json_answer(json.dumps({"probabilities": PROBABILITIES}).encode()) == PROBABILITIES
    volcast = PredictResponse(probabilities=PROBABILITIES).SerializeToString()
    assert messages.volcast_answer(volcast) == PROBABILITIES


def test_an_answer_of_another_form_is_an_error_and_no_probability() -> None:
    with pytest.raises(KeyError):
        messages.json_answer(b'{"detail": "no"}')
