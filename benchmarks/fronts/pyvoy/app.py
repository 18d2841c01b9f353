"""Predict and StreamPredict as an ASGI application for pyvoy (Envoy with Python inside): `pyvoy app:app`.

MODEL in the environment is the model's file. All messages of a chunk are one run of the model.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import onnxruntime

from volcast.v1.inference_pb2 import PredictRequest, PredictResponse, StreamPredictRequest, StreamPredictResponse

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = 1
_session = onnxruntime.InferenceSession(os.environ["MODEL"], _options)
_PREFIX = struct.Struct(">BI")
_HEADERS = [(b"content-type", b"application/grpc")]


def _messages(buffer: bytes) -> tuple[list[bytes], bytes]:
    found, at = [], 0
    while len(buffer) - at >= 5:
        until = at + 5 + _PREFIX.unpack_from(buffer, at)[1]
        if until > len(buffer):
            break
        found.append(buffer[at + 5 : until])
        at = until
    return found, buffer[at:]


def _score(requests: list[PredictRequest]) -> list[PredictResponse]:
    matrix = np.frombuffer(b"".join(one.packed.values for one in requests)).reshape(-1, 11)
    probabilities = _session.run(["probability"], {"features": matrix})[0].reshape(-1).tolist()
    answers, begin = [], 0
    for one in requests:
        own = probabilities[begin : begin + one.packed.row_count]
        begin += one.packed.row_count
        answers.append(PredictResponse(model_name="volatility", model_version="1", threshold=0.5, probabilities=own))
    return answers


def _framed(messages: list[bytes]) -> bytes:
    return b"".join(part for one in messages for part in (_PREFIX.pack(0, len(one)), one))


def _answers(path: str, messages: list[bytes]) -> list[bytes]:
    if path.endswith("/StreamPredict"):
        frames = [StreamPredictRequest.FromString(one) for one in messages]
        scored = _score([one.request for one in frames])
        return [
            StreamPredictResponse(frame_id=frame.frame_id, response=one).SerializeToString()
            for frame, one in zip(frames, scored, strict=True)
        ]
    return [one.SerializeToString() for one in _score([PredictRequest.FromString(one) for one in messages])]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True})
    rest, more = b"", True
    while more:
        event = await receive()
        more = event.get("more_body", False)
        messages, rest = _messages(rest + event.get("body", b""))
        if messages:
            body = _framed(_answers(scope["path"], messages))
            await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})
