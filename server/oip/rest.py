"""The REST form: JSON that contains the values of each tensor, or is followed by them as bytes (Triton's extension).

This module only translates to and from the messages of the gRPC form, where tensors are always raw. The inference
server alone validates tensors, so the errors of REST and gRPC have equal texts.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

import msgspec
import numpy as np

from common.errors import RequestError
from common.text import shown
from volcast.oip.v2 import InferParameter, ModelInferRequest, ModelInferResponse

HEADER_LENGTH = "Inference-Header-Content-Length"
_NUMBERS = ("threshold", "spike_bps", "base_rate")  # parameters of a response: numbers here, text in gRPC
_BINARY_SIZE = "binary_data_size"
_BINARY = "binary_data"
_BINARY_ALL = "binary_data_output"
_DTYPES: dict[str, np.dtype[np.floating[Any]]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Parameter = bool | _Int64 | float | str
# Clients that dump their models send null for each optional field that they leave out.
_Parameters = dict[str, _Parameter | None]
_NULL = msgspec.Raw(b"null")


class _Input(msgspec.Struct):
    name: str
    shape: list[_Int64]
    datatype: str
    parameters: _Parameters | None = None
    data: msgspec.Raw = _NULL

    @property
    def has_data(self) -> bool:
        return self.data != _NULL


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters | None = None


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: _Parameters | None = None
    outputs: list[_Output] | None = None


_decoder = msgspec.json.Decoder(_Request)
_flat = msgspec.json.Decoder(list[float])
_nested = msgspec.json.Decoder(list[list[float]])


class OutputEncoding(msgspec.Struct, frozen=True):
    """Whether outputs are sent as bytes. by_name: for single outputs. default: for all other outputs."""

    by_name: Mapping[str, bool]
    default: bool

    def is_binary(self, output: str) -> bool:
        return self.by_name.get(output, self.default)


def read_request(
    body: bytes, header_length: str | None, name: str, version: str
) -> tuple[ModelInferRequest, OutputEncoding]:
    """header_length: value of HEADER_LENGTH; None if the body is JSON only. Raises RequestError."""
    size = _json_size(header_length, len(body))
    try:
        json = _decoder.decode(memoryview(body)[:size])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError.of("body", f"no inference request: {error}") from None
    request = ModelInferRequest(model_name=name, model_version=version, id=json.id or "")
    _set_parameters(request.parameters, json.parameters)
    position = size
    for index, given in enumerate(json.inputs):
        tensor = request.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
        _set_parameters(tensor.parameters, given.parameters)
        values, position = _values(index, given, body, position)
        request.raw_input_contents.append(values)
    if position != len(body):
        raise RequestError.of("body", f"{len(body) - position} bytes follow that are no input's")
    for output in json.outputs or ():
        _set_parameters(request.outputs.add(name=output.name).parameters, output.parameters)
    return request, _output_encoding(json)


def _json_size(header_length: str | None, total: int) -> int:
    if header_length is None:
        return total
    number = header_length.isascii() and header_length.isdecimal() and len(header_length) < 19
    size = int(header_length) if number else -1
    if not 0 <= size <= total:
        what = f"expected the length of the JSON, at most the body's {total} bytes, got {header_length[:20]!r}"
        raise RequestError.of(HEADER_LENGTH, what)
    return size


def _values(index: int, tensor: _Input, body: bytes, position: int) -> tuple[bytes, int]:
    """Returns the tensor's bytes and the position after the bytes of this tensor."""
    size = (tensor.parameters or {}).get(_BINARY_SIZE)
    if size is None:
        if not tensor.has_data:
            # Also for a region of shared memory, which the server refuses.
            return b"", position
        return _packed(index, tensor, bytes(tensor.data)), position
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(body) - position:
        expected = f"at most the {len(body) - position} bytes that are left of the body"
        raise RequestError.of(
            f"inputs[{index}].parameters[{_BINARY_SIZE}]", f"expected {expected}, got {shown(repr(size))}"
        )
    if tensor.has_data:
        raise RequestError.of(f"inputs[{index}].data", f"expected none beside {_BINARY_SIZE}")
    return body[position : position + size], position + size


def _packed(index: int, tensor: _Input, data: bytes) -> bytes:
    """Returns `data` as the bytes of its tensor. `data`: a flat list, or a list of rows in the tensor's shape."""
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        return b""  # the server refuses the datatype
    try:
        array = np.array(_flat.decode(data))
    except msgspec.DecodeError:
        try:
            array = np.array(_nested.decode(data))
        except (msgspec.DecodeError, ValueError):
            raise RequestError.of(f"inputs[{index}].data", "expected numbers, or equally long lists of them") from None
        if list(array.shape) != tensor.shape:
            what = f"its lists have the shape {list(array.shape)}, `shape` says {tensor.shape[:4]}"
            raise RequestError.of(f"inputs[{index}].data", what) from None
    if len(tensor.shape) <= 2 and min(tensor.shape, default=-1) >= 0 and array.size != prod(tensor.shape):
        raise RequestError.of(f"inputs[{index}].data", f"expected {prod(tensor.shape)} values, got {array.size}")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which the server refuses
        return array.astype(dtype).tobytes()


def _set_parameters(fields: Any, parameters: _Parameters | None) -> None:
    for key, value in (parameters or {}).items():
        if value is None or key in (_BINARY_SIZE, _BINARY, _BINARY_ALL):
            continue
        match value:
            case bool():
                parameter = InferParameter(bool_param=value)
            case int():
                parameter = InferParameter(int64_param=value)
            case float():
                parameter = InferParameter(double_param=value)
            case str():
                parameter = InferParameter(string_param=value)
        fields[key].CopyFrom(parameter)


def _output_encoding(json: _Request) -> OutputEncoding:
    given = {output.name: (output.parameters or {}).get(_BINARY) for output in json.outputs or ()}
    default = (json.parameters or {}).get(_BINARY_ALL) is True
    return OutputEncoding({name: value is True for name, value in given.items() if value is not None}, default)


def write_response(response: ModelInferResponse, encoding: OutputEncoding) -> tuple[bytes, int | None]:
    """Returns the body and, if bytes follow its JSON, the length of the JSON."""
    outputs, binary_values = [], []
    for output, values in zip(response.outputs, response.raw_output_contents, strict=True):
        fields: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if encoding.is_binary(output.name):
            fields["parameters"] = {_BINARY_SIZE: len(values)}
            binary_values.append(values)
        else:
            fields["data"] = struct.unpack(f"<{len(values) // 8}d", values)  # outputs are FP64
        outputs.append(fields)
    content: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        content["id"] = response.id
    numbers = {name: float(response.parameters[name].string_param) for name in _NUMBERS if name in response.parameters}
    if numbers:
        content["parameters"] = numbers
    content["outputs"] = outputs
    json = msgspec.json.encode(content)
    return (b"".join([json, *binary_values]), len(json)) if binary_values else (json, None)
