"""Details of RFC 9113 and of gRPC over HTTP/2 that clients and proxies rely on."""

from __future__ import annotations

import numpy as np
import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from common.http2 import frames
from common.http2.frames import ErrorCode, ProtocolError
from server.http2.connection import Connection, Limits
from server.http2.headers import literal
from server.http2.sending import RESTORED_BY_CALL
from tests.server.http2.peer import METHODS, NOW_NS, EveryCall, Frame, Peer, block, message

WORD = (8).to_bytes(4, "big")


def head_with(content_type: bytes) -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/score"), (b"content-type", content_type)]
    return b"".join(literal(name, value) for name, value in fields)


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc+proto ; charset=utf-8", True),
        (b"application/grpc+json", False),
        (b"application/grpc+thrift", False),
        (b"application/grpc+protobuf", False),
        (b"application/grpc-web", False),
        (b"application/grpcproto", False),
        (b"application/json", False),
    ],
)
def test_only_protobuf_messages_are_taken(content_type: bytes, is_grpc: bool) -> None:
    peer = Peer()
    peer.send(frames.HEADERS, 4, 1, head_with(content_type))
    peer.data(1, message(b"row"), frames.END_STREAM)
    assert peer.asked() == ([(1, b"row")] if is_grpc else [])
    if not is_grpc:
        first = next(frame for frame in peer.read() if frame.kind == frames.HEADERS)
        assert peer.fields(first)[b":status"] == b"415"


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"x-a", b"a\rb"), (b"x-a", b"a\nb"), (b"x-a", b"a\0b"), (b"authorization", b"Bearer t\n"), (b"x a", b"b"),
     (b"x-a ", b"b"), (b" x-a", b"b"), (b"x\ta", b"b"), (b"", b"b"), (b"x:a", b"b"), (b"X-a", b"b"), (b"x\x7f", b"b"),
     (b"x\xe9", b"b"), (b"x\0", b"b")],
)  # fmt: skip
def test_a_name_or_value_that_http2_forbids_resets_its_stream(name: bytes, value: bytes) -> None:
    peer = Peer()
    peer.head(1, b"/score", (name, value))
    assert [(frame.kind, frames.word(frame.payload)) for frame in peer.read()] == [
        (frames.RST_STREAM, ErrorCode.PROTOCOL_ERROR)
    ]
    peer.call(3)
    assert peer.asked() == [(3, b"row")]


@pytest.mark.parametrize("path", [b"/score\0", b"/score\r\nx: y", b"/\n"])
def test_a_path_with_a_line_break_resets_its_stream(path: bytes) -> None:
    peer = Peer()
    peer.head(1, path)
    assert [frame.kind for frame in peer.read()] == [frames.RST_STREAM]


@pytest.mark.parametrize("value", [b"a b", b"a\tb", b"", b"\xe9", b'a,b;c="d"', b" a "])
def test_other_values_are_accepted(value: bytes) -> None:
    peer = Peer()
    peer.head(1, b"/score", (b"x-a", value))
    peer.data(1, message(b"row"), frames.END_STREAM)
    assert peer.asked() == [(1, b"row")]


@pytest.mark.parametrize("stream", [2, 4, 1000])
@pytest.mark.parametrize(
    "frame",
    [frames.window_update(0, 1), frames.rst_stream(0, ErrorCode.CANCEL), frames.frame(frames.DATA, 0, 0, b"x")],
)
def test_a_frame_on_an_idle_even_stream_ends_the_connection(stream: int, frame: bytes) -> None:
    peer = Peer()
    peer.call(2001)
    with pytest.raises(ProtocolError) as raised:
        peer.raw(frame[:5] + stream.to_bytes(4, "big") + frame[9:])
    assert raised.value.code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"POST /volcast", b"G", b"PUT ", b"OPTIONS * HTTP/1.1\r\n", b"PATCH /"]
)
def test_http1_is_answered_in_its_own_form(data: bytes) -> None:
    connection = Connection(METHODS, EveryCall(), Limits())
    with pytest.raises(ProtocolError) as raised:
        connection.receive(data, 0)
    connection.go_away(raised.value.code, raised.value.reason)
    head, _, text = connection.output().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length: %d" % len(text) in head
    assert b"gRPC" in text


@pytest.mark.parametrize(
    "data", [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"PRI * HTTP/1.1\r\n", b"\x16\x03", b"get /", b"INVALID PREFACE"]
)
def test_other_bytes_are_answered_by_goaway(data: bytes) -> None:
    connection = Connection(METHODS, EveryCall(), Limits())
    with pytest.raises(ProtocolError) as raised:
        connection.receive(data, 0)
    connection.go_away(raised.value.code, raised.value.reason)
    assert b"HTTP/1" not in connection.output()


def cancel(peer: Peer, streams: range) -> None:
    for stream in streams:
        peer.head(stream)
        peer.send(frames.RST_STREAM, 0, stream, WORD)


@pytest.mark.parametrize(("growth", "is_right"), [(0, True), (1, False)])
def test_a_larger_initial_window_counts_the_increments_of_calls_on_the_fast_path(growth: int, is_right: bool) -> None:
    """RFC 9113, section 6.9.2: no window may grow beyond 2^31 - 1."""
    peer = Peer()
    peer.call(1)  # its head is remembered
    body = frames.frame(frames.DATA, frames.END_STREAM, 3, message(b"row"))
    credit = frames.window_update(3, frames.MAX_WINDOW - 65_535 - 10)
    peer.raw(frames.frame(frames.HEADERS, 4, 3, block()) + credit + body)
    assert 3 in [stream for stream, _, _ in peer.connection.calls]
    larger = frames.settings({frames.INITIAL_WINDOW_SIZE: 65_535 + 10 + growth})
    if is_right:
        peer.raw(larger)
    else:
        with pytest.raises(ProtocolError) as raised:
            peer.raw(larger)
        assert raised.value.code == ErrorCode.FLOW_CONTROL_ERROR


def complete(peer: Peer, streams: range) -> None:
    for stream in streams:
        peer.call(stream)
        peer.connection.respond_fast(stream, b"answer")


def test_a_proxy_that_cancels_for_many_callers_keeps_its_connection() -> None:
    peer = Peer(Limits(max_abuse_score=100))
    for begin in range(1, 20_000, 200):
        cancel(peer, range(begin, begin + 160, 2))  # 80 calls
        complete(peer, range(begin + 160, begin + 200, 2))  # 20 calls
    assert peer.connection._abuse_score <= 100


def test_the_budget_is_restored_to_its_full_size_and_no_further() -> None:
    peer = Peer(Limits(max_abuse_score=100))
    complete(peer, range(1, 2001, 2))
    cancel(peer, range(2001, 2201, 2))
    with pytest.raises(ProtocolError):
        cancel(peer, range(2201, 2203, 2))


def test_each_way_to_answer_restores_the_budget() -> None:
    peer = Peer(Limits(max_abuse_score=100))
    cancel(peer, range(1, 101, 2))
    before = peer.connection._abuse_score
    peer.call(101)
    peer.connection.respond_fast(101, b"answer")
    peer.call(103)
    stream = peer.connection.promote(103)
    assert stream is not None
    peer.connection.respond(stream, b"answer")
    for stream_id in (105, 107, 109):
        peer.call(stream_id)
    assert peer.connection.respond_columnar(range(105, 111, 2), b"answer", 0, np.zeros((3, 1), np.uint8))
    assert peer.connection._abuse_score == before - 5 * RESTORED_BY_CALL


@pytest.mark.parametrize("count", [100, 101])
def test_the_budget_is_spent_above_its_limit(count: int) -> None:
    peer = Peer(Limits(max_abuse_score=100))
    pings = frames.frame(frames.PING, 0, 0, bytes(8)) * (count - 1)  # the preface's SETTINGS count as well
    if count == 100:
        peer.raw(pings)
        return
    with pytest.raises(ProtocolError) as raised:
        peer.raw(pings)
    assert raised.value.code == ErrorCode.ENHANCE_YOUR_CALM


def data_bytes(read: list[Frame]) -> dict[int, int]:
    sent: dict[int, int] = {}
    for frame in read:
        if frame.kind == frames.DATA:
            sent[frame.stream] = sent.get(frame.stream, 0) + len(frame.payload)
    return sent


def test_blocked_streams_share_what_the_connections_window_gives() -> None:
    peer = Peer(settings={frames.INITIAL_WINDOW_SIZE: 2**30})
    for stream in (1, 3, 5):
        peer.head(stream, b"/stream")
        peer.connection.send(peer.connection.streams[stream], bytes(1_000_000))
    peer.read()
    for _ in range(10):
        peer.raw(frames.window_update(0, 3 * frames.FRAME_SIZE))
    assert data_bytes(peer.read()) == dict.fromkeys((1, 3, 5), 10 * frames.FRAME_SIZE)


def test_small_grants_go_round_the_blocked_streams() -> None:
    peer = Peer(settings={frames.INITIAL_WINDOW_SIZE: 2**30})
    for stream in (1, 3, 5):
        peer.head(stream, b"/stream")
        peer.connection.send(peer.connection.streams[stream], bytes(200_000))
    peer.read()
    for _ in range(9):
        peer.raw(frames.window_update(0, 100))
    assert data_bytes(peer.read()) == {1: 300, 3: 300, 5: 300}


def test_the_connections_window_may_be_as_large_as_the_protocol_allows() -> None:
    peer = Peer()
    peer.raw(frames.window_update(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW))
    assert peer.connection._send_window == frames.MAX_WINDOW
    with pytest.raises(ProtocolError) as raised:
        peer.raw(frames.window_update(0, 1))
    assert raised.value.code == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_streams_window_may_be_as_large_as_the_protocol_allows(is_whole: bool) -> None:
    peer = Peer()
    peer.call(1)
    peer.head(3)
    if is_whole:
        peer.data(3, message(b"row"), frames.END_STREAM)
    peer.raw(frames.window_update(3, frames.MAX_WINDOW - frames.DEFAULT_WINDOW))
    assert [frame.kind for frame in peer.read() if frame.stream == 3] == []
    peer.raw(frames.window_update(3, 1))
    resets = [frame for frame in peer.read() if frame.kind == frames.RST_STREAM]
    assert [frames.word(frame.payload) for frame in resets] == [ErrorCode.FLOW_CONTROL_ERROR]


def test_an_initial_window_may_be_as_large_as_the_protocol_allows() -> None:
    peer = Peer()
    peer.head(1, b"/stream")
    peer.raw(frames.settings({frames.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW}))
    assert peer.connection.streams[1].send_window == frames.MAX_WINDOW


@pytest.mark.parametrize("length", range(301))
def test_a_string_of_any_length_is_read_by_another_decoder(length: int) -> None:
    name, value = b"n" * max(1, length), b"v" * length
    assert list(Decoder().decode(literal(name, value), raw=True)) == [(name, value)]


@given(st.binary(min_size=1, max_size=500), st.binary(max_size=1000))
def test_any_literal_is_read_by_another_decoder(name: bytes, value: bytes) -> None:
    assert list(Decoder(2**20).decode(literal(name, value), raw=True)) == [(name, value)]


@pytest.mark.parametrize("power", [127 + 128, 127 + 128**2])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_lengths_around_the_powers_of_128_are_read_by_another_decoder(power: int, off: int) -> None:
    value = b"v" * (power + off)
    assert list(Decoder(2**20).decode(literal(b"n", value), raw=True)) == [(b"n", value)]


def test_the_time_of_a_call_is_that_of_its_read() -> None:
    peer = Peer()
    peer.send(frames.HEADERS, 4, 1, block(b"/stream"))
    assert peer.connection.streams[1].arrived_ns == NOW_NS
