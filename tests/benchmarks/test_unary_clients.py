"""The real clients send what their options say, check every answer, and count what was answered."""

from __future__ import annotations

import os
import struct
from typing import Any

import grpc
import pytest

from benchmarks.native import peers
from benchmarks.requests import request
from tests.benchmarks.test_native_peers import answer, fake
from volcast.v1 import PredictRequest

CLIENTS: list[peers.UnaryClient] = ["unary_client", "unary_go", "unary_tonic"]


def built(client: peers.UnaryClient) -> Any:
    return pytest.param(
        client, marks=pytest.mark.skipif(not peers.built(client), reason="benchmarks/native/build has not been run")
    )


every_client = pytest.mark.parametrize("client", [built(client) for client in CLIENTS])
cpp_only = pytest.mark.parametrize("client", [built("unary_client")])


def collected(client: peers.UnaryClient, **options: object) -> tuple[dict[str, float], list[PredictRequest]]:
    """A short run on a server that keeps the requests."""
    seen: list[PredictRequest] = []

    def predict(raw: bytes, context: Any) -> bytes:
        seen.append(PredictRequest.FromString(raw))
        return answer(seen[-1].packed.row_count)

    with fake(predict) as address:
        given = {name.replace("_", "-"): value for name, value in options.items()}
        figures = peers.unary_client(address, request(), given, client=client, seconds=0.3, warmup_s=0.1)
    return figures, seen


@every_client
def test_every_call_has_another_row_around_the_given_one(client: peers.UnaryClient) -> None:
    figures, seen = collected(client, in_flight=4)
    values = [message.packed.values for message in seen]
    assert len(set(values)) == len(values) > figures["calls"] > 20
    centre = struct.unpack("<11d", request().packed.values)
    for value in values:
        assert struct.unpack("<11d", value) == pytest.approx(centre, rel=0.4)
    for message in seen:
        message.packed.values = request().packed.values
    assert all(message == request() for message in seen)


@every_client
def test_figures_are_of_the_calls_in_the_window(client: peers.UnaryClient) -> None:
    figures, _ = collected(client, in_flight=4)
    assert figures["calls_per_s"] == pytest.approx(figures["calls"] / 0.3, rel=0.01)
    assert 0 < figures["p50_us"] <= figures["p99_us"]


@every_client
@pytest.mark.parametrize("given", [b"", answer(2), answer(0)])
def test_a_wrong_number_of_probabilities_gives_no_figures(client: peers.UnaryClient, given: bytes) -> None:
    with fake(lambda raw, context: given) as address, pytest.raises(peers.NativeError, match="not the answer"):
        peers.unary_client(address, request(), {"in-flight": 2}, client=client, seconds=0.2)


@every_client
@pytest.mark.parametrize("probability", [float("nan"), float("inf"), 1.5, -0.5])
def test_a_value_that_is_no_probability_gives_no_figures(client: peers.UnaryClient, probability: float) -> None:
    given = answer(1).replace(struct.pack("<d", 0.5), struct.pack("<d", probability))
    with fake(lambda raw, context: given) as address, pytest.raises(peers.NativeError, match="not the answer"):
        peers.unary_client(address, request(), {"in-flight": 2}, client=client, seconds=0.2)


@every_client
def test_one_refused_call_gives_no_figures(client: peers.UnaryClient) -> None:
    calls = iter(range(1_000_000))

    def predict(raw: bytes, context: Any) -> bytes:
        if next(calls) == 20:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        return answer()

    with fake(predict) as address, pytest.raises(peers.NativeError, match="the queue is full"):
        peers.unary_client(address, request(), {"in-flight": 2}, client=client, seconds=0.2)


@cpp_only
def test_forms_times_and_products_are_sent_as_asked(client: peers.UnaryClient) -> None:
    _, seen = collected(client, rows="1,2,5", in_flight=2, event_times=1, product_ids=1)
    assert {message.packed.row_count for message in seen} == {1, 2, 5}
    for message in seen:
        rows = message.packed.row_count
        assert len(message.packed.values) == 88 * rows
        assert len(message.packed.event_times_ns) == len(message.packed.product_ids) == rows
    assert len({message.packed.event_times_ns[0] for message in seen}) == len(seen)
    assert len({message.packed.product_ids[0] for message in seen}) > 2


@cpp_only
def test_calls_come_over_as_many_connections_as_asked(client: peers.UnaryClient) -> None:
    callers: set[str] = set()

    def predict(raw: bytes, context: Any) -> bytes:
        callers.add(context.peer())
        return answer()

    with fake(predict) as address:
        peers.unary_client(address, request(), {"connections": 3, "in-flight": 2}, client=client, seconds=0.2)
    assert len(callers) == 3


@cpp_only
def test_the_cpu_of_the_named_process_is_counted(client: peers.UnaryClient) -> None:
    figures, _ = collected(client, in_flight=4, server_pid=os.getpid())  # the fake runs in this process
    assert 5 < figures["server_cpu_us"] < 1e6 / figures["calls_per_s"] * 2 * (os.cpu_count() or 1)
    assert figures["client_cpu_us"] > 0
