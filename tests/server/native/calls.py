"""Requests, frames and answers of a client in memory."""

from __future__ import annotations

from common.schema import CORE_1
from server.http2 import frames
from server.native.scoring_stream import ScoringStreamCall
from tests.server.bundles import rows
from tests.server.http2.peer import Frame, block, data_of, message
from tests.server.native.conftest import SERVICE, Client
from volcast.v1 import (
    DATA_TYPE_FLOAT32,
    DATA_TYPE_FLOAT64,
    PackedRows,
    PredictRequest,
    StreamPredictRequest,
)

WATCH = b"/grpc.health.v1.Health/Watch"


def request(count: int = 1, seed: int = 0, dtype: str = "<f8") -> PredictRequest:
    values = rows(count, seed).astype(dtype).tobytes()
    data_type = DATA_TYPE_FLOAT64 if dtype == "<f8" else DATA_TYPE_FLOAT32
    packed = PackedRows(schema_hash=CORE_1.hash, data_type=data_type, row_count=count, values=values)
    return PredictRequest(packed=packed)


def frame(number: int, of: PredictRequest) -> bytes:
    return message(StreamPredictRequest(frame_id=number, request=of).SerializeToString())


def status(got: list[Frame], stream: int) -> bytes:
    """grpc-status as it stands in the last block, whose strings are literal."""
    last = [sent.payload for sent in got if sent.stream == stream and sent.kind == frames.HEADERS][-1]
    at = last.index(b"grpc-status") + len(b"grpc-status")
    return last[at + 1 : at + 1 + last[at]]


def answers(got: list[Frame], stream: int) -> list[bytes]:
    body = data_of(got, stream)
    messages, at = [], 0
    while at + 5 <= len(body):
        size = int.from_bytes(body[at + 1 : at + 5], "big")
        messages.append(body[at + 5 : at + 5 + size])
        at += 5 + size
    return messages


def a_stream(client: Client, stream: int = 1, *extra: tuple[bytes, bytes]) -> ScoringStreamCall:
    client.head(stream, b"StreamPredict", *extra)
    call = client.link.h2.streams[stream].call
    assert isinstance(call, ScoringStreamCall)
    return call


def whole(stream: int) -> tuple[bytes, bytes]:
    """A call as one read of the socket brings it."""
    body = message(request().SerializeToString())
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block(SERVICE + b"Predict"))
    return head, frames.frame(frames.DATA, frames.END_STREAM, stream, body)
