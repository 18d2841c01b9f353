"""The bytes of the fast path are the messages that protobuf would write."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from common.http2.frames import MESSAGE
from server.core.dataplane import ForecastResult, Result
from server.core.models import Repository
from server.core.snapshot import Model
from server.rpc.convert import predict_response
from server.wire.response import (
    ModelFields,
    after_values,
    before_values,
    bodies,
    body_bytes,
    body_rows,
    model_fields,
    stream_message,
    stream_message_rows,
    stream_messages,
    value_rows,
    values_of,
    varint,
)
from tests.server.bundles import write_bundle
from volcast.v1 import PredictResponse, StreamPredictRequest, StreamPredictResponse

# Fields of the contract that no server of this version fills.
NOT_FILLED: set[str] = set()
EDGES = sorted({edge for power in range(1, 9) for edge in (128**power - 1, 128**power, 128**power + 1)} | {0, 1})
times = st.one_of(st.sampled_from([edge for edge in EDGES if edge < 2**63]), st.integers(0, 2**63 - 1))
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder, version="a-rather-long-version")
    repository = Repository("volatility")
    repository.load(folder)
    return next(iter(repository.snapshot.models.values()))


def fast(result: Result) -> bytes:
    """A response as the fast path puts it together."""
    rows = len(result.probabilities)
    (body,) = bodies(result, [rows])
    return before_values(model_fields(result.model), rows) + body


@pytest.mark.parametrize("number", [edge for edge in EDGES if edge < 2**63])
def test_a_varint_is_read_as_its_number(number: int) -> None:
    assert _DecodeVarint(varint(number), 0) == (number, len(varint(number)))


@given(probabilities, times, times)
def test_a_response_is_the_bytes_that_protobuf_writes(
    model: Model, row: list[float], queue_ns: int, compute_ns: int
) -> None:
    result = Result(model, np.array(row), queue_ns, compute_ns)
    parsed = PredictResponse.FromString(fast(result))
    assert parsed == predict_response(result)
    if queue_ns and compute_ns:  # protobuf leaves zeros out
        assert fast(result) == predict_response(result).SerializeToString()


def forecast(rows: int, levels: int, *, spike_bps: float = 2.5, base_rate: float = 0.1) -> ForecastResult:
    random = np.random.default_rng(rows + levels)
    sizes = np.full(rows, spike_bps) if spike_bps else random.uniform(1, 9, rows)
    quantiles = random.uniform(1, 9, (rows, levels))
    return ForecastResult(spike_bps, base_rate, random.uniform(1, 9, rows), quantiles, sizes)


def one_by_one(result: Result, rows: int) -> list[bytes]:
    """The messages of protobuf, for responses of `rows` rows each."""
    messages = []
    for begin in range(0, len(result.probabilities), rows):
        part = result.part(slice(begin, begin + rows))
        if rows == 1 and part.forecast is not None:
            size = float(part.forecast.sizes_bps[0])
            part = msgspec.structs.replace(part, forecast=msgspec.structs.replace(part.forecast, spike_bps=size))
        messages.append(predict_response(part).SerializeToString())
    return messages


@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("levels", [0, 1, 16])
@pytest.mark.parametrize("base_rate", [0.0, 0.25])
@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("spike_bps", [2.5, 0.0])
def test_a_forecast_is_the_bytes_that_protobuf_writes(
    model: Model, rows: int, levels: int, base_rate: float, calls: int, spike_bps: float
) -> None:
    if not spike_bps and rows > 1 < calls:
        return  # such requests are scored one by one
    whole = forecast(rows * calls, levels, spike_bps=spike_bps, base_rate=base_rate)
    result = Result(model, np.linspace(0.1, 0.9, rows * calls), 300, 70_000, whole)
    before, expected = before_values(model_fields(model), rows), one_by_one(result, rows)
    assert [before + body for body in bodies(result, [rows] * calls)] == expected
    columns, after = body_rows(result, rows)
    assert [before + body.tobytes() + after for body in columns] == expected
    together, after = body_bytes(result, rows)
    size = len(together) // calls
    assert [before + together[at : at + size] + after for at in range(0, len(together), size)] == expected


def test_the_fast_path_fills_every_field_of_the_contract(model: Model) -> None:
    parsed = PredictResponse.FromString(fast(Result(model, np.array([0.5]), 1, 1, forecast(1, 1))))
    filled = {field.name for field, _ in parsed.ListFields()}
    assert filled == {field.name for field in PredictResponse.DESCRIPTOR.fields} - NOT_FILLED


def test_a_negative_time_is_written_as_zero() -> None:
    assert after_values(-5, -1) == after_values(0, 0)


@pytest.mark.parametrize("frame_ids", [[0], [1, 127], [128, 16_383, 16_384], [2**63 - 1, 0, 7]])
def test_messages_of_a_stream_carry_their_ids_and_parts(model: Model, frame_ids: list[int]) -> None:
    values = np.linspace(0.1, 0.9, 2 * len(frame_ids))
    result = Result(model, values, 3, 4)
    fields = [StreamPredictRequest(frame_id=frame_id).SerializeToString() for frame_id in frame_ids]
    before, after = before_values(model_fields(model), 2), after_values(3, 4)
    sent = stream_messages(fields, before, values_of(result), after)
    for number, reply in enumerate(replies_in(sent)):
        assert reply.frame_id == frame_ids[number]
        np.testing.assert_array_equal(reply.response.probabilities, values[2 * number : 2 * number + 2])
        assert (reply.response.queue_ns, reply.response.compute_ns) == (3, 4)
    assert len(replies_in(sent)) == len(frame_ids)


def test_rows_of_an_array_give_the_same_messages(model: Model) -> None:
    fields = [StreamPredictRequest(frame_id=frame_id).SerializeToString() for frame_id in range(200, 240)]
    result = Result(model, np.linspace(0, 1, 120), 3, 4)
    before, after = before_values(model_fields(model), 3), after_values(3, 4)
    as_rows = np.frombuffer(b"".join(fields), np.uint8).reshape(40, -1)
    assert stream_message_rows(as_rows, before, value_rows(result, 3), after) == stream_messages(
        fields, before, values_of(result), after
    )


def test_a_single_message_is_the_same_as_one_of_many(model: Model) -> None:
    result = Result(model, np.array([0.25]), 9, 9)
    field = StreamPredictRequest(frame_id=300).SerializeToString()
    before, after = before_values(model_fields(model), 1), after_values(9, 9)
    assert stream_message(field, fast(result)) == stream_messages([field], before, values_of(result), after)


def test_fields_of_replaced_models_are_forgotten(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    repository = Repository("volatility")
    repository.load(tmp_path)
    cache = ModelFields(repository)
    first = next(iter(repository.snapshot.models.values()))
    assert cache.of(first) == model_fields(first) == cache.of(first)
    write_bundle(tmp_path, version="2", seed=2)
    repository.load(tmp_path)
    second = repository.snapshot.models["volatility", "2"]
    assert cache.of(second) == model_fields(second)
    assert list(cache._fields) == [second]


def replies_in(sent: bytes) -> list[StreamPredictResponse]:
    replies, at = [], 0
    while at < len(sent):
        compressed, size = MESSAGE.unpack_from(sent, at)
        assert not compressed
        at += MESSAGE.size
        replies.append(StreamPredictResponse.FromString(sent[at : at + size]))
        at += size
    return replies
