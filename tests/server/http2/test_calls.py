"""Calls: what is a request, what is refused, how messages are cut, and what the peer's windows do to answers."""

from __future__ import annotations

import gzip
import zlib

import pytest

from common.http2 import frames
from common.http2.frames import ErrorCode
from server.http2.connection import Event, Limits
from server.http2.stream import FRAME_WEIGHT, MAX_SMALL_CHUNKS, Stream
from tests.server.http2.peer import Frame, Peer, block, message

MIB = 1024 * 1024


def data_of(read: list[Frame], stream: int) -> bytes:
    return b"".join(sent.payload for sent in read if sent.kind == frames.DATA and sent.stream == stream)


def opened(peer: Peer, stream: int = 1, path: bytes = b"/stream", *extra: tuple[bytes, bytes]) -> Stream:
    peer.head(stream, path, *extra)
    return peer.connection.streams[stream]


def requested(peer: Peer, stream: int = 1) -> Stream:
    """A unary call that wants its answer, as a stream."""
    peer.call(stream)
    promoted = peer.connection.promote(stream)
    assert promoted is not None
    return promoted


def updates(read: list[Frame]) -> dict[int, int]:
    total: dict[int, int] = {}
    for sent in read:
        if sent.kind == frames.WINDOW_UPDATE:
            total[sent.stream] = total.get(sent.stream, 0) + frames.word(sent.payload)
    return total


def test_a_small_call_whose_headers_are_known_takes_the_fast_path() -> None:
    peer = Peer()
    peer.call(1)
    assert [event[:2] for event in peer.events()] == [(Event.REQUEST, 1)]
    peer.call(3)
    assert peer.calls() == [(3, b"row")]
    assert peer.events() == []


def test_both_ways_give_the_same_answer() -> None:
    peer = Peer()
    peer.call(1)
    peer.connection.respond(peer.connection.streams[1], b"answer")
    slow = peer.read()
    peer.call(3)
    peer.connection.respond_fast(3, b"answer")
    short = peer.read()
    assert [sent[:2] + sent[3:] for sent in slow] == [sent[:2] + sent[3:] for sent in short]
    assert data_of(short, 3) == message(b"answer")
    assert peer.fields(short[0]) == {b":status": b"200", b"content-type": b"application/grpc"}
    assert peer.fields(short[2]) == {b"grpc-status": b"0"}
    assert peer.connection.open_calls == 0


def test_a_call_of_the_fast_path_whose_body_comes_in_pieces_becomes_a_stream() -> None:
    peer = Peer()
    peer.call(1)
    peer.events()
    peer.head(3)
    whole = message(b"a longer row")
    peer.data(3, whole[:3])
    peer.data(3, whole[3:9])
    peer.data(3, whole[9:], frames.END_STREAM)
    assert peer.events() == [(Event.REQUEST, 3, b"a longer row")]


def test_a_message_of_several_frames_takes_the_fast_path_and_weighs_what_it_holds() -> None:
    peer = Peer()
    peer.call(1)
    peer.events()
    peer.head(3)
    whole = message(bytes(40_000))
    peer.data(3, whole[:16_384])
    peer.data(3, whole[16_384:32_768])
    assert peer.connection._buffered == 32_768 + 2 * FRAME_WEIGHT
    assert peer.calls() == []
    peer.data(3, whole[32_768:], frames.END_STREAM)
    assert peer.calls() == [(3, bytes(40_000))]
    assert peer.connection._buffered == 0
    assert peer.events() == []


def test_the_end_of_a_call_in_an_empty_frame_is_on_the_fast_path() -> None:
    """As tonic sends it."""
    peer = Peer()
    peer.call(1)
    peer.events()
    peer.head(3)
    peer.data(3, message(bytes(100)))
    assert peer.calls() == []
    peer.data(3, b"", frames.END_STREAM)
    assert peer.calls() == [(3, bytes(100))]
    assert peer.connection._buffered == 0
    assert peer.connection._partial_bodies == {}


def test_a_message_of_several_frames_that_is_longer_than_announced_fails() -> None:
    peer = Peer()
    peer.call(1)
    peer.events()
    peer.head(3)
    peer.data(3, message(bytes(100))[:60])
    peer.data(3, bytes(45))
    peer.data(3, b"more than was announced", frames.END_STREAM)
    assert peer.status(3) == 3


def test_a_message_of_several_frames_that_is_shorter_than_announced_fails() -> None:
    peer = Peer()
    peer.call(1)
    peer.events()
    peer.head(3)
    peer.data(3, message(bytes(100))[:60])
    peer.data(3, b"", frames.END_STREAM)
    assert peer.status(3) == 3


def test_a_call_given_up_with_a_part_of_its_message_here_leaves_no_weight() -> None:
    peer = Peer()
    peer.call(1)
    peer.events()
    peer.head(3)
    peer.data(3, message(bytes(40_000))[:16_384])
    peer.send(frames.RST_STREAM, 0, 3, bytes(4))
    assert peer.connection._buffered == 0
    assert peer.connection._partial_bodies == {}


def test_a_message_beyond_the_limit_is_refused_on_the_fast_path_too() -> None:
    peer = Peer(Limits(max_message=100))
    peer.call(1, bytes(100))
    assert peer.asked() == [(1, bytes(100))]
    peer.call(3, bytes(101))
    assert peer.asked() == []
    assert peer.status(3) == 8


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", 3), (b"\0\0", 3), (message(b"x")[:-1], 3), (message(b"x") * 2, 3), (message(b"x") + b"\0", 3)],
)
def test_a_unary_call_that_is_not_one_message_is_the_callers_fault(body: bytes, code: int) -> None:
    peer = Peer()
    peer.head(1)
    peer.data(1, body, frames.END_STREAM)
    assert peer.status(1) == code
    assert peer.asked() == []


def test_an_unknown_method_a_refused_caller_and_too_many_headers_are_told_so_at_once() -> None:
    peer = Peer(Limits(max_header_bytes=500))
    peer.head(1, b"/nothing")
    peer.head(3, b"/score", (b"authorization", b"bad"))
    peer.head(5, b"/score", (b"x-large", b"x" * 600))
    read = peer.read()
    assert [peer.status(stream_id, read) for stream_id in (1, 3, 5)] == [12, 16, 8]
    assert peer.connection.open_calls == 0


def test_a_caller_who_is_refused_does_not_learn_which_methods_there_are() -> None:
    peer = Peer()
    peer.head(1, b"/nothing", (b"authorization", b"bad"))
    assert peer.status(1, peer.read()) == 16


@pytest.mark.parametrize(
    "extra",
    [
        (b":path", b"/score"), (b":status", b"200"), (b"connection", b"close"), (b"te", b"gzip"),
        (b"X-Upper", b"x"), (b"content-length", b"-1"), (b"content-length", b"1e3"),
    ],
)  # fmt: skip
def test_headers_that_http2_does_not_allow_reset_the_stream_alone(extra: tuple[bytes, bytes]) -> None:
    peer = Peer()
    peer.head(1, b"/score", extra)
    (reset,) = peer.read()
    assert (reset.kind, frames.word(reset.payload)) == (frames.RST_STREAM, ErrorCode.PROTOCOL_ERROR)
    peer.call(3)
    assert peer.asked() == [(3, b"row")]


def test_what_is_no_grpc_is_answered_once_its_body_has_come_and_nothing_of_it_is_kept() -> None:
    peer = Peer()
    peer.send(frames.HEADERS, 4, 1, block(b"/score", method=b"GET"))
    for _ in range(64):
        peer.data(1, bytes(16_384))
    assert peer.connection.streams[1].size == 0
    assert updates(peer.read())[1] >= MIB - 256 * 1024
    peer.data(1, b"", frames.END_STREAM)
    head, body = peer.read()
    assert peer.fields(head)[b":status"] == b"415"
    assert body.flags & frames.END_STREAM
    assert b"gRPC" in body.payload


@pytest.mark.parametrize(("announced", "is_right"), [(b"8", True), (b"7", False), (b"9", False)])
@pytest.mark.parametrize("path", [b"/score", b"/stream"])
def test_a_body_of_another_length_than_announced_is_malformed(path: bytes, announced: bytes, is_right: bool) -> None:
    peer = Peer()
    peer.head(1, path, (b"content-length", announced))
    peer.data(1, message(b"row")[:5])
    peer.data(1, b"row", frames.END_STREAM)
    resets = [frames.word(sent.payload) for sent in peer.read() if sent.kind == frames.RST_STREAM]
    assert resets == ([] if is_right else [ErrorCode.PROTOCOL_ERROR])


@pytest.mark.parametrize(("announced", "is_right"), [(b"8", True), (b"9", False)])
def test_a_remembered_head_takes_the_fast_path_and_holds_its_body_to_the_length(
    announced: bytes, is_right: bool
) -> None:
    peer = Peer()
    for stream in (1, 3):
        peer.head(stream, b"/score", (b"content-length", announced))
        peer.data(stream, message(b"row"), frames.END_STREAM)
    resets = [sent.stream for sent in peer.read() if sent.kind == frames.RST_STREAM]
    assert resets == ([] if is_right else [1, 3])
    assert 3 in [stream for stream, _, _ in peer.connection.calls] or not is_right


@pytest.mark.parametrize(("announced", "is_right"), [(b"8", True), (b"7", False), (b"9", False)])
def test_bytes_from_the_fast_path_count_towards_the_announced_length(announced: bytes, is_right: bool) -> None:
    """The first frame begins a partial message; padding moves the call to the slow path."""
    peer = Peer()
    for stream in (1, 3):  # the head of the second call is remembered
        peer.head(stream, b"/score", (b"content-length", announced))
        peer.data(stream, message(b"row")[:6])
        peer.data(stream, b"\x02ow" + bytes(2), frames.END_STREAM | frames.PADDED)
    resets = [sent.stream for sent in peer.read() if sent.kind == frames.RST_STREAM]
    assert resets == ([] if is_right else [1, 3])
    assert peer.asked() == ([(1, b"row"), (3, b"row")] if is_right else [])


def test_trailers_end_a_request() -> None:
    peer = Peer()
    peer.head(1)
    peer.data(1, message(b"row"))
    peer.send(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, b"\x00\x01x\x01y")
    assert peer.asked() == [(1, b"row")]


@pytest.mark.parametrize(("flags", "trailers"), [(4, b"\x00\x01x\x01y"), (5, b"\x82")])
def test_trailers_that_do_not_end_or_name_a_method_are_malformed(flags: int, trailers: bytes) -> None:
    peer = Peer()
    peer.head(1)
    peer.send(frames.HEADERS, flags, 1, trailers)
    assert [sent.kind for sent in peer.read()] == [frames.RST_STREAM]
    assert peer.connection.open_calls == 0


@pytest.mark.parametrize(("name", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_compressed_messages_are_read(name: bytes, pack: object) -> None:
    peer = Peer()
    peer.head(1, b"/score", (b"grpc-encoding", name))
    peer.data(1, message(pack(b"row" * 1000), 1), frames.END_STREAM)  # type: ignore[operator]
    assert peer.asked() == [(1, b"row" * 1000)]


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        (b"gzip", b"no gzip", 3),
        (b"gzip", gzip.compress(b"row", mtime=0)[:-9], 3),
        (b"deflate", gzip.compress(b"row", mtime=0), 3),
        (b"gzip", gzip.compress(bytes(MIB), mtime=0), 8),
        (b"br", b"row", 12),
        (b"identity", b"row", 13),
        (b"", b"row", 13),
    ],
)
def test_a_message_that_cannot_be_decompressed_fails_as_what_it_is(encoding: bytes, body: bytes, code: int) -> None:
    peer = Peer(Limits(max_message=64 * 1024))
    peer.head(1, b"/score", *([(b"grpc-encoding", encoding)] if encoding else []))
    peer.data(1, message(body, 1), frames.END_STREAM)
    assert peer.status(1) == code
    assert peer.asked() == []


def test_many_bombs_of_one_stream_are_not_inflated_at_once() -> None:
    peer = Peer(Limits(max_message=MIB))
    stream = opened(peer, 1, b"/stream", (b"grpc-encoding", b"gzip"))
    bomb = message(gzip.compress(bytes(MIB)), 1)
    peer.data(1, bomb * 20)
    assert len(peer.connection.take_messages(stream, 256)) <= 2


def test_messages_before_one_that_cannot_be_taken_are_taken_first() -> None:
    peer = Peer()
    stream = opened(peer)
    peer.data(1, message(b"one") + message(b"two") + message(b"bad", 1))
    assert peer.connection.take_messages(stream, 9) == [b"one", b"two"]
    assert peer.connection.take_messages(stream, 9) == []
    assert stream.closed


def test_messages_of_a_stream_come_whole_however_they_are_cut() -> None:
    peer = Peer()
    stream = opened(peer)
    whole = message(b"one") + message(b"") + message(b"three")
    got = []
    for at in range(len(whole)):
        peer.data(1, whole[at : at + 1])
        got += peer.connection.take_messages(stream, 9)
    assert got == [b"one", b"", b"three"]
    assert stream.size == 0


def test_messages_put_back_are_taken_again_in_order() -> None:
    peer = Peer()
    stream = opened(peer)
    peer.data(1, b"".join(map(message, (b"1", b"2", b"3"))))
    first, *rest = peer.connection.take_messages(stream, 3)
    peer.data(1, message(b"4"))
    peer.connection.put_back(stream, rest)
    assert [first, *peer.connection.take_messages(stream, 9)] == [b"1", b"2", b"3", b"4"]


def test_nobody_is_told_twice_of_what_has_not_been_taken() -> None:
    peer = Peer()
    stream = opened(peer)
    peer.events()
    peer.data(1, message(b"1"))
    peer.data(1, message(b"2"))
    assert peer.events() == [(Event.DATA, 1, b"")]
    peer.connection.take_messages(stream, 9)
    peer.data(1, message(b"3"))
    assert peer.events() == [(Event.DATA, 1, b"")]


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


def test_the_weight_of_a_message_beyond_the_limit_goes_with_its_call() -> None:
    peer = Peer(Limits(max_message=100))
    peer.head(1)
    for part in (b"\0\0", b"\0\xff", b"\xff"):
        peer.data(1, part)
    assert peer.status(1) == 8
    assert peer.connection._buffered == 0


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
