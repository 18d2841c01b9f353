"""The bytes of the fast path are the messages that protobuf would write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from common.http2.frames import MESSAGE
from server.core.dataplane import Result
from server.core.models import Repository
from server.core.snapshot import Model
from server.rpc.convert import predict_response
from server.wire.response import (
    ModelFields,
    after_values,
    before_values,
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
    before = before_values(model_fields(result.model), len(result.probabilities))
    return before + values_of(result) + after_values(result.queue_ns, result.compute_ns)


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


def test_the_fast_path_fills_every_field_of_the_contract(model: Model) -> None:
    parsed = PredictResponse.FromString(fast(Result(model, np.array([0.5]), 1, 1)))
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
