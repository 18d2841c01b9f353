"""The same rows in each door's own form, and the probabilities read back out of its answers."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Sequence

from clients.requests import packed_request
from common.schema import CORE_1
from volcast.oip.v2 import ModelInferRequest, ModelInferResponse
from volcast.v1 import PredictResponse

Rows = Sequence[Sequence[float]]


def volcast_request(rows: Rows) -> bytes:
    """volcast.v1.PredictRequest with the rows packed."""
    return packed_request(_packed(rows), len(rows), CORE_1.hash).SerializeToString()


def volcast_answer(raw: bytes) -> list[float]:
    return list(PredictResponse.FromString(raw).probabilities)


def json_request(rows: Rows) -> bytes:
    return json.dumps({"rows": rows}).encode()


def json_answer(raw: bytes) -> list[float]:
    return [float(value) for value in json.loads(raw)["probabilities"]]


def infer_json_request(rows: Rows) -> bytes:
    """The protocol's REST form."""
    data = [value for row in rows for value in row]
    tensor = {"name": "features", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def infer_json_answer(raw: bytes) -> list[float]:
    return [float(value) for value in json.loads(raw)["outputs"][0]["data"]]


def infer_request(rows: Rows) -> bytes:
    """inference.ModelInferRequest of the Open Inference Protocol, contents raw: its fast form."""
    request = ModelInferRequest(model_name="volatility", raw_input_contents=[_packed(rows).tobytes()])
    request.inputs.add(name="features", datatype="FP64", shape=[len(rows), len(rows[0])])
    return request.SerializeToString()


def infer_answer(raw: bytes) -> list[float]:
    """Servers answer with raw contents or typed ones, as they like."""
    response = ModelInferResponse.FromString(raw)
    if response.raw_output_contents:
        return [value for (value,) in struct.iter_unpack("<d", response.raw_output_contents[0])]
    return list(response.outputs[0].contents.fp64_contents)


def _packed(rows: Rows) -> array[float]:
    return array("d", [value for row in rows for value in row])
