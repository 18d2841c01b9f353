"""A bare grpc.aio server of the same contract, without a model: what the transport alone allows.

`python -m benchmarks.echo PORT`. It parses each request and answers with as many probabilities as there
are rows, on uvloop, with nothing in between.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import grpc
import uvloop

from benchmarks.processes import free_port
from volcast.v1 import PredictRequest, PredictResponse, StreamPredictRequest, StreamPredictResponse

READY_S = 20.0


def _answer(request: PredictRequest) -> PredictResponse:
    rows = request.packed.row_count
    return PredictResponse(model_name="echo", model_version="1", threshold=0.5, probabilities=[0.5] * rows)


async def _predict(raw: bytes, context: Any) -> bytes:
    return _answer(PredictRequest.FromString(raw)).SerializeToString()


async def _stream(requests: Any, context: Any) -> None:
    while (raw := await context.read()) is not grpc.aio.EOF:
        frame = StreamPredictRequest.FromString(raw)
        answer = StreamPredictResponse(frame_id=frame.frame_id, response=_answer(frame.request))
        await context.write(answer.SerializeToString())


async def serve(port: int) -> None:
    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        "Predict": grpc.unary_unary_rpc_method_handler(_predict),
        "StreamPredict": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("volcast.v1.InferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


@contextmanager
def echoing() -> Iterator[str]:
    """The echo as a process of its own; gives host:port once it listens."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.echo", str(port)])
    try:
        _await_listening(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _await_listening(port: int) -> None:
    deadline_s = monotonic() + READY_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if monotonic() > deadline_s:
                raise
            sleep(0.05)
        else:
            return


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
