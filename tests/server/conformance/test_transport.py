"""What gRPC itself promises: metadata, compression, sizes, pings, many connections."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from tests.server.bundles import rows
from tests.server.conformance.calls import SERVICE, TIMEOUT_S, assert_scored, call, channel_to, code_of, frame, packed
from tests.server.conformance.conftest import MAX_METADATA_BYTES
from tests.server.conformance.wire import WINDOW_UPDATE, Wire
from tests.server.conftest import MAX_MESSAGE_BYTES
from tests.server.processes import Process
from tests.server.security.raw import ACK, GOAWAY, PING, SETTINGS
from volcast.v1 import PredictResponse, StreamPredictResponse

PREDICT = SERVICE + "Predict"
STREAM = SERVICE + "StreamPredict"
CHECK = "/grpc.health.v1.Health/Check"
CONNECTIONS = 200


def ask(channel: grpc.Channel, metadata: tuple[tuple[str, str | bytes], ...] | None = None) -> None:
    call = channel.unary_unary(PREDICT, bytes, bytes)
    raw = call(packed(rows(1)).SerializeToString(), timeout=TIMEOUT_S, metadata=metadata)
    assert_scored(PredictResponse.FromString(raw), 10, rows(1))


@pytest.mark.parametrize(
    "metadata",
    [
        (("x-request-id", "7"),),
        (("x-trace-bin", bytes(range(256))),),
        (("x-twice", "one"), ("x-twice", "two")),
        (("grpc-trace-bin", b"\0\0"), ("user-agent-more", "x" * 2000)),
        tuple((f"x-{index}", str(index)) for index in range(40)),
    ],
)
def test_metadata_changes_nothing(channel: grpc.Channel, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    for _ in range(3):  # the second time it is in the connection's table
        ask(channel, metadata=metadata)


def test_metadata_over_the_limit_is_refused_and_the_connection_lives_on(patient: Process) -> None:
    with channel_to(patient.address) as channel:
        call(channel, CHECK, b"")
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(CHECK, bytes, bytes)(
                b"", metadata=(("x", "y" * 2 * MAX_METADATA_BYTES),), timeout=TIMEOUT_S
            )
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        call(channel, CHECK, b"")


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_taken(channel: grpc.Channel, compression: grpc.Compression) -> None:
    matrix = np.ones((200, 11))
    raw = channel.unary_unary(PREDICT, bytes, bytes)(
        packed(matrix).SerializeToString(), timeout=TIMEOUT_S, compression=compression
    )
    assert_scored(PredictResponse.FromString(raw), 10, matrix)
    frames = iter([frame(index, packed(matrix)).SerializeToString() for index in range(3)])
    answers = channel.stream_stream(STREAM, bytes, bytes)(frames, timeout=TIMEOUT_S, compression=compression)
    assert [StreamPredictResponse.FromString(answer).frame_id for answer in answers] == [0, 1, 2]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_message_that_is_small_only_as_long_as_it_is_compressed_is_refused(
    channel: grpc.Channel, compression: grpc.Compression
) -> None:
    bomb = bytes(100 * MAX_MESSAGE_BYTES)
    pending = channel.unary_unary(PREDICT, bytes, bytes).future(bomb, timeout=TIMEOUT_S, compression=compression)
    assert code_of(pending) is grpc.StatusCode.RESOURCE_EXHAUSTED
    ask(channel)


@pytest.mark.parametrize("path", [PREDICT, CHECK, "/inference.GRPCInferenceService/ModelInfer"])
def test_a_message_over_the_limit_is_refused_by_every_unary_method(channel: grpc.Channel, path: str) -> None:
    pending = channel.unary_unary(path, bytes, bytes).future(bytes(MAX_MESSAGE_BYTES + 1), timeout=TIMEOUT_S)
    assert code_of(pending) is grpc.StatusCode.RESOURCE_EXHAUSTED
    ask(channel)


@pytest.mark.parametrize("path", [STREAM, "/inference.GRPCInferenceService/ModelStreamInfer"])
def test_a_message_over_the_limit_ends_its_stream(channel: grpc.Channel, path: str) -> None:
    answers = channel.stream_stream(path, bytes, bytes)(iter([bytes(MAX_MESSAGE_BYTES + 1)]), timeout=TIMEOUT_S)
    assert code_of(answers) is grpc.StatusCode.RESOURCE_EXHAUSTED
    ask(channel)


@pytest.mark.parametrize(
    "path",
    [
        "/volcast.v1.InferenceService/Forecast",
        "/volcast.v1.InferenceService/predict",
        "/volcast.v2.InferenceService/Predict",
        "/moon.Phases/Next",
        "/grpc.health.v1.Health/",
        "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
    ],
)
def test_what_is_not_served_is_unimplemented_in_every_form_of_call(channel: grpc.Channel, path: str) -> None:
    for pending in (
        channel.unary_unary(path, bytes, bytes).future(b"", timeout=TIMEOUT_S),
        channel.unary_stream(path, bytes, bytes)(b"", timeout=TIMEOUT_S),
        channel.stream_stream(path, bytes, bytes)(iter([b""]), timeout=TIMEOUT_S),
    ):
        assert code_of(pending) is grpc.StatusCode.UNIMPLEMENTED


def test_a_unary_method_may_be_called_as_a_stream_of_one(channel: grpc.Channel) -> None:
    """They are the same on the wire; the front must not rely on what a client calls it."""
    answers = channel.stream_stream(PREDICT, bytes, bytes)(
        iter([packed(rows(1)).SerializeToString()]), timeout=TIMEOUT_S
    )
    (answer,) = answers
    assert_scored(PredictResponse.FromString(answer), 10, rows(1))


def test_a_ping_is_acknowledged_with_its_payload(server: Process) -> None:
    with Wire(server.address) as wire:
        wire.send(PING, b"12345678")
        while (got := wire.read())[0] != PING or not got[1] & ACK:
            pass
        assert got[3] == b"12345678"
        wire.request(1, PREDICT, packed(rows(1)).SerializeToString())
        assert wire.answer(1)[0]["grpc-status"] == "0"


def test_a_peer_that_only_pings_is_disconnected_and_no_other_peer(server: Process, channel: grpc.Channel) -> None:
    with Wire(server.address) as wire:
        wire.socket.sendall((b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"12345678") * 20_000)
        goodbyes = [payload for kind, _, _, payload in wire.frames() if kind == GOAWAY]
    # ENHANCE_YOUR_CALM, where the reset that follows, as pings are left unread, does not overtake it.
    assert [int.from_bytes(goodbye[4:8], "big") for goodbye in goodbyes[-1:]] in ([11], [])
    ask(channel)


def test_two_hundred_connections_are_all_served(server: Process) -> None:
    wires = [Wire(server.address) for _ in range(CONNECTIONS)]
    try:
        for turn in (1, 3):
            for seed, wire in enumerate(wires):
                wire.request(turn, PREDICT, packed(rows(1, seed)).SerializeToString())
            for seed, wire in enumerate(wires):
                ended, (message,) = wire.answer(turn)
                assert ended["grpc-status"] == "0"
                assert_scored(PredictResponse.FromString(message), 10, rows(1, seed))
    finally:
        for wire in wires:
            wire.socket.close()


def test_a_message_in_pieces_is_one_message(server: Process) -> None:
    """A client may cut where it likes, and let others come between."""
    raw = packed(rows(1)).SerializeToString()
    body = b"\0" + len(raw).to_bytes(4, "big") + raw
    with Wire(server.address) as wire:
        for stream in (1, 3):
            wire.open_call(stream, PREDICT)
        for index, byte in enumerate(body):
            for stream in (1, 3):
                wire.send(0, bytes([byte]), int(index == len(body) - 1), stream)
        for stream in (3, 1):
            ended, (message,) = wire.answer(stream)
            assert ended["grpc-status"] == "0"
            assert_scored(PredictResponse.FromString(message), 10, rows(1))


def test_a_call_without_its_message_is_an_error_of_its_own(server: Process) -> None:
    """grpc.aio tells it by the call's deadline only; the native front at once."""
    with Wire(server.address) as wire:
        wire.open_call(1, PREDICT, (("grpc-timeout", "200m"),))
        wire.send(0, b"", 1, 1)
        ended, messages = wire.answer(1)
        assert messages == []
        assert ended.get("grpc-status", "reset") != "0"
        wire.request(3, PREDICT, packed(rows(1)).SerializeToString())
        assert wire.answer(3)[0]["grpc-status"] == "0"


@pytest.mark.parametrize("path", [PREDICT, STREAM, CHECK])
@pytest.mark.parametrize("part", [b"", b"\0\0\0\0\x09half"])
def test_a_call_whose_message_never_arrives_ends_at_its_deadline(server: Process, path: str, part: bytes) -> None:
    with Wire(server.address) as wire:
        wire.open_call(1, path, (("grpc-timeout", "200m"),))
        if part:
            wire.send(0, part, 0, 1)
        ended, messages = wire.answer(1)
        assert messages == []
        assert ended.get("grpc-status", "4") == "4"  # grpc-core resets the call


def test_answers_wait_for_the_window_of_their_reader(server: Process) -> None:
    """A window of 10 bytes, given byte by byte: nothing is sent beyond it."""
    with Wire(server.address) as wire:
        wire.send(SETTINGS, b"\x00\x04" + (10).to_bytes(4, "big"))
        wire.request(1, PREDICT, packed(rows(1)).SerializeToString())
        got = 0
        while True:
            kind, flags, stream, payload = wire.read()
            if stream == 1 and kind == 0:
                assert len(payload) <= 10
                got += len(payload)
                wire.send(WINDOW_UPDATE, len(payload).to_bytes(4, "big"), 0, 1)
            if stream == 1 and flags & 1:
                break
    assert got > 40
