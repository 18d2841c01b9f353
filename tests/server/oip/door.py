"""The table of methods on a plain grpc.aio server, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc.aio import EOF

from common.errors import VolcastError
from common.rpc_status import DETAILS_KEY, to_status
from server.core.dataplane import DataPlane
from server.core.requests import PredictInput, Result
from server.grpc.methods import Method, Methods, Scoring, ScoringStream, Unary

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def score(plane: DataPlane, request: PredictInput | VolcastError) -> Result:
    if isinstance(request, VolcastError):
        raise request
    job = plane.prepare(request, 0)
    return Result(job.model, job.model.predictor.predict(job.matrix), 0, 0)


@contextmanager
def served(methods: Methods, plane: DataPlane) -> Iterator[str]:
    """host:port of a server that carries the methods."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server, port = asyncio.run_coroutine_threadsafe(_start(methods, plane), loop).result(10)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _start(methods: Methods, plane: DataPlane) -> tuple[Any, int]:
    server = grpc.aio.server()
    for path, method in methods.items():
        _, service, name = path.split("/")
        handler = grpc.method_handlers_generic_handler(service, {name: _handler(method, plane)})
        server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


def _handler(method: Method, plane: DataPlane) -> Any:
    async def unary(raw: bytes, context: Any) -> bytes:
        try:
            if isinstance(method, Unary):
                return method.answer(raw)
            assert isinstance(method, Scoring)
            request, encode = method.decode(raw)
            return encode(score(plane, request))
        except VolcastError as error:
            status = to_status(error)
            details = ((DETAILS_KEY, status.SerializeToString()),)
            await context.abort(_CODES[status.code], status.message, details)
            raise AssertionError("unreachable: abort raises") from None

    async def stream(requests: Any, context: Any) -> None:
        assert isinstance(method, ScoringStream)
        while (raw := await context.read()) is not EOF:
            frame = method.decode(raw)
            try:
                answer = frame.encode(score(plane, frame.input))
            except VolcastError as error:
                answer = frame.fail(error)
            await context.write(answer)

    if isinstance(method, ScoringStream):
        return grpc.stream_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(unary)
