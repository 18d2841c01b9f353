"""Faults of ours, on both fronts: INTERNAL without a word, the cause in the log, and what stands beside unharmed."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import grpc
import numpy as np
import pytest

from common.config import ServerConfig
from common.ports import BoundPort
from common.schema import CORE_1
from server.app import services
from server.app.fronts import make_front
from server.core.batcher import INLINE_ROWS
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.core.predictor import BoundBuffers, Predictor
from server.core.requests import Selection
from server.rpc.dependencies import FrontDependencies
from server.rpc.methods import StreamContext, StreamMethod, Unary
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import ServerMetrics
from server.runtime.state import ServerState
from server.security.tokens import Gate
from tests.server.bundles import Logistic, rows
from tests.server.conformance.calls import SERVICE, frame, of_model, packed
from volcast.v1 import PredictResponse, StreamPredictResponse

PREDICT = SERVICE + "Predict"


class Log:
    def __init__(self) -> None:
        self.causes: list[str] = []

    def error(self, event: str, *, exc_info: object = None, **_: object) -> None:
        self.causes.append(f"{event}: {exc_info}")

    exception = error


class Spy:
    """A fake predictor that records the thread of each run and can be set to fail."""

    def __init__(self, *, broken: bool = False) -> None:
        self.threads: list[threading.Thread] = []
        self._broken = broken

    def predict(self, matrix: Any) -> Any:
        self.threads.append(threading.current_thread())
        if self._broken:
            raise ZeroDivisionError("secret")
        return np.full(len(matrix), 0.5)

    raw = raw_bound = predict

    def bind(self, count: int, levels: int = 0) -> BoundBuffers:
        """Buffers of a real model, run by this fake."""
        bound = Predictor(Logistic(1).graph().SerializeToString(), len(CORE_1)).bind(count)
        bound.run = lambda: self.predict(bound.matrix) and None  # type: ignore[method-assign]
        return bound


def broken(raw: bytes) -> bytes:
    raise ZeroDivisionError("secret")


async def broken_dialogue(context: StreamContext) -> None:
    raise ZeroDivisionError("secret")


@asynccontextmanager
async def fronted(front: str, models: Path, spy: Spy, log: Log) -> AsyncIterator[grpc.aio.Channel]:
    """The spy is volatility's predictor; jumps has its own."""
    repository = Repository("volatility")
    repository.load(models)
    object.__setattr__(repository.resolve(Selection()), "predictor", spy)
    state = ServerState("test", front, accepting=True, ready=True)
    plane = DataPlane(repository, 10_000, perf_counter_ns)
    table, _ = services.methods(repository, state, with_reflection=False)
    table = {
        **table,
        "/test.Broken/Unary": Unary("Unary", broken),
        "/test.Broken/Stream": StreamMethod("S", broken_dialogue),
    }
    needs = FrontDependencies(
        table, plane, BatchLoop(plane, 1024, 512, 0), state, ServerMetrics(repository, state), Gate(None), log
    )
    made = make_front(ServerConfig(), needs, None, reuse_port=False)
    bound = BoundPort("127.0.0.1", 0, "--port")
    await made.start(bound)
    port = bound.port
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await made.drain(1.0)
    bound.close()


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


async def test_a_fault_in_the_model_is_internal_logged_and_tells_nothing(front: str, models: Path) -> None:
    log = Log()
    async with fronted(front, models, Spy(broken=True), log) as channel:
        predict = channel.unary_unary(PREDICT, bytes, bytes)
        raw = packed(rows(1)).SerializeToString()
        for _ in range(6):  # parsed; recognized; and alone, once its headers are known too
            assert await outcome(predict(raw, timeout=20)) == (grpc.StatusCode.INTERNAL, "internal error")
        other = of_model(packed(rows(1)), "jumps").SerializeToString()
        assert PredictResponse.FromString(await predict(other, timeout=20)).model_name == "jumps"
    assert log.causes == ["request_failed: secret"] * 6


async def test_a_fault_in_a_method_is_internal_logged_and_tells_nothing(front: str, models: Path) -> None:
    log = Log()
    async with fronted(front, models, Spy(), log) as channel:
        unary = channel.unary_unary("/test.Broken/Unary", bytes, bytes)(b"", timeout=20)
        assert await outcome(unary) == (grpc.StatusCode.INTERNAL, "internal error")
        stream = channel.unary_stream("/test.Broken/Stream", bytes, bytes)(b"", timeout=20)
        assert (await stream.code(), await stream.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert log.causes == ["request_failed: secret"] * 2


async def test_a_fault_in_a_stream_is_an_error_of_its_frame(front: str, models: Path) -> None:
    log = Log()
    async with fronted(front, models, Spy(broken=True), log) as channel:
        asked = [frame(5, packed(rows(1))), frame(6, of_model(packed(rows(1)), "jumps")), frame(7, packed(rows(1)))]
        stream = channel.stream_stream(SERVICE + "StreamPredict", bytes, bytes)(
            iter([request.SerializeToString() for request in asked]), timeout=20
        )
        answers = [StreamPredictResponse.FromString(raw) async for raw in stream]
    assert [(answer.frame_id, answer.error.code, answer.error.message) for answer in answers] == [
        (5, 13, "internal error"),
        (6, 0, ""),
        (7, 13, "internal error"),
    ]
    assert set(log.causes) == {"request_failed: secret"}


async def test_few_rows_are_scored_on_the_loop_and_many_beside_it(front: str, models: Path) -> None:
    spy = Spy()
    async with fronted(front, models, spy, Log()) as channel:
        predict = channel.unary_unary(PREDICT, bytes, bytes)
        for count in (1, INLINE_ROWS, INLINE_ROWS + 1):
            answer = await predict(packed(rows(count)).SerializeToString(), timeout=20)
            assert len(PredictResponse.FromString(answer).probabilities) == count
    here = threading.current_thread()
    assert [thread is here for thread in spy.threads] == [True, True, False]
