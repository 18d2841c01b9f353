"""What a process cannot be made to show from outside: the door with a context in memory."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2

from common.schema import CORE_1
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.core.requests import Selection
from server.grpc.inference import INLINE_ROWS, InferenceDoor
from server.metrics import ServerMetrics
from server.state import ServerState
from tests.server.bundles import rows, write_bundle
from volcast.v1 import PackedRows, PredictRequest, PredictResponse, StreamPredictRequest, StreamPredictResponse


class AbortedError(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


class Context:
    """grpc.aio's servicer context, in memory: frames in, answers out."""

    def __init__(self, time_remaining_s: float | None = None, frames: list[bytes] | None = None) -> None:
        self._time_remaining_s = time_remaining_s
        self._frames = frames or []
        self.written: list[bytes] = []

    def time_remaining(self) -> float | None:
        return self._time_remaining_s

    async def read(self) -> Any:
        return self._frames.pop(0) if self._frames else grpc.aio.EOF

    async def write(self, answer: bytes) -> None:
        self.written.append(answer)

    async def abort(self, code: grpc.StatusCode, details: str, trailers: Any) -> None:
        raise AbortedError(code, details)


class Log:
    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.errors.append({"event": event, **fields})


class Spy:
    """Stands in for a predictor: notes the thread it ran on, raises what it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.threads: list[threading.Thread] = []
        self._failure = failure

    def predict(self, matrix: Any) -> Any:
        self.threads.append(threading.current_thread())
        if self._failure is not None:
            raise self._failure
        return np.full(len(matrix), 0.5)


class Door:
    def __init__(self, models: Path, predictor: Spy | None = None) -> None:
        repository = Repository("volatility")
        repository.load(models)
        if predictor is not None:
            object.__setattr__(repository.resolve(Selection()), "predictor", predictor)
        self.state = ServerState("test", "grpcio", ready=True)
        self.log = Log()
        self.metrics = ServerMetrics(repository, self.state)
        plane = DataPlane(repository, 10_000, perf_counter_ns)
        self.door = InferenceDoor(plane, self.state, self.metrics, self.log)

    async def predict(self, count: int = 1, context: Context | None = None) -> PredictResponse:
        return PredictResponse.FromString(await self.door.predict(request(count), context or Context()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder)
    return folder


def request(count: int) -> bytes:
    packed = PackedRows(schema_hash=CORE_1.hash, data_type=2, row_count=count, values=rows(count).tobytes())
    return PredictRequest(packed=packed).SerializeToString()


async def test_a_server_that_is_starting_is_unavailable(models: Path) -> None:
    door = Door(models)
    door.state.ready = False
    with pytest.raises(AbortedError, match="the server is starting") as raised:
        await door.predict()
    assert raised.value.code is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(AbortedError, match="the server is starting"):
        await door.door.stream_predict(None, Context())  # type: ignore[arg-type]


async def test_a_deadline_that_has_passed_is_told_without_computing(models: Path) -> None:
    spy = Spy()
    door = Door(models, spy)
    with pytest.raises(AbortedError) as raised:
        await door.predict(context=Context(time_remaining_s=0.0))
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert spy.threads == []
    await door.predict(context=Context(time_remaining_s=1.0))
    assert len(spy.threads) == 1


async def test_a_fault_of_ours_is_internal_logged_and_tells_nothing(models: Path) -> None:
    door = Door(models, Spy(ZeroDivisionError("secret")))
    with pytest.raises(AbortedError) as raised:
        await door.predict()
    assert (raised.value.code, str(raised.value)) == (grpc.StatusCode.INTERNAL, "internal error")
    (logged,) = door.log.errors
    assert str(logged["exc_info"]) == "secret"
    assert door.metrics.totals() == {"requests": 1, "failed": 1, "rows": 0}


async def test_a_fault_of_ours_in_a_stream_is_an_error_of_its_frame(models: Path) -> None:
    door = Door(models, Spy(ZeroDivisionError("secret")))
    frame = StreamPredictRequest(frame_id=5, request=PredictRequest.FromString(request(1)))
    context = Context(frames=[frame.SerializeToString()] * 2)
    await door.door.stream_predict(None, context)  # type: ignore[arg-type]
    answers = [StreamPredictResponse.FromString(raw) for raw in context.written]
    assert [(one.frame_id, one.error.code, one.error.message) for one in answers] == [
        (5, code_pb2.INTERNAL, "internal error")
    ] * 2


async def test_few_rows_are_scored_on_the_loop_and_many_beside_it(models: Path) -> None:
    spy = Spy()
    door = Door(models, spy)
    for count in (1, INLINE_ROWS, INLINE_ROWS + 1):
        assert len((await door.predict(count)).probabilities) == count
    here = threading.current_thread()
    assert [thread is here for thread in spy.threads] == [True, True, False]


async def test_many_rows_leave_the_loop_free(models: Path) -> None:
    release = threading.Event()

    class Slow(Spy):
        def predict(self, matrix: Any) -> Any:
            assert release.wait(10)
            return super().predict(matrix)

    door = Door(models, Slow())
    work = asyncio.ensure_future(door.predict(INLINE_ROWS + 1))
    health = await door.door.health(b"", Context())
    assert health
    assert not work.done()
    release.set()
    await work
