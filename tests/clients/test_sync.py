from __future__ import annotations

import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clients.requests import packed_request
from clients.sync import Client, PredictStream
from common.errors import (
    DeadlineError,
    ModelNotFoundError,
    RequestError,
    SchemaMismatchError,
    UnavailableError,
)
from common.schema import CORE_1
from tests.server.bundles import Logistic, named, rows
from tests.server.processes import Process, running, serve
from volcast.v1 import ModelSelector, PredictRequest, PredictResponse

STABLE = Logistic(2)


@pytest.fixture
def client(server: Process) -> Iterator[Client]:
    with Client(server.address, timeout_s=20) as client:
        yield client


def test_named_and_packed_rows_are_scored(client: Client) -> None:
    matrix = rows(3)
    by_name = client.predict_named([named(row) for row in matrix])
    assert_allclose(by_name.probabilities, STABLE.predict(matrix), rtol=0, atol=1e-12)
    assert client.predict_packed(matrix, 3, CORE_1.hash).probabilities == by_name.probabilities
    assert client.predict(packed_request(matrix, 3, CORE_1.hash)).probabilities == by_name.probabilities


@pytest.mark.parametrize(
    "buffer", [rows(1), rows(1).tobytes(), rows(1).data, array("d", rows(1)[0]), bytearray(rows(1).tobytes())]
)
def test_any_buffer_of_float64_can_be_packed(client: Client, buffer: bytes) -> None:
    (probability,) = client.predict_packed(buffer, 1, CORE_1.hash).probabilities
    assert probability == pytest.approx(STABLE.predict(rows(1))[0], abs=1e-12)


def test_a_version_can_be_asked_for(client: Client) -> None:
    answer = client.predict_packed(rows(1), 1, CORE_1.hash, model=ModelSelector(version="1"))
    assert answer.model_version == "1"


def test_health_tells_the_schema_rows_must_follow(client: Client) -> None:
    assert {model.schema_hash for model in client.health().models} == {CORE_1.hash}


def test_errors_arrive_as_ours_with_the_fields_at_fault(client: Client) -> None:
    with pytest.raises(RequestError) as raised:
        client.predict_named([{"price": 1.0, "moon": 2.0}])
    assert "named.rows[0].features[moon]" in {violation.field for violation in raised.value.violations}
    with pytest.raises(SchemaMismatchError) as mismatch:
        client.predict_packed(rows(1), 1, "beef")
    assert (mismatch.value.got, mismatch.value.expected) == ("beef", CORE_1.hash)
    with pytest.raises(ModelNotFoundError):
        client.predict_packed(rows(1), 1, CORE_1.hash, model=ModelSelector(name="moon"))


def test_a_server_that_is_away_is_named_in_one_line() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(UnavailableError) as raised:
        client.health()
    assert str(raised.value).startswith("inference server at 127.0.0.1:1: UNAVAILABLE: ")
    assert "\n" not in str(raised.value)


def test_a_call_that_is_not_answered_in_time_is_given_up(mute: str) -> None:
    with Client(mute, timeout_s=0.2) as client, pytest.raises(DeadlineError):
        client.health()


def test_threads_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: client.predict_packed(rows(2, seed), 2, CORE_1.hash), range(40)))
    for seed, answer in enumerate(answers):
        assert_allclose(answer.probabilities, STABLE.predict(rows(2, seed)), rtol=0, atol=1e-12)


# The stream


def test_a_stream_answers_each_frame(client: Client) -> None:
    with client.stream() as stream:
        for seed in range(20):
            response = stream.predict_packed(rows(5, seed), 5, CORE_1.hash)
            assert_allclose(response.probabilities, STABLE.predict(rows(5, seed)), rtol=0, atol=1e-12)


def test_several_frames_may_be_in_flight(client: Client) -> None:
    with client.stream() as stream:
        for frame_id in range(50):
            stream.send_packed(frame_id, rows(1, frame_id), 1, CORE_1.hash)
        assert stream.in_flight == 50
        answers = [stream.receive() for _ in range(50)]
        assert stream.in_flight == 0
    assert [answer.frame_id for answer in answers] == list(range(50))
    expected = np.concatenate([STABLE.predict(rows(1, seed)) for seed in range(50)])
    assert_allclose([answer.response.probabilities[0] for answer in answers], expected, rtol=0, atol=1e-12)


def test_a_refused_frame_raises_and_the_stream_lives_on(client: Client) -> None:
    with client.stream() as stream:
        first = stream.predict_packed(rows(1), 1, CORE_1.hash)
        with pytest.raises(SchemaMismatchError):
            stream.predict_packed(rows(1), 1, "beef")
        with pytest.raises(RequestError, match=r"packed\.values: row 0, feature price: expected a finite number"):
            stream.predict_packed(np.full((1, 11), np.nan), 1, CORE_1.hash)
        assert stream.predict_packed(rows(1), 1, CORE_1.hash).probabilities == first.probabilities


def test_a_refused_frame_among_others_is_an_error_in_its_place(client: Client) -> None:
    with client.stream() as stream:
        stream.send(1, packed_request(rows(1), 1, CORE_1.hash))
        stream.send(2, PredictRequest())
        stream.send(3, packed_request(rows(1), 1, CORE_1.hash))
        answers = [stream.receive() for _ in range(3)]
    assert [answer.WhichOneof("result") for answer in answers] == ["response", "error", "response"]


def test_a_round_trip_needs_the_stream_for_itself(client: Client) -> None:
    with client.stream() as stream:
        stream.send_packed(1, rows(1), 1, CORE_1.hash)
        with pytest.raises(ValueError, match="1 frames are in flight"):
            stream.predict_packed(rows(1), 1, CORE_1.hash)


def test_nothing_is_received_where_nothing_was_sent(client: Client) -> None:
    with client.stream() as stream, pytest.raises(UnavailableError, match="no frame is in flight"):
        stream.receive()


def test_a_stream_over_a_mute_connection_is_given_up_in_time(mute: str) -> None:
    with Client(mute) as client, client.stream() as stream:
        began_s = monotonic()
        with pytest.raises(DeadlineError, match=r"no answer on the stream within 0\.3 s"):
            stream.predict_packed(rows(1), 1, CORE_1.hash, timeout_s=0.3)
        assert monotonic() - began_s < 5
        assert stream.in_flight == 0


@pytest.mark.process
def test_a_broken_stream_says_so_once_and_opens_again(models: Path) -> None:
    with serve(models) as first:
        port = str(first.ready["port"])
        client = Client(first.address)
        stream = client.stream()
        stream.predict_packed(rows(1), 1, CORE_1.hash)
        stream.send_packed(7, rows(1), 1, CORE_1.hash)
        first.popen.kill()
        first.popen.wait()
        with pytest.raises(UnavailableError, match=f"inference server at {first.address}: UNAVAILABLE"):
            _receive_all(stream)
        assert stream.in_flight == 0
    with client, stream, running("serve", "--port", port, "--metrics-port", "0", "--models-dir", str(models)):
        assert _until_answered(stream).model_version == "2"


def _receive_all(stream: PredictStream) -> None:
    """The frame that was sent may have been answered just before the server was killed; the next one was not."""
    stream.receive()
    stream.send_packed(8, rows(1), 1, CORE_1.hash)
    stream.receive()


def _until_answered(stream: PredictStream) -> PredictResponse:
    deadline_s = monotonic() + 20
    while True:
        try:
            return stream.predict_packed(rows(1), 1, CORE_1.hash)
        except UnavailableError:
            assert monotonic() < deadline_s


def test_an_open_stream_has_no_thread(client: Client) -> None:
    before = set(threading.enumerate())
    with client.stream() as stream:
        stream.predict_packed(rows(1), 1, CORE_1.hash)
        for thread in set(threading.enumerate()) - before:
            thread.join(5)  # the thread that opened the connection
        assert set(threading.enumerate()) <= before


def test_a_process_that_forgot_to_close_its_stream_still_exits(server: Process) -> None:
    program = """
import sys
from clients.sync import Client
stream = Client(sys.argv[1]).stream()
for frame_id in range(500):
    stream.send_packed(frame_id, bytes(88), 1, sys.argv[2])
stream.receive()
"""
    command = [sys.executable, "-c", program, server.address, CORE_1.hash]
    assert subprocess.run(command, check=False, timeout=30).returncode == 0
