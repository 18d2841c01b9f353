"""However TCP cuts what a client sends, the same comes of it."""

from __future__ import annotations

import gzip
import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.http2 import frames
from server.http2.connection import Connection, Event, Limits
from server.http2.frames import ProtocolError
from tests.server.http2.peer import METHODS, EveryCall, block, message

Frames = list[tuple[Any, ...]]

bodies = st.sampled_from([b"row", b"", bytes(300), b"another row"])
flag_sets = st.sampled_from([0, 1, 4, 5, 8, 9, 12, 13, 0x25, 0xFF])
ids = st.integers(0, 12)
payloads = st.one_of(
    st.builds(message, bodies, st.integers(0, 2)),
    st.builds(lambda body: message(gzip.compress(body, mtime=0), 1), bodies),
    st.builds(block, st.sampled_from([*METHODS, b"/nothing"]), st.just((b"grpc-encoding", b"gzip"))),
    st.just(block()),
    st.binary(max_size=12),
)
any_frame = st.builds(frames.frame, st.integers(0, 10), flag_sets, ids, payloads)
calls = st.lists(st.tuples(st.sampled_from(list(METHODS)), bodies), max_size=6)


def conversation(asked: list[tuple[bytes, bytes]]) -> list[bytes]:
    sent = [frames.PREFACE + frames.settings({})]
    for number, (path, body) in enumerate(asked):
        stream = 2 * number + 1
        sent.append(frames.frame(frames.HEADERS, 4, stream, block(path)))
        sent.append(frames.frame(frames.DATA, frames.END_STREAM, stream, message(body)))
    return sent


def outcome(chunks: list[bytes], limits: Limits | None = None) -> Any:
    """What an application saw of a connection that answers each call at once, and what the peer got."""
    connection, sent, fault = Connection(METHODS, EveryCall(), limits or Limits(max_message=200)), b"", None
    got: dict[int, list[bytes]] = {}
    for chunk in chunks:
        try:
            connection.receive(chunk, 0)
        except ProtocolError as error:
            fault = (error.code, error.reason)
            break
        finally:
            for block in connection.blocks:
                for stream_id, body in zip(block.ids, block.messages, strict=True):
                    got.setdefault(stream_id, []).append(body.tobytes())
            for stream_id, _, body in connection.calls:
                got.setdefault(stream_id, []).append(body)
            for kind, stream, body in connection.events:
                if kind == Event.REQUEST:
                    got.setdefault(stream.id, []).append(body)
            connection.calls, connection.blocks, connection.events = [], [], []
            sent += connection.output()
    for stream in list(connection.streams.values()):
        if not stream.unary:
            got.setdefault(stream.id, []).extend(connection.take_messages(stream, 100))
    sent += connection.output()
    return got, sent, fault, connection.open_calls, connection._buffered


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in itertools.pairwise(marks)]


@given(calls, st.lists(st.integers(0, 10_000), max_size=30))
def test_calls_cut_anywhere_are_the_same_calls(asked: list[tuple[bytes, bytes]], places: list[int]) -> None:
    data = b"".join(conversation(asked))
    assert outcome(cut(data, places)) == outcome([data])


@given(calls, st.lists(any_frame, max_size=8), st.integers(0, 20), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_frames_cut_anywhere_do_the_same(
    asked: list[tuple[bytes, bytes]], strange: list[bytes], at: int, places: list[int]
) -> None:
    sent = conversation(asked)
    at = 1 + at % len(sent)
    data = b"".join([*sent[:at], *strange, *sent[at:]])
    assert outcome(cut(data, places)) == outcome([data])


@given(calls)
def test_byte_by_byte_is_the_same_too(asked: list[tuple[bytes, bytes]]) -> None:
    data = b"".join(conversation(asked))
    assert outcome([data[at : at + 1] for at in range(len(data))]) == outcome([data])


large = st.lists(st.tuples(st.sampled_from([b"/score", b"/stream"]), st.integers(0, 9_000)), min_size=1, max_size=5)


def in_frames(stream: int, body: bytes, size: int) -> list[bytes]:
    whole = message(body)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    flags = [0] * (len(pieces) - 1) + [frames.END_STREAM]
    return [frames.frame(frames.DATA, flag, stream, piece) for flag, piece in zip(flags, pieces, strict=True)]


@given(large, st.integers(6, 5_000), st.lists(st.integers(0, 60_000), max_size=12))
def test_messages_in_frames_of_any_size_come_whole(
    asked: list[tuple[bytes, int]], size: int, places: list[int]
) -> None:
    sent, expected = [frames.PREFACE + frames.settings({})], {}
    for number, (path, length) in enumerate(asked):
        stream, body = 2 * number + 1, bytes((number + one) % 251 for one in range(length))
        sent.append(frames.frame(frames.HEADERS, 4, stream, block(path)))
        sent += in_frames(stream, body, size)
        expected[stream] = [body]
    data = b"".join(sent)
    limits = Limits(max_message=10_000)
    whole, pieces = outcome([data], limits), outcome(cut(data, places), limits)
    assert whole == pieces
    assert whole[0] == expected
    assert whole[2] is None


@given(
    st.lists(st.tuples(st.integers(14, 40), st.binary(min_size=8, max_size=8)), min_size=1, max_size=4),
    st.lists(any_frame, max_size=3),
    st.integers(0, 200),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_many_calls_alike_are_the_calls_that_they_are_one_by_one(
    runs: list[tuple[int, bytes]], strange: list[bytes], at: int, places: list[int]
) -> None:
    """Blocks, whatever stands between the calls, against byte by byte, which makes none."""
    asked = [(b"/score", bytes([number]) + body) for count, body in runs for number in range(count)]
    sent = conversation(asked)
    at = 1 + at % len(sent)
    data = b"".join([*sent[:at], *strange, *sent[at:]])
    alone = outcome([data[at : at + 1] for at in range(len(data))])
    assert outcome([data]) == alone
    assert outcome(cut(data, places)) == alone


def test_calls_alike_come_as_a_block() -> None:
    connection = Connection(METHODS, EveryCall(), Limits())
    connection.receive(b"".join(conversation([(b"/score", b"row")])), 0)  # whose headers are cached
    connection.receive(b"".join(conversation([(b"/score", bytes([one])) for one in range(41)])[2 + 1 :]), 0)
    (block,) = connection.blocks
    assert block.ids == range(3, 83, 2)
    assert [one.tobytes() for one in block.messages] == [bytes([one]) for one in range(1, 41)]
    assert connection.calls == []
