"""Recordings of real calls, and what is made of them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from common.http2 import frames
from common.schema import CORE_1, CORE_1_EXAMPLE
from server.http2.headers import literal
from volcast.oip.v2 import InferTensorContents, ModelInferRequest
from volcast.v1 import ModelSelector, NamedRow, NamedRows, PackedRows, PredictRequest, StreamPredictRequest

PREDICT = "/volcast.v1.InferenceService/Predict"
STREAM = "/volcast.v1.InferenceService/StreamPredict"
HEALTH = "/volcast.v1.InferenceService/Health"
INFER = "/inference.GRPCInferenceService/ModelInfer"
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
PATHS = (PREDICT, STREAM, HEALTH, INFER, CHECK, REFLECTION)
EXAMPLE = [CORE_1_EXAMPLE[name] for name in CORE_1.names]
STRANGE = [
    float("nan"), float("inf"), -float("inf"), 5e-324, 2.2250738585072014e-308, -0.0, 1.7976931348623157e308, -1e308,
]  # fmt: skip


def packed(rows: int = 1, data_type: int = 2, **changes: Any) -> PredictRequest:
    matrix = np.tile(EXAMPLE, (rows, 1)).astype("<f4" if data_type == 1 else "<f8")
    fields: dict[str, Any] = {
        "schema_hash": CORE_1.hash,
        "data_type": data_type,
        "row_count": rows,
        "values": matrix.tobytes(),
    }
    return PredictRequest(packed=PackedRows(**{**fields, **changes}))


def named(**changes: float) -> PredictRequest:
    features = {**dict(zip(CORE_1.names, EXAMPLE, strict=True)), **changes}
    return PredictRequest(named=NamedRows(rows=[NamedRow(product_id="BTC-USD", event_time_ns=1, features=features)]))


def infer(rows: int = 1, *, raw: bool = True, shape: tuple[int, ...] = (), datatype: str = "FP64") -> ModelInferRequest:
    values = np.tile(EXAMPLE, (rows, 1))
    tensor = ModelInferRequest.InferInputTensor(name="features", datatype=datatype, shape=shape or values.shape)
    if raw:
        return ModelInferRequest(model_name="volatility", inputs=[tensor], raw_input_contents=[values.tobytes()])
    tensor.contents.CopyFrom(InferTensorContents(fp64_contents=values.ravel()))
    return ModelInferRequest(model_name="volatility", inputs=[tensor])


def messages() -> list[bytes]:
    """Right ones of every kind, and wrong ones of the kinds that callers really send."""
    strange = [packed(values=struct.pack("<11d", *[value] * 11)) for value in STRANGE]
    strange += [named(mid=value) for value in STRANGE]
    absurd = [
        packed(row_count=0), packed(row_count=2**32 - 1), packed(row_count=2), packed(values=b""),
        packed(values=bytes(87)), packed(schema_hash="deadbeef"), packed(schema_hash="x" * 5000), packed(data_type=77),
        packed(event_times_ns=[1, 2]), packed(product_ids=["a"] * 300), named(unknown=1.0), PredictRequest(),
    ]  # fmt: skip
    right = [packed(), packed(4), packed(data_type=1), named()]
    selectors = [ModelSelector(name="volatility"), ModelSelector(version="999"), ModelSelector(label="x" * 999)]
    for selector in selectors:
        one = packed()
        one.model.CopyFrom(selector)
        right.append(one)
    requests = [one.SerializeToString() for one in (*right, *strange, *absurd)]
    framed = [StreamPredictRequest(frame_id=7, request=one).SerializeToString() for one in (*right, *strange[:2])]
    tensors = [
        infer(), infer(3), infer(raw=False), infer(shape=(2**40, 2**40)), infer(shape=(-1, 11)), infer(shape=(0,)),
        infer(datatype="BYTES"), infer(datatype="FP32"), ModelInferRequest(),
    ]  # fmt: skip
    return [b"", *requests, *framed, *(one.SerializeToString() for one in tensors)]


def header_block(path: str, *extra: tuple[bytes, bytes]) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"x")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *extra]
    return b"".join(literal(name, value) for name, value in fields)


def recordings() -> list[bytes]:
    """What connections send behind the preface and their settings."""
    found = []
    for path in PATHS:
        for raw in (packed().SerializeToString(), b"", infer().SerializeToString()):
            body = frames.MESSAGE.pack(0, len(raw)) + raw
            call = frames.frame(frames.HEADERS, 4, 1, header_block(path, (b"grpc-timeout", b"1S")))
            call += frames.frame(frames.DATA, 1, 1, body)
            again = frames.frame(frames.HEADERS, 4, 3, header_block(path)) + frames.frame(frames.DATA, 0, 3, body)
            again += frames.window_update(3, 100) + frames.frame(frames.PING, 0, 0, bytes(8))
            again += frames.rst_stream(3, frames.ErrorCode.CANCEL) + frames.settings({4: 1000, 5: 20_000})
            found += [call, call + again]
    return found


class Mutator:
    """Seeded: the same run again does the same."""

    def __init__(self, seeds: list[bytes], seed: int) -> None:
        self.random = random.Random(seed)
        self.seeds = seeds
        self._kinds: tuple[Callable[[bytearray], None], ...] = (
            self._flip, self._set, self._cut, self._insert, self._repeat, self._splice, self._number,
        )  # fmt: skip

    def next(self) -> bytes:
        data = bytearray(self.random.choice(self.seeds))
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 4, 8))):
            self.random.choice(self._kinds)(data)
        return bytes(data)

    def _at(self, data: bytearray) -> int:
        return self.random.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self.random.randrange(len(data))] = self.random.choice((0, 1, 0x7F, 0x80, 0xFF))

    def _cut(self, data: bytearray) -> None:
        begin = self._at(data)
        del data[begin : self.random.choice((begin + 1, begin + 8, len(data)))]

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self.random.randbytes(self.random.choice((1, 2, 8, 100)))

    def _repeat(self, data: bytearray) -> None:
        begin, end = sorted((self._at(data), self._at(data)))
        data[begin:begin] = data[begin:end][:4096]

    def _splice(self, data: bytearray) -> None:
        other = self.random.choice(self.seeds)
        data[self._at(data) :] = other[self.random.randrange(len(other) + 1) :]

    def _number(self, data: bytearray) -> None:
        at = self._at(data)
        number = self.random.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
        data[at : at + 8] = struct.pack(self.random.choice((">Q", "<Q")), number)
