"""ModelInfer: tensors in, probabilities and quantiles out.

This module checks everything that does not depend on the model: datatypes, and shapes against lengths.
server.core.tensors compares names and shapes with the model's schema. An error names the first fault only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common.errors import RequestError, VolcastError
from common.rpc_status import to_status
from common.text import MAX_SHOWN
from server.core.dataplane import Result
from server.core.requests import PredictInput, Selection
from server.core.tensors import Tensor, TensorInput
from server.oip.outputs import InferResponseFormat, OutputsOf, refuse_shared_memory, requested_outputs
from server.oip.parameters import forecast_query, routing_key
from server.rpc.inference import parse
from volcast.oip.v2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

# More tensors than any schema has features. A request of a million empty tensors is refused without reading each.
MAX_INPUTS = 256
_DTYPES: dict[str, np.dtype[np.floating[Any]]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
_CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents"}


def decode(outputs_of: OutputsOf, raw: bytes) -> tuple[PredictInput, Callable[[Result], bytes]]:
    """Returns the input and the encoder of its response; raises RequestError. outputs_of: see `requested_outputs`."""
    request = parse(ModelInferRequest, raw)
    predict = infer_input(request)
    outputs = requested_outputs(request.outputs, predict, outputs_of)
    return predict, _response_format(request, outputs).encode


def _response_format(request: ModelInferRequest, outputs: tuple[str, ...] = ()) -> InferResponseFormat:
    return InferResponseFormat(request.id, bool(request.raw_input_contents) or not request.inputs, outputs)


def infer_input(request: ModelInferRequest) -> PredictInput:
    """Raises RequestError, naming the field."""
    # Slices are lists, which are fast to iterate; a step through a protobuf container takes 1 us.
    inputs, raws = request.inputs[: MAX_INPUTS + 1], request.raw_input_contents[: MAX_INPUTS + 1]
    if len(inputs) > MAX_INPUTS:
        raise RequestError.of("inputs", f"expected at most {MAX_INPUTS}, got {len(request.inputs)}")
    if raws and len(raws) != len(inputs):
        refuse_shared_memory(inputs, "inputs")
        what = f"expected one for each of {len(inputs)} inputs, or none, got {len(request.raw_input_contents)}"
        raise RequestError.of("raw_input_contents", what)
    tensors = [_tensor(index, tensor, raws[index] if raws else None) for index, tensor in enumerate(inputs)]
    selection = Selection(request.model_name, request.model_version)
    key, query = routing_key(request.parameters), forecast_query(request.parameters)
    return PredictInput(TensorInput(tensors), selection, key, query)


def _tensor(index: int, tensor: Any, raw: bytes | None) -> Tensor:
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        raise RequestError.of(
            f"inputs[{index}].datatype", f"expected FP64 or FP32, got {tensor.datatype[:MAX_SHOWN]!r}"
        )
    # Cut to 4 dimensions first: the product of a million dimensions would be an integer of megabytes.
    shape = tuple(tensor.shape[:4])
    if not 1 <= len(shape) <= 2 or min(shape) < 0:
        what = f"expected 1 or 2 dimensions, none below 0, got {len(tensor.shape)}: {list(shape)}"
        raise RequestError.of(f"inputs[{index}].shape", what)
    count = shape[0] * shape[1] if len(shape) == 2 else shape[0]
    values = (
        _typed(index, tensor, dtype, shape, count) if raw is None else _raw(index, tensor, raw, dtype, shape, count)
    )
    return Tensor(tensor.name, shape, values)


def _raw(index: int, tensor: Any, raw: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], count: int) -> Any:
    """Returns a view of the bytes."""
    if tensor.HasField("contents") and tensor.contents.ListFields():
        raise RequestError.of(f"inputs[{index}].contents", "expected none beside raw_input_contents")
    if len(raw) != count * dtype.itemsize:
        refuse_shared_memory([tensor], f"inputs[{index}]")
        expected = f"{count * dtype.itemsize} bytes (shape {list(shape)} of {tensor.datatype})"
        raise RequestError.of(f"raw_input_contents[{index}]", f"expected {expected}, got {len(raw)}")
    return np.frombuffer(raw, dtype)


def _typed(index: int, tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...], count: int) -> Any:
    field = _CONTENTS[tensor.datatype]
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled not in ([field], []):
        refuse_shared_memory([tensor], f"inputs[{index}]")
        what = f"expected {field} alone for {tensor.datatype}, got {', '.join(filled)}"
        raise RequestError.of(f"inputs[{index}].contents", what)
    values = getattr(tensor.contents, field)
    if len(values) != count:
        refuse_shared_memory([tensor], f"inputs[{index}]")
        what = f"expected {count} values (shape {list(shape)}), got {len(values)}"
        raise RequestError.of(f"inputs[{index}].contents.{field}", what)
    # Without unknown fields the message consists of the packed field, whose elements have the layout of an array.
    # Reading its bytes takes 3 us for 256 rows; converting Python floats takes 100 us. The array is copied because
    # the field's tag and length leave the elements unaligned.
    tensor.contents.DiscardUnknownFields()
    packed = tensor.contents.SerializeToString()
    return np.array(np.frombuffer(packed, dtype, offset=len(packed) - count * dtype.itemsize))


class InferFrame:
    """One request of ModelStreamInfer. If the request cannot be parsed, the id of its response is empty."""

    __slots__ = ("_format", "input")

    def __init__(self, outputs_of: OutputsOf, raw: bytes) -> None:
        self._format = InferResponseFormat("", True)
        self.input: PredictInput | VolcastError
        try:
            request = parse(ModelInferRequest, raw)
            self._format = _response_format(request)
            self.input = infer_input(request)
            self._format = _response_format(request, requested_outputs(request.outputs, self.input, outputs_of))
        except RequestError as error:
            self.input = error

    def encode(self, result: Result) -> bytes:
        response = ModelInferResponse.FromString(self._format.encode(result))
        return ModelStreamInferResponse(infer_response=response).SerializeToString()

    def fail(self, error: Exception) -> bytes:
        response = ModelInferResponse(id=self._format.id)
        return ModelStreamInferResponse(
            error_message=to_status(error).message, infer_response=response
        ).SerializeToString()
