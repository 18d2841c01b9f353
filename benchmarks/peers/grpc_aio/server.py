# mypy: ignore-errors
"""Plain grpc.aio on uvloop with the same contract and model: generated stubs, one ONNX call a request.

What gRPC's own documentation leads to, and the yardstick of our grpcio front.
"""

from __future__ import annotations

import grpc
import numpy as np
import uvloop
from scoring import FEATURES, HOST, Scorer, port

from volcast.v1 import PredictResponse
from volcast.v1.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server


class Inference(InferenceServiceServicer):
    def __init__(self) -> None:
        self._score = Scorer()

    async def Predict(self, request, context):  # noqa: N802
        packed = request.packed
        rows = np.frombuffer(packed.values, dtype="<f8").reshape(packed.row_count, FEATURES)
        probabilities = self._score(rows)
        return PredictResponse(model_name="volatility", model_version="1", threshold=0.5, probabilities=probabilities)


async def serve() -> None:
    server = grpc.aio.server()
    add_InferenceServiceServicer_to_server(Inference(), server)
    server.add_insecure_port(f"{HOST}:{port()}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
