"""Both clients ask a real server for a spike size and quantiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clients.aio import AsyncClient
from clients.requests import named_request, packed_request, quantile_rows
from clients.sync import Client
from common.errors import RequestError
from common.schema import CORE_1, FULL_2
from tests.server.bundles import named, rows
from tests.server.forecast_server import CORE, FULL
from tests.server.forecasts import SPIKE_BPS, rows_of
from tests.server.processes import Process
from volcast.v1 import ModelSelector, PredictResponse

MATRIX = rows(3)
LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture
def client(forecasts: Process) -> Iterator[Client]:
    with Client(forecasts.address, timeout_s=20) as client:
        yield client


def assert_distribution(response: PredictResponse, size: float = 4.0) -> None:
    """The response is that of the model for MATRIX, at this size and LEVELS."""
    assert response.spike_bps == size
    assert 0 < response.base_rate < 1
    assert_allclose(response.probabilities, CORE.probability(MATRIX, np.full(3, size)), atol=1e-9)
    assert_allclose(response.median_bps, CORE.medians(MATRIX), rtol=1e-9)
    assert_allclose(quantile_rows(response), CORE.quantiles(MATRIX, np.tile(LEVELS, (3, 1))), rtol=1e-9)


def test_named_and_packed_rows_get_the_distribution(client: Client) -> None:
    assert_distribution(client.predict_named([named(row) for row in MATRIX], spike_bps=4.0, quantiles=LEVELS))
    assert_distribution(client.predict_packed(MATRIX, 3, CORE_1.hash, spike_bps=4.0, quantiles=LEVELS))
    assert_distribution(client.predict_packed(MATRIX, 3, CORE_1.hash, quantiles=LEVELS), SPIKE_BPS)


def test_a_multiple_gives_each_row_its_size(client: Client) -> None:
    matrix = rows_of(FULL_2, 3)
    wide = ModelSelector(name="wide")
    response = client.predict_packed(matrix, 3, FULL_2.hash, model=wide, spike_multiple=2.0)
    sizes = 2.0 * matrix[:, FULL.column] * 1e4
    assert_allclose(response.probabilities, FULL.probability(matrix, sizes), atol=1e-9)
    assert response.spike_bps == 0
    assert quantile_rows(response) == [[], [], []]


def test_frames_of_a_stream_get_the_distribution(client: Client) -> None:
    with client.stream() as stream:
        assert_distribution(stream.predict_packed(MATRIX, 3, CORE_1.hash, spike_bps=4.0, quantiles=LEVELS))
        stream.send_packed(7, MATRIX, 3, CORE_1.hash, spike_bps=2.0, quantiles=LEVELS)
        stream.send(8, packed_request(MATRIX, 3, CORE_1.hash, spike_bps=3.0, quantiles=LEVELS))
        for frame_id, size in ((7, 2.0), (8, 3.0)):
            answer = stream.receive()
            assert answer.frame_id == frame_id
            assert_distribution(answer.response, size)


def test_a_wrong_question_raises_with_its_field_and_the_stream_continues(client: Client) -> None:
    with client.stream() as stream:
        with pytest.raises(RequestError) as raised:
            stream.predict_packed(MATRIX, 3, CORE_1.hash, spike_bps=4.0, spike_multiple=2.0)
        assert "spike_bps" in {violation.field for violation in raised.value.violations}
        assert_distribution(stream.predict_packed(MATRIX, 3, CORE_1.hash, spike_bps=4.0, quantiles=LEVELS))
    with pytest.raises(RequestError, match="forecasts no distribution"):
        client.predict_packed(MATRIX, 3, CORE_1.hash, model=ModelSelector(name="plain"), quantiles=LEVELS)


async def test_the_asyncio_client_gets_the_distribution_in_calls_and_streams(forecasts: Process) -> None:
    async with AsyncClient(forecasts.address, timeout_s=20) as client:
        assert_distribution(await client.predict_named([named(row) for row in MATRIX], spike_bps=4.0, quantiles=LEVELS))
        assert_distribution(await client.predict_packed(MATRIX, 3, CORE_1.hash, spike_bps=4.0, quantiles=LEVELS))
        async with client.stream() as stream:
            assert_distribution(await stream.predict_packed(MATRIX, 3, CORE_1.hash, spike_bps=4.0, quantiles=LEVELS))
            await stream.send(9, named_request([named(row) for row in MATRIX], spike_bps=3.0, quantiles=LEVELS))
            answer = await stream.receive()
            assert answer is not None
            assert_distribution(answer.response, 3.0)
            with pytest.raises(RequestError, match="expected ascending levels"):
                await stream.predict_packed(MATRIX, 3, CORE_1.hash, quantiles=(0.5, 0.1))
