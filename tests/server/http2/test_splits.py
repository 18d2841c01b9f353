"""However TCP cuts what a client sends, the same comes of it."""

from __future__ import annotations

import gzip
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.http2 import frames
from common.http2.frames import ProtocolError
from server.http2.connection import Connection, Event, Limits
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
        stream, body = 2 * number + 1, bytes((number + offset) % 251 for offset in range(length))
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
    connection.receive(b"".join(conversation([(b"/score", bytes([number])) for number in range(41)])[2 + 1 :]), 0)
    (block,) = connection.blocks
    assert block.ids == range(3, 83, 2)
    assert [message.tobytes() for message in block.messages] == [bytes([number]) for number in range(1, 41)]
    assert connection.calls == []


def windows(connection: Connection) -> tuple[int, dict[int, int]]:
    """The peer's windows: of the connection, and of each call that awaits its response."""
    ids = sorted({*connection._headers_received, *connection._awaiting_response, *connection.streams})
    streams = {stream_id: connection.promote(stream_id) for stream_id in ids}
    return connection._send_window, {key: stream.send_window for key, stream in streams.items() if stream}


class Layout(NamedTuple):
    """WINDOW_UPDATE frames within one call: increments of the stream and of the connection, before and behind DATA."""

    before: list[tuple[bool, int]]
    behind: list[tuple[bool, int]]

    def call(self, stream: int, body: bytes, extra: int = 0) -> bytes:
        before, behind = (
            b"".join(frames.window_update(stream if own else 0, increment + extra) for own, increment in updates)
            for updates in self
        )
        data = frames.frame(frames.DATA, frames.END_STREAM, stream, message(body))
        return frames.frame(frames.HEADERS, 4, stream, block()) + before + data + behind


credits = st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1, 5, 70_000, 2**31 - 1])), max_size=3)
layouts = st.builds(Layout, credits, credits)
GRPC = Layout([(True, 5)], [(False, 5)])  # gRPC C++, Python and Ruby write each call so


def received(chunks: list[bytes]) -> Any:
    connection, calls, fault = Connection(METHODS, EveryCall(), Limits(max_message=200)), [], None
    for chunk in chunks:
        try:
            connection.receive(chunk, 0)
        except ProtocolError as error:
            fault = error.code
            break
    for run in connection.blocks:
        calls += [(key, body.tobytes()) for key, body in zip(run.ids, run.messages, strict=True)]
    calls += [(key, body) for key, _, body in connection.calls]
    calls += [(stream.id, body) for kind, stream, body in connection.events if kind == Event.REQUEST]
    return sorted(calls), fault, windows(connection), connection._unacked_bytes, connection.output()


@given(
    st.lists(st.tuples(layouts | st.just(GRPC), st.integers(1, 30)), min_size=1, max_size=3),
    st.lists(any_frame, max_size=2),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_calls_with_window_updates_are_the_calls_that_they_are_byte_by_byte(
    runs: list[tuple[Layout, int]], strange: list[bytes], places: list[int]
) -> None:
    sent, stream = [b"".join(conversation([(b"/score", b"row")]))], 3
    for layout, count in runs:
        for number in range(count):
            # One increment is larger than the others, as gRPC's clients give back what they held.
            sent.append(layout.call(stream, bytes([number]), extra=number % 13 == 4))
            stream += 2
        sent += strange
    data = b"".join(sent)
    expected = received([data[at : at + 1] for at in range(len(data))])
    assert received([data]) == expected
    assert received(cut(data, places)) == expected


@pytest.mark.parametrize(
    "layout",
    [GRPC, Layout([], [(False, 5)]), Layout([(True, 9), (False, 1)], []), Layout([], [(True, 7), (False, 2)])],
)
def test_calls_with_window_updates_come_as_a_block_and_their_credit_counts(layout: Layout) -> None:
    connection = Connection(METHODS, EveryCall(), Limits())
    connection.receive(b"".join(conversation([(b"/score", b"row")])), 0)
    before = connection._send_window
    # As recorded from gRPC's C++ and Python clients: the first WINDOW_UPDATE of a read is larger.
    sent = [layout.call(3 + 2 * number, bytes([number]), extra=0 if number else 1000) for number in range(30)]
    connection.receive(b"".join(sent), 0)
    (run,) = connection.blocks
    assert run.ids == range(3, 63, 2)
    assert connection.calls == []
    ours = [increment for own, increment in layout.before + layout.behind if not own]
    assert connection._send_window == before + 30 * sum(ours) + 1000 * len(ours)
    theirs = [increment for own, increment in layout.before + layout.behind if own]
    stream = connection.promote(5)
    assert stream is not None
    assert stream.send_window == frames.DEFAULT_WINDOW + sum(theirs)


def test_a_ping_between_calls_splits_their_block_in_two() -> None:
    connection = Connection(METHODS, EveryCall(), Limits())
    connection.receive(b"".join(conversation([(b"/score", b"row")])), 0)
    sent = [GRPC.call(3 + 2 * number, bytes([number])) for number in range(60)]
    sent.insert(30, frames.frame(frames.PING, 0, 0, bytes(8)))
    connection.receive(b"".join(sent), 0)
    assert [len(run.messages) for run in connection.blocks] == [30, 30]


def test_answers_of_a_block_leave_no_credit_behind() -> None:
    connection = Connection(METHODS, EveryCall(), Limits())
    connection.receive(b"".join(conversation([(b"/score", b"row")])), 0)
    connection.receive(b"".join(GRPC.call(3 + 2 * number, bytes([number])) for number in range(30)), 0)
    values = np.zeros((10, 1), np.uint8)
    assert connection.respond_columnar(range(3, 23, 2), b"answer", 0, values)
    for stream in range(23, 43, 2):
        connection.respond_fast(stream, b"answer")
    connection.fail_columnar(range(43, 53, 2), b"\x88")
    connection.fail_calls(list(range(53, 63, 2)), b"\x88")
    assert connection._extra_credit == {}
