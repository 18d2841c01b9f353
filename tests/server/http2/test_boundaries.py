"""Values at which a rule begins: each test fails if a constant or a comparison moves by one."""

from __future__ import annotations

import pytest
from hpack import Decoder

from common.http2 import frames
from common.http2.frames import ErrorCode, ProtocolError
from server.http2.connection import HTTP1_METHODS, MIN_BYTES_PER_S, Connection, Limits
from server.http2.headers import failure, fitted, literal
from tests.server.http2.peer import METHODS, NOW_NS, EveryCall, Peer, message

PADDED = 0x8
PIECE = 32 * 1024  # bytes of DATA of one call
HALF_WINDOW = 2 * 1024 * 1024  # of the connection, for the default limits
SECOND_NS = 1_000_000_000


def test_error_codes_are_those_of_rfc_9113() -> None:
    assert [code.value for code in ErrorCode] == list(range(12))  # the last two codes are not used


def test_every_method_of_http1_is_recognized() -> None:
    assert {method.strip() for method in HTTP1_METHODS} == {
        b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE",
    }  # fmt: skip
    for method in HTTP1_METHODS:
        connection = Connection(METHODS, EveryCall(), Limits())
        with pytest.raises(ProtocolError):
            connection.receive(method + b"/ HTTP/1.1\r\n\r\n", NOW_NS)
        assert connection.output().startswith(b"HTTP/1.1 400 "), method


@pytest.mark.parametrize("started", [True, False])
def test_fields_that_every_response_needs_are_never_dropped(started: bool) -> None:
    block = failure(8, "too many calls", b"details", started=started)
    kept = {bytes(name) for name, _ in Decoder().decode(fitted(block, 0), raw=True)}
    assert kept == ({b"grpc-status"} if started else {b":status", b"content-type", b"grpc-status"})


@pytest.mark.parametrize(("size", "due"), [(frames.HEADER_TABLE - 1, True), (frames.HEADER_TABLE, False)])
def test_only_a_smaller_header_table_is_confirmed(size: int, due: bool) -> None:
    peer = Peer(settings={frames.HEADER_TABLE_SIZE: size})
    peer.call(1)
    peer.connection.respond_fast(1, b"answer")
    first = next(frame for frame in peer.read() if frame.kind == frames.HEADERS)
    assert (first.payload[0] & 0xE0 == 0x20) is due  # RFC 7541, section 6.3: 001 and the size


@pytest.mark.parametrize("how", ["one read", "two reads", "two frames", "padded", "stream"])
def test_half_of_the_connections_window_is_returned_at_once(how: str) -> None:
    peer = Peer(Limits(max_streams=10_000))
    body = message(bytes(PIECE - 5))
    count = HALF_WINDOW // PIECE
    for number in range(count):
        assert _credit(peer) == 0
        stream = 1 + 2 * number
        if how == "one read":
            head = frames.frame(frames.HEADERS, 4, stream, _head_block())
            peer.raw(head + frames.frame(frames.DATA, frames.END_STREAM, stream, body))
        elif how == "two reads":
            peer.head(stream)
            peer.data(stream, body, frames.END_STREAM)
        elif how == "two frames":
            peer.head(stream)
            peer.data(stream, body[:1000])
            peer.data(stream, body[1000:], frames.END_STREAM)
        elif how == "padded":
            padded = message(bytes(PIECE - 5 - 1 - 100))
            peer.head(stream)
            peer.data(stream, b"\x64" + padded + bytes(100), frames.END_STREAM | PADDED)
        else:
            peer.head(stream, b"/stream")
            peer.data(stream, body)
    assert _credit(peer) == HALF_WINDOW


def _head_block() -> bytes:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/score"), (b":authority", b"x")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return b"".join(literal(name, value) for name, value in fields)


def _credit(peer: Peer) -> int:
    """The increment of the connection's window in the output."""
    updates = [frame for frame in peer.read() if frame.kind == frames.WINDOW_UPDATE and frame.stream == 0]
    return sum(frames.word(frame.payload) for frame in updates)


@pytest.mark.parametrize(("size", "status"), [(1000, None), (1001, 8)])
def test_unread_responses_may_fill_their_limit(size: int, status: int | None) -> None:
    peer = Peer(Limits(max_unsent=1000), settings={frames.INITIAL_WINDOW_SIZE: 0})
    peer.call(1)
    peer.connection.respond_fast(1, bytes(size))
    ends = [frame for frame in peer.read() if frame.flags & frames.END_STREAM]
    assert bool(ends) is (status is not None)
    if status is not None:
        assert peer.fields(ends[0])[b"grpc-status"] == b"%d" % status


@pytest.mark.parametrize(("late_ns", "stalled"), [(0, False), (1, True)])
def test_a_frame_has_its_whole_time(late_ns: int, stalled: bool) -> None:
    peer = Peer()
    peer.raw(frames.frame(frames.DATA, 0, 1, bytes(100))[:20])
    assert peer.connection.is_stalled(NOW_NS + SECOND_NS + late_ns, SECOND_NS) is stalled


@pytest.mark.parametrize(("received", "stalled"), [(MIN_BYTES_PER_S - 1, True), (MIN_BYTES_PER_S, False)])
def test_a_slow_frame_may_arrive_at_the_least_rate(received: int, stalled: bool) -> None:
    peer = Peer()
    head = frames.frame(frames.DATA, 0, 1, bytes(100_000))
    peer.raw(head[:20])
    peer.raw(head[20 : 20 + received])
    assert peer.connection.is_stalled(NOW_NS + SECOND_NS, SECOND_NS - 1) is stalled
