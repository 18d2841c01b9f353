"""Predict on pygrpc-native's NativeGrpcFront: `python server.py PORT MODEL SPIN_US`."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from pygrpc_native import EVENT_CALL, NativeGrpcFront  # type: ignore[import-not-found]

from volcast.v1.inference_pb2 import PredictRequest, PredictResponse

BATCH = 256


def serve(port: int, model: str, spin_s: float) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)
    method = ("/volcast.v1.InferenceService/Predict", False)
    front = NativeGrpcFront(f"127.0.0.1:{port}", [method], io_threads=1)
    front.start()
    while (events := _receive(front, spin_s)) is not None:
        calls, rows = [], []
        for kind, call_id, _, payload, _ in events:
            if kind == EVENT_CALL:
                packed = PredictRequest.FromString(payload).packed
                calls.append((call_id, packed.row_count))
                rows.append(packed.values)
        if not calls:
            continue
        matrix = np.frombuffer(b"".join(rows)).reshape(-1, 11)
        probabilities = session.run(["probability"], {"features": matrix})[0].reshape(-1).tolist()
        begin = 0
        for call_id, count in calls:
            own = probabilities[begin : begin + count]
            begin += count
            answer = PredictResponse(model_name="volatility", model_version="1", threshold=0.5, probabilities=own)
            front.respond(call_id, answer.SerializeToString())


def _receive(front: NativeGrpcFront, spin_s: float) -> Any:
    until = perf_counter() + spin_s
    while perf_counter() < until:
        if events := front.recv_batch(BATCH, 0):
            return events
    return front.recv_batch(BATCH)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]) * 1e-6)
