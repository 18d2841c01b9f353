"""Windows: of requests that nobody reads, and of answers that the peer does not take."""

from __future__ import annotations

import pytest

from server.http2 import frames
from server.http2.connection import Event, Limits
from server.http2.frames import ErrorCode
from server.http2.stream import FRAME_WEIGHT, MAX_SMALL_CHUNKS
from tests.server.http2.peer import MIB, Peer, data_of, message, opened, requested, updates


def test_a_stream_that_nobody_reads_shuts_its_window() -> None:
    peer = Peer(Limits(stream_window=100_000))
    stream = opened(peer)
    for _ in range(10):
        peer.data(1, bytes(10_000))
    assert 1 not in updates(peer.read())
    peer.data(1, b"x")
    assert [sent.kind for sent in peer.read()] == [frames.RST_STREAM]
    assert stream.closed


def test_taking_messages_opens_the_window_again() -> None:
    peer = Peer(Limits(stream_window=100_000))
    stream = opened(peer)
    for _ in range(9):
        peer.data(1, message(bytes(9_995)))
    assert len(peer.connection.take_messages(stream, 99)) == 9
    assert updates(peer.read())[1] == 90_000


def test_a_message_larger_than_its_window_gets_the_room_it_needs_and_no_more() -> None:
    peer = Peer(Limits(stream_window=256 * 1024))
    whole = message(bytes(16 * MIB))
    window, at = 256 * 1024, 0
    peer.head(1)
    while at < len(whole):
        size = min(16_384, window, len(whole) - at)
        assert size, "the window is shut before the message is whole"
        at += size
        window -= size
        peer.data(1, whole[at - size : at], frames.END_STREAM if at == len(whole) else 0)
        window += updates(peer.read()).get(1, 0)
        assert window + at <= len(whole) + 256 * 1024
    ((kind, stream, body),) = peer.events()
    assert (kind, stream, len(body)) == (Event.REQUEST, 1, 16 * MIB)


def test_the_connections_window_is_given_back_in_full() -> None:
    peer = Peer()
    given = sent = 0
    for stream in range(1, 201, 2):
        peer.call(stream, bytes(100_000))
        peer.connection.respond_fast(stream, b"")
        sent += 100_005
        given += updates(peer.read()).get(0, 0)
    assert 0 <= sent - given < 4 * MIB


def test_partial_messages_of_all_calls_are_bounded() -> None:
    peer = Peer(Limits(max_buffered=MIB, max_message=4 * MIB))
    for stream in range(1, 41, 2):
        peer.head(stream)
        for _ in range(4):
            peer.data(stream, message(bytes(MIB))[:20_000])
    unread = sum(open_stream.size for open_stream in peer.connection.streams.values())
    assert unread <= MIB + 20_000
    assert peer.status(39) == 8


def test_many_small_frames_count_as_what_they_cost() -> None:
    peer = Peer(Limits(max_buffered=MAX_SMALL_CHUNKS * FRAME_WEIGHT - 1))
    stream = opened(peer)
    for _ in range(MAX_SMALL_CHUNKS):  # more are joined
        peer.data(1, b"\0")
    assert stream.closed
    assert peer.status(1) == 8


def test_the_weight_of_a_call_goes_with_it() -> None:
    peer = Peer()
    for stream, path in ((1, b"/score"), (3, b"/stream"), (5, b"/stream"), (7, b"/score")):
        peer.head(stream, path)
        peer.data(stream, b"\0\0")
    peer.connection.take_messages(peer.connection.streams[5], 9)
    peer.data(7, b"", frames.END_STREAM)
    for stream in (1, 3, 5):
        peer.send(frames.RST_STREAM, 0, stream, bytes(4))
    assert peer.connection._buffered == 0
    assert peer.connection.open_calls == 0


def test_an_answer_goes_out_as_far_as_the_callers_window() -> None:
    peer = Peer(settings={frames.INITIAL_WINDOW_SIZE: 10})
    answer = bytes(range(40))
    peer.connection.respond(requested(peer), answer)
    read = peer.read()
    assert len(data_of(read, 1)) == 10
    while not read[-1].flags & frames.END_STREAM:
        peer.raw(frames.window_update(1, 7))
        read += peer.read()
    assert data_of(read, 1) == message(answer)
    assert peer.status(1, read) == 0
    assert peer.connection.open_calls == 0


def test_the_callers_frame_size_and_sixty_four_kibibytes_bound_a_frame() -> None:
    for asked, largest in ((16_384, 16_384), (30_000, 30_000), (2**24 - 1, 65_536)):
        peer = Peer(settings={frames.MAX_FRAME_SIZE: asked, frames.INITIAL_WINDOW_SIZE: MIB})
        peer.raw(frames.window_update(0, MIB))
        peer.connection.respond(requested(peer), bytes(200_000))
        assert max(len(sent.payload) for sent in peer.read()) == largest


def test_answers_wait_for_the_connections_window_and_share_it() -> None:
    peer = Peer(settings={frames.INITIAL_WINDOW_SIZE: MIB})
    for stream in (1, 3, 5):
        peer.connection.respond(requested(peer, stream), bytes(40_000))
    read = peer.read()
    assert sum(len(sent.payload) for sent in read if sent.kind == frames.DATA) == frames.DEFAULT_WINDOW
    peer.raw(frames.window_update(0, MIB))
    read += peer.read()
    assert [len(data_of(read, stream)) for stream in (1, 3, 5)] == [40_005] * 3


def test_a_stream_that_waits_for_its_own_window_does_not_hold_up_another() -> None:
    peer = Peer(settings={frames.INITIAL_WINDOW_SIZE: 50_000})
    for stream in (1, 3):
        peer.connection.respond(requested(peer, stream), bytes(60_000))
    peer.read()
    peer.raw(frames.window_update(3, MIB))
    peer.raw(frames.window_update(0, MIB))
    read = peer.read()
    assert peer.status(3, read) == 0
    assert 1 in peer.connection.streams


def test_new_initial_windows_move_those_of_open_calls_below_zero_and_back() -> None:
    peer = Peer(settings={frames.INITIAL_WINDOW_SIZE: 100})
    peer.connection.respond(requested(peer), bytes(295))
    assert len(data_of(peer.read(), 1)) == 100
    peer.raw(frames.settings({frames.INITIAL_WINDOW_SIZE: 50}))
    peer.raw(frames.window_update(1, 50))
    assert data_of(peer.read(), 1) == b""
    peer.raw(frames.settings({frames.INITIAL_WINDOW_SIZE: 1000}))
    assert len(data_of(peer.read(), 1)) == 200


def test_new_initial_windows_reach_calls_of_the_fast_path() -> None:
    peer = Peer()
    peer.call(1)
    peer.call(3)
    peer.raw(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    peer.connection.respond_fast(3, b"answer")
    assert data_of(peer.read(), 3) == b""
    peer.raw(frames.settings({frames.INITIAL_WINDOW_SIZE: 100}))
    assert data_of(peer.read(), 3) == message(b"answer")


@pytest.mark.parametrize(("grows", "code"), [(0, ErrorCode.PROTOCOL_ERROR), (2**31 - 1, ErrorCode.FLOW_CONTROL_ERROR)])
def test_a_window_that_grows_by_nothing_or_too_far_resets_its_call_alone(grows: int, code: ErrorCode) -> None:
    peer = Peer()
    peer.call(1)
    peer.call(3)
    peer.raw(frames.window_update(3, grows))
    (reset,) = peer.read()
    assert (reset.stream, frames.word(reset.payload)) == (3, code)
    peer.connection.respond_fast(1, b"answer")
    assert peer.status(1) == 0


def test_unread_answers_are_bounded() -> None:
    peer = Peer(Limits(max_unsent=100_000), settings={frames.INITIAL_WINDOW_SIZE: 0})
    for stream in range(1, 41, 2):
        peer.connection.respond(requested(peer, stream), bytes(10_000))
    assert sum(open_stream.unsent for open_stream in peer.connection.streams.values()) <= 100_000
    assert peer.status(39) == 8
    for stream in list(peer.connection.streams):
        peer.send(frames.RST_STREAM, 0, stream, bytes(4))
    assert peer.connection._unsent == 0


def test_a_stream_is_told_when_all_it_sent_has_gone() -> None:
    peer = Peer(settings={frames.INITIAL_WINDOW_SIZE: 10})
    stream = opened(peer)
    peer.connection.send(stream, message(b"answer") + message(b"another"))
    peer.events()
    peer.raw(frames.window_update(1, 5))
    assert peer.events() == []
    peer.raw(frames.window_update(1, 50))
    assert peer.events() == [(Event.DRAINED, 1, b"")]


def test_the_weight_of_a_message_beyond_the_limit_goes_with_its_call() -> None:
    peer = Peer(Limits(max_message=100))
    peer.head(1)
    for part in (b"\0\0", b"\0\xff", b"\xff"):
        peer.data(1, part)
    assert peer.status(1) == 8
    assert peer.connection._buffered == 0
