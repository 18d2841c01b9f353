"""What each kind of frame does to a connection, and which of them end it."""

from __future__ import annotations

import pytest

from common.http2 import frames
from common.http2.frames import ErrorCode, ProtocolError
from server.http2.connection import Connection, Event, Limits
from tests.server.http2.peer import METHODS, EveryCall, Frame, Peer, block, message

WORD = (0).to_bytes(4, "big")


def code_of(peer: Peer, data: bytes) -> ErrorCode:
    """What a connection is ended with."""
    with pytest.raises(ProtocolError) as raised:
        peer.raw(data)
    return raised.value.code


def resets(peer: Peer) -> dict[int, int]:
    return {sent.stream: frames.word(sent.payload) for sent in peer.read() if sent.kind == frames.RST_STREAM}


def test_a_server_begins_with_its_settings_and_a_larger_window() -> None:
    greeting = Peer(Limits(max_streams=7, stream_window=1000)).greeting
    values = dict(frames.parse_settings(greeting[0].payload))
    assert values[frames.MAX_CONCURRENT_STREAMS] == 7
    assert values[frames.INITIAL_WINDOW_SIZE] == 1000
    assert (greeting[1].kind, greeting[1].stream) == (frames.WINDOW_UPDATE, 0)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\x16\x03\x01"])
def test_what_is_no_preface_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="preface"):
        Connection(METHODS, EveryCall(), Limits()).receive(data, 0)


def test_the_first_frame_must_be_settings() -> None:
    connection = Connection(METHODS, EveryCall(), Limits())
    with pytest.raises(ProtocolError, match="expected SETTINGS"):
        connection.receive(frames.PREFACE + frames.frame(frames.HEADERS, 4, 1, block()), 0)


def test_settings_are_acknowledged_and_acknowledgements_are_not() -> None:
    peer = Peer()
    peer.send(frames.SETTINGS, payload=frames.settings({frames.MAX_FRAME_SIZE: 20_000})[9:])
    assert peer.read() == [Frame(frames.SETTINGS, frames.ACK, 0, b"")]
    peer.send(frames.SETTINGS, frames.ACK)
    assert peer.read() == []


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (frames.frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 16_383}), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 2**24}), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({frames.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 1, WORD), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 0, WORD), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.WINDOW_UPDATE, 0, 0, WORD), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.window_update(0, frames.MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.frame(frames.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4, 0, block()), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4, 2, block()), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
        (frames.frame(frames.HEADERS, 4 | frames.PADDED, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4 | frames.PADDED, 1, b"\x0a" + bytes(9)), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 4 | frames.HAS_PRIORITY, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.HEADERS, 4 | frames.HAS_PRIORITY, 1, b"\0\0\0\1\0"), ErrorCode.PROTOCOL_ERROR),
        (b"\x04\x00\x01" + bytes(6), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_a_frame_that_breaks_the_protocol_ends_the_connection(frame: bytes, code: ErrorCode) -> None:
    assert code_of(Peer(), frame) == code


def test_ping_is_answered_with_its_payload() -> None:
    peer = Peer()
    peer.send(frames.PING, payload=b"12345678")
    assert peer.read() == [Frame(frames.PING, frames.ACK, 0, b"12345678")]


def test_frames_of_unknown_kinds_are_ignored() -> None:
    peer = Peer()
    peer.send(77, 0xFF, 5, b"extension")
    peer.call(1)
    assert peer.asked() == [(1, b"row")]


def test_a_header_block_in_pieces_is_one() -> None:
    peer, whole = Peer(), block()
    peer.send(frames.HEADERS, 0, 1, whole[:10])
    peer.send(frames.CONTINUATION, 0, 1, whole[10:20])
    peer.send(frames.CONTINUATION, frames.END_HEADERS, 1, whole[20:])
    peer.data(1, message(b"row"), frames.END_STREAM)
    assert peer.asked() == [(1, b"row")]


@pytest.mark.parametrize(
    "between",
    [
        frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.frame(frames.CONTINUATION, 4, 5, b""),
        frames.frame(frames.HEADERS, 4, 5, block()),
        frames.frame(frames.DATA, 1, 1, message(b"row")),
        frames.frame(99, 0, 0),
    ],
)
def test_nothing_may_stand_between_the_pieces_of_a_header_block(between: bytes) -> None:
    peer = Peer()
    peer.call(1)  # the block is cached now: the fast path must not take it either
    peer.send(frames.HEADERS, 0, 3, block()[:10])
    assert code_of(peer, between) == ErrorCode.PROTOCOL_ERROR


def test_a_header_block_without_an_end_ends_the_connection() -> None:
    peer = Peer(Limits(max_header_bytes=1000))
    peer.send(frames.HEADERS, 0, 1, bytes(1000))
    flood = frames.frame(frames.CONTINUATION, 0, 1, bytes(1000)) * 4
    assert code_of(peer, flood) == ErrorCode.ENHANCE_YOUR_CALM


def test_padding_and_priority_are_taken_off() -> None:
    peer = Peer()
    padded = b"\x03" + b"\0\0\0\0\x10" + block() + bytes(3)
    peer.send(frames.HEADERS, frames.END_HEADERS | frames.PADDED | frames.HAS_PRIORITY, 1, padded)
    peer.data(1, b"\x05" + message(b"row") + bytes(5), frames.END_STREAM | frames.PADDED)
    assert peer.asked() == [(1, b"row")]


def test_padding_beyond_its_frame_ends_the_connection_on_a_closed_stream_too() -> None:
    peer = Peer()
    peer.call(1)
    peer.connection.respond_fast(1, b"answer")
    assert code_of(peer, frames.frame(frames.DATA, frames.PADDED, 1, b"\x05row")) == ErrorCode.PROTOCOL_ERROR


def test_priority_of_an_idle_stream_changes_nothing_and_of_itself_is_an_error() -> None:
    peer = Peer()
    peer.send(frames.PRIORITY, 0, 9, bytes(5))
    assert peer.read() == []
    peer.send(frames.PRIORITY, 0, 1, b"\0\0\0\1\0")
    peer.send(frames.PRIORITY, 0, 3, bytes(4))
    assert resets(peer) == {1: ErrorCode.PROTOCOL_ERROR, 3: ErrorCode.FRAME_SIZE_ERROR}


def test_headers_on_a_stream_that_has_closed_end_the_connection() -> None:
    peer = Peer()
    peer.call(1)
    peer.connection.respond_fast(1, b"answer")
    assert code_of(peer, frames.frame(frames.HEADERS, 5, 1, block())) == ErrorCode.STREAM_CLOSED


def test_headers_on_a_stream_that_was_passed_over_end_the_connection() -> None:
    peer = Peer()
    peer.call(5)
    assert peer.asked() == [(5, b"row")]
    assert code_of(peer, frames.frame(frames.HEADERS, 5, 3, block())) == ErrorCode.PROTOCOL_ERROR


def test_frames_under_way_for_a_call_that_we_ended_are_no_fault() -> None:
    peer = Peer()
    peer.head(1, b"/nothing")
    assert peer.status(1) == 12
    peer.data(1, b"still coming")
    peer.send(frames.HEADERS, 5, 1, b"")
    peer.call(3)
    assert peer.read() == []
    assert peer.asked() == [(3, b"row")]


def test_data_behind_the_end_of_a_stream_resets_it() -> None:
    peer = Peer()
    peer.call(1)
    peer.data(1, b"more")
    assert resets(peer) == {1: ErrorCode.STREAM_CLOSED}
    assert not peer.connection.awaits_response(1)


def test_a_call_that_its_caller_resets_is_told_of_once() -> None:
    peer = Peer()
    peer.head(1, b"/stream")
    peer.events()
    peer.send(frames.RST_STREAM, 0, 1, WORD)
    peer.send(frames.RST_STREAM, 0, 1, WORD)
    assert peer.events() == [(Event.RESET, 1, b"")]
    assert peer.connection.open_calls == 0


def test_a_call_of_the_fast_path_that_its_caller_resets_wants_no_answer() -> None:
    peer = Peer()
    peer.call(1)
    peer.call(3)
    peer.send(frames.RST_STREAM, 0, 3, WORD)
    assert [peer.connection.awaits_response(stream_id) for stream_id in (1, 3)] == [True, False]
    peer.connection.respond_fast(3, b"answer")
    assert peer.read() == []


def test_calls_beyond_the_limit_are_refused_as_never_begun() -> None:
    peer = Peer(Limits(max_streams=2))
    for stream in (1, 3, 5):
        peer.call(stream)
    assert resets(peer) == {5: ErrorCode.REFUSED_STREAM}
    peer.connection.respond_fast(1, b"answer")
    peer.call(7)
    assert sorted(stream for stream, _ in peer.asked()) == [1, 3, 7]


def test_a_drain_warns_first_and_names_the_last_call_once_the_warning_was_read() -> None:
    peer = Peer()
    peer.connection.go_away()
    warning, ping = peer.read()
    assert (warning.kind, frames.word(warning.payload[:4])) == (frames.GOAWAY, frames.MAX_WINDOW)
    peer.call(1)  # it was under way
    peer.send(frames.PING, frames.ACK, 0, ping.payload)
    (end,) = peer.read()
    assert (end.kind, frames.word(end.payload[:4])) == (frames.GOAWAY, 1)
    peer.call(3)
    assert resets(peer) == {3: ErrorCode.REFUSED_STREAM}
    assert peer.asked() == [(1, b"row")]
    peer.connection.respond_fast(1, b"answer")
    assert peer.status(1) == 0


@pytest.mark.parametrize(
    "frame",
    [
        frames.frame(frames.PING, 0, 0, bytes(8)),
        frames.frame(frames.PING, frames.ACK, 0, bytes(8)),
        frames.settings({}),
        frames.frame(frames.SETTINGS, frames.ACK, 0),
        frames.frame(frames.PRIORITY, 0, 1, bytes(5)),
        frames.frame(frames.GOAWAY, 0, 0, bytes(8)),
        frames.frame(frames.DATA, 0, 1, b""),
        frames.frame(200, 0, 0),
    ],
)
def test_a_flood_of_frames_that_bring_no_work_ends_the_connection(frame: bytes) -> None:
    peer = Peer(Limits(max_abuse_score=100))
    peer.head(1, b"/stream")
    assert code_of(peer, frame * 101) == ErrorCode.ENHANCE_YOUR_CALM


def test_calls_that_are_opened_and_reset_without_end_end_the_connection() -> None:
    peer = Peer(Limits(max_abuse_score=100))
    flood = b"".join(
        frames.frame(frames.HEADERS, 4, stream_id, block()) + frames.rst_stream(stream_id, ErrorCode.CANCEL)
        for stream_id in range(1, 205, 2)
    )
    assert code_of(peer, flood) == ErrorCode.ENHANCE_YOUR_CALM


def test_what_is_spread_over_time_is_no_flood() -> None:
    peer = Peer(Limits(max_abuse_score=100))
    for _ in range(5):
        peer.raw(frames.frame(frames.PING, 0, 0, bytes(8)) * 90)
        peer.connection.reset_abuse_score()
    assert len(peer.read()) == 450


def test_clients_that_half_close_with_an_empty_frame_are_no_flood() -> None:
    peer = Peer(Limits(max_abuse_score=20))
    for stream in range(1, 201, 2):
        peer.head(stream)
        peer.data(stream, message(b"row"))
        peer.data(stream, b"", frames.END_STREAM)
        peer.connection.respond_fast(stream, b"answer")
    assert len(peer.asked()) == 100


def test_a_byte_now_and_then_does_not_make_a_half_frame_young() -> None:
    peer = Peer()
    data = frames.frame(frames.HEADERS, 4, 1, block())
    for at in range(20):
        peer.connection.receive(data[at : at + 1], 100 + at)
    assert peer.connection._partial_since_ns == 100
    peer.connection.receive(data[20:], 500)
    assert peer.connection._partial_since_ns is None


def test_a_half_header_block_stays_as_old_as_its_first_frame() -> None:
    peer = Peer()
    peer.connection.receive(frames.frame(frames.HEADERS, 0, 1, block()[:5]), 100)
    peer.connection.receive(frames.frame(frames.CONTINUATION, 0, 1, b""), 200)
    assert peer.connection._partial_since_ns == 100


def test_frames_after_frames_are_as_old_as_the_last_that_began() -> None:
    peer = Peer()
    ping = frames.frame(frames.PING, 0, 0, bytes(8))
    peer.connection.receive(ping + ping[:5], 100)
    peer.connection.receive(ping[5:] + ping[:5], 200)
    assert peer.connection._partial_since_ns == 200
