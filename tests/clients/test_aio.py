from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clients.aio import AsyncClient
from clients.requests import packed_request
from common.errors import DeadlineError, RequestError, SchemaMismatchError, UnavailableError
from common.schema import CORE_1
from tests.server.bundles import Logistic, named, rows
from tests.server.processes import Process, serve
from volcast.v1 import ModelSelector

STABLE = Logistic(2)

# One loop for all: grpc.aio's loops share one completion queue (grpc#25364).
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_named_and_packed_rows_are_scored(server: Process) -> None:
    async with AsyncClient(server.address, timeout_s=20) as client:
        by_name = await client.predict_named([named(row) for row in rows(3)])
        packed = await client.predict_packed(rows(3), 3, CORE_1.hash, model=ModelSelector(label="stable"))
        assert (await client.health()).ready
    assert_allclose(by_name.probabilities, STABLE.predict(rows(3)), rtol=0, atol=1e-12)
    assert packed.probabilities == by_name.probabilities


async def test_errors_arrive_as_ours(server: Process, mute: str) -> None:
    async with AsyncClient(server.address, timeout_s=20) as client:
        with pytest.raises(SchemaMismatchError):
            await client.predict_packed(rows(1), 1, "beef")
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(UnavailableError, match=r"inference server at 127\.0\.0\.1:1: UNAVAILABLE"):
            await client.health()
    async with AsyncClient(mute, timeout_s=0.2) as client:
        with pytest.raises(DeadlineError):
            await client.health()


async def test_frames_are_answered_in_order_until_the_last(server: Process) -> None:
    async with AsyncClient(server.address, timeout_s=20) as client, client.stream() as stream:
        for frame_id in range(30):
            await stream.send(frame_id, packed_request(rows(1, frame_id), 1, CORE_1.hash))
        await stream.done()
        answers = [answer async for answer in stream]
    assert [answer.frame_id for answer in answers] == list(range(30))
    expected = np.concatenate([STABLE.predict(rows(1, seed)) for seed in range(30)])
    assert_allclose([answer.response.probabilities[0] for answer in answers], expected, rtol=0, atol=1e-12)


async def test_a_refused_frame_raises_and_the_stream_lives_on(server: Process) -> None:
    async with AsyncClient(server.address, timeout_s=20) as client, client.stream() as stream:
        with pytest.raises(RequestError, match="expected a finite number"):
            await stream.predict_packed(np.full((1, 11), np.nan), 1, CORE_1.hash)
        assert (await stream.predict_packed(rows(1), 1, CORE_1.hash)).model_version == "2"


async def test_a_stream_over_a_mute_connection_is_given_up_in_time(mute: str) -> None:
    async with AsyncClient(mute, timeout_s=0.3) as client, client.stream() as stream:
        with pytest.raises(DeadlineError):
            await stream.predict_packed(rows(1), 1, CORE_1.hash)


@pytest.mark.process
async def test_a_broken_stream_raises(models: Path) -> None:
    with serve(models) as process:
        async with AsyncClient(process.address) as client, client.stream() as stream:
            await stream.predict_packed(rows(1), 1, CORE_1.hash)
            process.popen.kill()
            process.popen.wait()
            with pytest.raises(UnavailableError, match=f"inference server at {process.address}"):
                await stream.predict_packed(rows(1), 1, CORE_1.hash)
            with pytest.raises(UnavailableError, match="no frame is in flight"):
                await stream.receive()
