"""How calls and connections end: a status behind its answers, callers that hold their side open, the last call."""

from __future__ import annotations

import pytest

from server.http2 import frames
from server.http2.frames import ErrorCode
from tests.server.http2.peer import Peer, data_of, message, opened


def test_a_status_waits_behind_its_answers_and_a_failure_does_not() -> None:
    for code, sent in ((0, 40), (14, 10)):
        peer = Peer(settings={frames.INITIAL_WINDOW_SIZE: 10})
        stream = opened(peer)
        peer.connection.send(stream, message(bytes(35)))
        peer.connection.finish(stream, code)
        peer.raw(frames.window_update(1, 100))
        read = peer.read()
        assert len(data_of(read, 1)) == sent
        assert peer.status(1, read) == code


def test_a_caller_that_reads_the_status_and_holds_its_side_open_is_reset_a_second_later() -> None:
    """Not with the status: HAProxy discards trailers that it reads together with RST_STREAM."""
    peer = Peer()
    peer.connection.finish(opened(peer), 3, "no: 100 % \n wrong")
    (head,) = peer.read()
    assert peer.fields(head)[b"grpc-message"] == b"no: 100 %25 %0A wrong"
    peer.connection.reset_held_open()
    assert peer.read() == []
    peer.connection.reset_held_open()
    (reset,) = peer.read()
    assert (reset.kind, reset.stream, frames.word(reset.payload)) == (frames.RST_STREAM, 1, ErrorCode.NO_ERROR)
    peer.connection.reset_held_open()
    assert peer.read() == []


@pytest.mark.parametrize(
    "end",
    [
        frames.rst_stream(1, ErrorCode.CANCEL),
        frames.frame(frames.DATA, frames.END_STREAM, 1, b""),
        frames.frame(frames.HEADERS, frames.END_STREAM | frames.END_HEADERS, 1, b""),
    ],
)
def test_a_caller_that_closes_its_side_after_the_status_is_not_reset(end: bytes) -> None:
    peer = Peer()
    peer.connection.finish(opened(peer), 3)
    peer.raw(end)
    peer.read()
    for _ in range(3):
        peer.connection.reset_held_open()
    assert peer.read() == []


def test_callers_that_hold_many_ended_calls_open_are_reset_before_a_second_has_passed() -> None:
    peer = Peer()
    for index in range(1025):
        peer.head(2 * index + 1, b"/stream")
        peer.connection.finish(peer.connection.streams[2 * index + 1], 3)
    assert [sent.stream for sent in peer.read() if sent.kind == frames.RST_STREAM] == [1]


def test_a_connection_is_done_once_its_peer_has_closed_every_call() -> None:
    """gRPC's C core loses a status that it reads together with the end of the connection."""
    peer = Peer()
    stream = opened(peer)
    peer.connection.go_away()
    peer.send(frames.PING, frames.ACK, 0, b"draining")
    assert not peer.connection.is_done
    peer.connection.finish(stream, 14)
    assert not peer.connection.is_done
    peer.raw(frames.rst_stream(1, ErrorCode.NO_ERROR))
    assert peer.connection.is_done


def test_a_connection_is_done_once_a_peer_that_holds_its_call_open_was_reset() -> None:
    peer = Peer()
    stream = opened(peer)
    peer.connection.go_away()
    peer.send(frames.PING, frames.ACK, 0, b"draining")
    peer.connection.finish(stream, 14)
    peer.connection.reset_held_open()
    assert not peer.connection.is_done
    peer.connection.reset_held_open()
    assert peer.connection.is_done
