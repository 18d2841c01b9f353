"""The native load generators against servers of known behaviour: what they count is what happened."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.native import peers
from benchmarks.processes import free_port
from clients.requests import packed_request
from clients.sync import Client
from common.schema import CORE_1
from volcast.v1 import PredictRequest, PredictResponse, StreamPredictRequest, StreamPredictResponse

built = pytest.mark.skipif(
    not all(map(peers.built, ("echo_cpp", "echo_rust", "stream_client", "open_loop"))),
    reason="benchmarks/native/build has not been run",
)
ECHOES = [peers.cpp_echo, peers.rust_echo]


def request(rows: int) -> PredictRequest:
    return packed_request(array("d", [1.0] * rows * len(CORE_1.names)), rows, CORE_1.hash)


def answer(rows: int = 1) -> bytes:
    return PredictResponse(model_name="fake", probabilities=[0.5] * rows).SerializeToString()


@contextmanager
def fake(predict: Any = None, stream: Any = None) -> Iterator[str]:
    """A server whose methods take and give bytes."""
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Predict": grpc.unary_unary_rpc_method_handler(predict),
        "StreamPredict": grpc.stream_stream_rpc_method_handler(stream),
    }
    server = grpc.server(ThreadPoolExecutor(64))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("volcast.v1.InferenceService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_program_that_is_not_built_is_named_with_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (
        pytest.raises(peers.NotBuiltError, match=r"echo_cpp is not built; run: benchmarks/native/build"),
        peers.cpp_echo(),
    ):
        pass


def test_a_framed_request_is_the_message_behind_its_length() -> None:
    message = request(1).SerializeToString()
    assert peers.framed(request(1)) == b"\0" + len(message).to_bytes(4, "big") + message


@built
@pytest.mark.parametrize("echo", ECHOES)
def test_an_echo_answers_a_probability_a_row_on_both_methods(echo: Any) -> None:
    values = array("d", [1.0] * 3 * len(CORE_1.names))
    with echo() as server, Client(server.address) as client, client.stream() as stream:
        response = client.predict_packed(values, 3, CORE_1.hash)
        in_stream = stream.predict_packed(values, 3, CORE_1.hash)
    for given in (response, in_stream):
        assert (given.model_name, given.model_version, given.threshold) == ("echo", "1", 0.5)
        assert list(given.probabilities) == [0.5] * 3


@built
@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize(
    ("mode", "in_flight", "coalesce"),
    [("pingpong", 1, False), ("pipelined", 32, False), ("pipelined", 32, True), ("pipelined", 0, True)],
)
def test_a_stream_is_driven_with_no_more_in_flight_than_asked(
    echo: Any, mode: peers.StreamMode, in_flight: int, coalesce: bool
) -> None:
    with echo() as server:
        figures = peers.stream_client(
            server.address, mode, request(2), count=1000, in_flight=in_flight, coalesce=coalesce
        )
    assert figures["messages"] == 1000
    assert figures["rows"] == 2
    assert 1 <= figures["most_in_flight"] <= (in_flight or 1100)
    assert 0 < figures["p50_us"] <= figures["p99_us"]


def swapped(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
    for raw in frames:
        frame = StreamPredictRequest.FromString(raw)
        response = PredictResponse(probabilities=[0.5])
        yield StreamPredictResponse(frame_id=frame.frame_id ^ 1, response=response).SerializeToString()


def short(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
    for raw in frames:
        frame = StreamPredictRequest.FromString(raw)
        yield StreamPredictResponse(frame_id=frame.frame_id, response=PredictResponse()).SerializeToString()


def faulty(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
    for raw in frames:
        answered = StreamPredictResponse(frame_id=StreamPredictRequest.FromString(raw).frame_id)
        answered.error.code = 3
        yield answered.SerializeToString()


def refusing(frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
    context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
    yield b""


@built
@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (swapped, "out of order"),
        (short, "not the answer"),
        (faulty, "not the answer"),
        (refusing, "status 14 draining"),
    ],
)
def test_a_stream_that_is_answered_wrongly_gives_no_figures(stream: Any, complaint: str) -> None:
    with fake(stream=stream) as address, pytest.raises(peers.NativeError, match=complaint):
        peers.stream_client(address, "pipelined", request(1), count=10, warmup=0, in_flight=4)


@built
def test_an_open_loop_counts_each_kind_of_answer() -> None:
    turn, calls = threading.Lock(), iter(range(1_000_000))

    def predict(raw: bytes, context: Any) -> bytes:
        with turn:
            number = next(calls)
        if number % 4 == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if number % 4 == 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        return answer()

    with fake(predict) as address:
        figures = peers.open_loop(address, 200, 1, request(1), connections=2, arrivals="constant", warmup_s=0)
    assert figures["offered"] == 200
    assert figures["not_sent"] == figures["lost"] == figures["malformed"] == figures["unanswered"] == 0
    assert figures["resource_exhausted"] == 50
    assert figures["others"] == {"3": 50}
    assert figures["ok"] == 100
    assert figures["refused_us"]["p50"] > 0


@built
def test_an_open_loop_charges_a_stall_to_every_call_that_was_due_in_it() -> None:
    """20 calls, one each 10 ms; none is answered before the last is in: the first waited 190 ms."""
    together = threading.Barrier(20)

    def predict(raw: bytes, context: Any) -> bytes:
        together.wait(20)
        return answer()

    with fake(predict) as address:
        figures = peers.open_loop(address, 100, 0.2, request(1), connections=1, arrivals="constant", warmup_s=0)
    assert figures["ok"] == 20
    assert figures["ok_us"]["max"] >= 190_000
    assert figures["ok_us"]["mean"] >= 95_000


@built
def test_an_open_loop_leaves_out_what_exceeds_its_limit_and_says_so() -> None:
    release = threading.Event()

    def predict(raw: bytes, context: Any) -> bytes:
        release.wait(20)
        return answer()

    with fake(predict) as address:
        figures = peers.open_loop(
            address, 100, 0.2, request(1), arrivals="constant", warmup_s=0, drain_s=0.1, max_outstanding=5
        )
        release.set()
    assert (figures["offered"], figures["not_sent"], figures["unanswered"]) == (20, 15, 5)
    assert figures["most_outstanding"] == 5


@built
def test_an_open_loop_sends_the_deadline_and_headers_it_was_given() -> None:
    seen: list[tuple[float, dict[str, str | bytes]]] = []

    def predict(raw: bytes, context: Any) -> bytes:
        assert PredictRequest.FromString(raw) == request(300)
        seen.append((context.time_remaining(), dict(context.invocation_metadata())))
        return answer(300)

    with fake(predict) as address:
        figures = peers.open_loop(
            address, 100, 0.1, request(300), warmup_s=0, arrivals="constant",
            timeout_ms=5000, headers=["authorization: Bearer x", "routing-key: a"],
        )  # fmt: skip
    assert figures["ok"] == 10
    assert all(0 < remaining <= 5 for remaining, _ in seen)
    assert all(metadata["authorization"] == "Bearer x" and metadata["routing-key"] == "a" for _, metadata in seen)


@built
def test_the_same_seed_offers_the_same_calls() -> None:
    with peers.rust_echo() as server:
        offered = [peers.open_loop(server.address, 2000, 0.3, request(1), seed=seed)["offered"] for seed in (7, 7, 8)]
    assert offered[0] == offered[1] != offered[2]


@built
@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("tick_us", [0, 200])
def test_an_open_loop_gets_every_answer_of_an_echo(echo: Any, tick_us: int) -> None:
    with echo() as server:
        figures = peers.open_loop(server.address, 5000, 0.5, request(1), tick_us=tick_us)
    assert figures["ok"] == figures["offered"] > 2000


@built
def test_nobody_listening_is_said() -> None:
    with pytest.raises(peers.NativeError, match="Connection refused"):
        peers.open_loop(f"127.0.0.1:{free_port()}", 10, 0.1, request(1))
