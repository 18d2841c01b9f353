"""Calls: what is a request, what is refused, and how messages are cut."""

from __future__ import annotations

import gzip
import zlib

import pytest

from server.http2 import frames
from server.http2.connection import Event, Limits
from server.http2.frames import ErrorCode
from server.http2.stream import FRAME_WEIGHT
from tests.server.http2.peer import MIB, Peer, block, data_of, message, opened, updates


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
