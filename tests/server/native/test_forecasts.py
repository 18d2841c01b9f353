"""Forecast models on the fast path: each response equals the response of the slow path, in every form of request."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import Any

import numpy as np
import pytest

from common.http2 import frames
from common.schema import FULL_2
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.core.requests import DEFAULT_SELECTION
from server.http2.blocks import MIN_COLUMNAR_CALLS
from server.native.front import NativeFront
from server.rpc.convert import predict_response
from server.rpc.inference import read_predict
from tests.server.bundles import write_bundle
from tests.server.forecasts import LEVELS_16, SPIKE_BPS, TRAILING, rows_of, write_forecast
from tests.server.http2.peer import Frame, block, message
from tests.server.native import calls
from tests.server.native.calls import a_stream, answers, frame, status
from tests.server.native.conftest import SERVICE, Client
from volcast.v1 import (
    DATA_TYPE_FLOAT32,
    DATA_TYPE_FLOAT64,
    NamedRow,
    NamedRows,
    PackedRows,
    PredictRequest,
    PredictResponse,
    StreamPredictResponse,
)

MANY = MIN_COLUMNAR_CALLS + 5
QUERIES: dict[str, dict[str, Any]] = {
    "default": {},
    "size": {"spike_bps": 3.5},
    "multiple": {"spike_multiple": 2.0},
    "unlikely": {"spike_bps": 1e3},  # base rate 0, which protobuf leaves out
}
LEVELS: dict[str, tuple[float, ...]] = {"none": (), "one": (0.9,), "sixteen": LEVELS_16}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """volatility/1 forecasts on full/2; old/1 gives a probability only."""
    folder = tmp_path_factory.mktemp("forecast-models")
    write_forecast(folder, schema=FULL_2)
    write_bundle(folder, "old")
    repository = Repository("volatility", time)
    assert repository.load(folder).failures == ()
    return repository


@pytest.fixture
def parsed(front: NativeFront, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The requests that take the slow path from now on."""
    seen: list[object] = []
    prepare = front.serving.plane.prepare

    def spy(request: Any, arrived_ns: int) -> Any:
        seen.append(request)
        return prepare(request, arrived_ns)

    monkeypatch.setattr(front.serving.plane, "prepare", spy)
    return seen


def request(rows: int, seed: int, dtype: str = "<f8", equal: bool = False, **query: Any) -> PredictRequest:
    matrix = rows_of(FULL_2, rows, seed)
    if equal:
        matrix[:] = matrix[0]
    values = matrix.astype(dtype).tobytes()
    packed = PackedRows(
        schema_hash=FULL_2.hash,
        data_type=DATA_TYPE_FLOAT64 if dtype == "<f8" else DATA_TYPE_FLOAT32,
        row_count=rows,
        values=values,
    )
    return PredictRequest(packed=packed, **query)


def slow(front: NativeFront, wanted: PredictRequest) -> PredictResponse:
    """The reference: parsed, scored alone and encoded by protobuf."""
    plane = front.serving.plane
    job = DataPlane.prepare(plane, read_predict(wanted.SerializeToString()), 0)  # not through the spy
    (outcome,) = plane.compute([job]).outcomes
    return predict_response(outcome)  # type: ignore[arg-type]


def assert_equal(raw: bytes, expected: PredictResponse) -> None:
    """Equal but for the times; the bytes are those of protobuf."""
    got = PredictResponse.FromString(raw)
    assert got.SerializeToString() == raw
    np.testing.assert_allclose(got.probabilities, expected.probabilities, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.median_bps, expected.median_bps, rtol=1e-12)
    np.testing.assert_allclose(got.quantile_bps, expected.quantile_bps, rtol=1e-12)
    for name in ("model_name", "model_version", "threshold", "spike_bps", "base_rate"):
        assert getattr(got, name) == getattr(expected, name), name


async def learned(client: Client, wanted: PredictRequest, stream: int = 1) -> None:
    client.call(stream, wanted.SerializeToString())
    assert status(await client.ended(stream), stream) == b"0"


@pytest.mark.parametrize("dtype", ["<f8", "<f4"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("size", QUERIES)
async def test_calls_get_the_answer_of_the_slow_path(
    front: NativeFront, client: Client, parsed: list[object], dtype: str, rows: int, levels: str, size: str
) -> None:
    query: dict[str, Any] = {**QUERIES[size], "quantiles": LEVELS[levels]}
    await learned(client, request(rows, 0, dtype, **query))
    parsed.clear()
    wanted = [request(rows, seed, dtype, **query) for seed in range(1, 2 * MANY)]
    got: dict[int, list[Frame]] = {}
    client.call(3, wanted[0].SerializeToString())  # alone, so inline if its values are a row of float64
    got[3] = await client.ended(3)
    head, sent = block(SERVICE + b"Predict"), []
    for number, predict in enumerate(wanted[1:MANY]):
        body = message(predict.SerializeToString())
        sent += [
            frames.frame(frames.HEADERS, 4, 5 + 2 * number, head),
            frames.frame(frames.DATA, frames.END_STREAM, 5 + 2 * number, body),
        ]
    client.send(*sent)  # in one read, so as the rows of an array
    last = 5 + 2 * (MANY - 2)
    together = await client.ended(last)
    assert not parsed
    for stream in range(5, last + 2, 2):
        got[stream] = together
    for number, stream in enumerate(sorted(got)):
        (raw,) = answers(got[stream], stream)
        assert_equal(raw, slow(front, wanted[number]))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("size", QUERIES)
async def test_frames_get_the_answer_of_the_slow_path(
    front: NativeFront, client: Client, parsed: list[object], rows: int, levels: str, size: str
) -> None:
    query: dict[str, Any] = {**QUERIES[size], "quantiles": LEVELS[levels]}
    a_stream(client)
    client.data(1, frame(1, request(rows, 0, **query)))
    await client.until(lambda got: len(answers(got, 1)) == 1)
    parsed.clear()
    wanted = [request(rows, seed, **query) for seed in range(1, 1 + MANY)]
    client.data(1, frame(0, wanted[0]))
    got = await client.until(lambda got: len(answers(got, 1)) == 1)
    client.data(1, b"".join(frame(200 + number, each) for number, each in enumerate(wanted[1:])))
    got += await client.until(lambda got: len(answers(got, 1)) == MANY - 1)
    assert not parsed
    for number, raw in enumerate(answers(got, 1)):
        reply = StreamPredictResponse.FromString(raw)
        assert reply.frame_id == (199 + number if number else 0)
        assert reply.SerializeToString() == raw
        assert_equal(reply.response.SerializeToString(), slow(front, wanted[number]))


async def test_calls_and_frames_of_mixed_queries_share_a_read(front: NativeFront, client: Client) -> None:
    kinds: list[dict[str, Any]] = [
        {**size, "quantiles": levels} for size in QUERIES.values() for levels in LEVELS.values()
    ]
    wanted = [
        request((2, 1, 3)[number % 3], number, equal=number % 3 == 0, **kinds[number // 3 % len(kinds)])
        for number in range(72)
    ]
    for learning in range(2):
        first = 1 + 200 * learning
        head = block(SERVICE + b"Predict")
        streams = range(first, first + 2 * len(wanted), 2)
        client.send(
            *(
                frames.frame(frames.HEADERS, 4, stream, head)
                + frames.frame(frames.DATA, frames.END_STREAM, stream, message(each.SerializeToString()))
                for stream, each in zip(streams, wanted, strict=True)
            )
        )
        got = await client.until(lambda got: sum(sent.flags & 1 for sent in got) >= len(wanted))
        for stream, each in zip(streams, wanted, strict=True):
            assert_equal(answers(got, stream)[0], slow(front, each))
    a_stream(client, 601)
    client.data(601, b"".join(frame(number, each) for number, each in enumerate(wanted)))
    got = await client.until(lambda got: len(answers(got, 601)) == len(wanted))
    for raw, each in zip(answers(got, 601), wanted, strict=True):
        assert_equal(StreamPredictResponse.FromString(raw).response.SerializeToString(), slow(front, each))


@pytest.mark.parametrize("count", [1, 5, MANY])
async def test_rows_of_one_size_share_it_and_other_rows_do_not(
    front: NativeFront, client: Client, parsed: list[object], count: int
) -> None:
    """With spike_multiple the response has a size only if all rows share it, so its length differs."""
    query: dict[str, Any] = {"spike_multiple": 2.0, "quantiles": (0.5,)}
    await learned(client, request(3, 0, **query))
    parsed.clear()
    wanted = [request(3, number, equal=number % 3 > 0, **query) for number in range(count)]
    head, streams = block(SERVICE + b"Predict"), range(3, 3 + 2 * count, 2)
    sent = [
        frames.frame(frames.HEADERS, 4, stream, head)
        + frames.frame(frames.DATA, frames.END_STREAM, stream, message(each.SerializeToString()))
        for stream, each in zip(streams, wanted, strict=True)
    ]
    client.send(*sent)
    got = await client.until(lambda got: sum(each.flags & 1 for each in got) >= count)
    a_stream(client, 601)
    client.data(601, b"".join(frame(200 + number, each) for number, each in enumerate(wanted)))
    replies = answers(await client.until(lambda got: len(answers(got, 601)) == count), 601)
    assert not parsed
    for number, (stream, each) in enumerate(zip(streams, wanted, strict=True)):
        (raw,) = answers(got, stream)
        reply = StreamPredictResponse.FromString(replies[number]).response.SerializeToString()
        for response in (raw, reply):
            assert_equal(response, slow(front, each))
            assert bool(PredictResponse.FromString(response).spike_bps) is (number % 3 > 0)


async def test_a_single_row_is_scored_within_the_read_that_brought_it(client: Client) -> None:
    queries: list[dict[str, Any]] = [{}, {"spike_bps": 2.0}, {"spike_multiple": 1.5, "quantiles": (0.1, 0.9)}]
    for number, query in enumerate(queries):
        await learned(client, request(1, 0, **query), 1 + 4 * number)
        client.call(3 + 4 * number, request(1, 7, **query).SerializeToString())
        assert len(answers(client.read(), 3 + 4 * number)) == 1


async def test_queries_of_one_length_do_not_evict_each_other(client: Client, parsed: list[object]) -> None:
    queries: list[dict[str, Any]] = [{"spike_bps": 1.0 + number / 4, "quantiles": (0.5,)} for number in range(16)]
    for number, query in enumerate(queries):
        await learned(client, request(1, 0, **query), 1 + 2 * number)
    parsed.clear()
    for number, query in enumerate(queries):
        client.call(101 + 2 * number, request(1, 1, **query).SerializeToString())
        (raw,) = answers(client.read(), 101 + 2 * number)
        assert PredictResponse.FromString(raw).spike_bps == query["spike_bps"]
    assert not parsed


async def test_named_rows_get_the_answer_of_packed_rows(front: NativeFront, client: Client) -> None:
    query: dict[str, Any] = {"spike_multiple": 2.0, "quantiles": LEVELS_16}
    matrix = rows_of(FULL_2, 2, 3)
    named = NamedRows(rows=[NamedRow(features=dict(zip(FULL_2.names, row, strict=True))) for row in matrix.tolist()])
    client.call(1, PredictRequest(named=named, **query).SerializeToString())
    (raw,) = answers(await client.ended(1), 1)
    assert_equal(raw, slow(front, request(2, 3, **query)))


@pytest.mark.parametrize("rows", [1, 3])
async def test_a_row_without_a_size_is_refused_on_the_fast_path_too(client: Client, rows: int) -> None:
    await learned(client, request(rows, 0, spike_multiple=2.0))
    matrix = rows_of(FULL_2, rows, 1)
    matrix[-1, FULL_2.names.index(TRAILING)] = 0.0
    wanted = request(rows, 1, spike_multiple=2.0)
    wanted.packed.values = matrix.tobytes()
    client.call(3, wanted.SerializeToString())
    got = await client.ended(3)
    assert status(got, 3) == b"3"
    assert any(f"row {rows - 1}: expected a positive".encode() in sent.payload for sent in got)


@pytest.mark.parametrize("levels", [(), (0.9,)])
async def test_a_row_without_finite_quantiles_is_refused_on_the_fast_path_too(
    front: NativeFront, client: Client, levels: tuple[float, ...]
) -> None:
    """Its median is infinite, but it has a probability."""
    await learned(client, request(1, 0, quantiles=levels))
    matrix = rows_of(FULL_2, 1, 1)
    matrix[0, FULL_2.names.index("return_30s")] = 1e3
    wanted = request(1, 1, quantiles=levels)
    wanted.packed.values = matrix.tobytes()
    model = front.serving.plane.repository.resolve(DEFAULT_SELECTION)
    forecasts = model.predictor.forecast(matrix, np.array([[SPIKE_BPS]]), np.array([levels]))
    assert 0 <= forecasts.probabilities[0] <= 1
    assert not np.isfinite(forecasts.median_bps[0])
    client.call(3, wanted.SerializeToString())
    got = await client.ended(3)
    assert status(got, 3) == b"3"
    assert any(b"outside the range of model volatility/1" in sent.payload for sent in got)


async def test_a_known_query_is_refused_once_the_model_forecasts_no_distribution(
    front: NativeFront, client: Client, tmp_path: Path
) -> None:
    snapshots = []
    for write, version in ((write_forecast, "1"), (write_bundle, "2")):
        other = Repository("volatility", time)
        write(tmp_path / version, version=version)
        snapshots.append(other.load(tmp_path / version))
    repository = front.serving.plane.repository
    before, repository.snapshot = repository.snapshot, snapshots[0]
    query, plain = calls.request(), calls.request()
    query.quantiles.append(0.5)
    try:
        await learned(client, query, 1)
        await learned(client, plain, 3)
        repository.snapshot = snapshots[1]
        client.call(5, query.SerializeToString())
        assert status(await client.ended(5), 5) == b"3"
        client.call(7, plain.SerializeToString())
        (raw,) = answers(await client.ended(7), 7)
    finally:
        repository.snapshot = before
    response = PredictResponse.FromString(raw)
    assert (response.model_version, len(response.median_bps)) == ("2", 0)
