"""Compressed messages: every form of gzip and deflate, in slices of any budget, and within their limits."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.http2 import frames
from server.http2.connection import Connection, Event, Limits
from server.http2.inflating import (
    MAX_RATIO,
    MIN_RATIO_BYTES,
    TURN_BYTES,
    InflateBudget,
    Inflation,
)
from server.http2.status import MessageError
from tests.server.http2.peer import METHODS, EveryCall, Peer, block, message

MIB = 1024 * 1024
GZIP, DEFLATE = 31, 15


def inflated(compressed: bytes, bits: int = GZIP, max_message: int = 16 * MIB, per_turn: int = TURN_BYTES) -> bytes:
    inflation, budget = Inflation(memoryview(compressed), bits, max_message), InflateBudget(per_turn)
    while not inflation.run(budget):
        budget.refill()
    return inflation.result()


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=5), st.integers(1, 10_000))
def test_all_members_of_a_gzip_message_are_its_content(members: list[bytes], per_turn: int) -> None:
    packed = b"".join(gzip.compress(member) for member in members)
    assert inflated(packed, per_turn=per_turn) == b"".join(members)


@given(st.binary(max_size=200_000), st.integers(1, 10_000), st.integers(0, 9))
def test_a_deflate_message_is_the_same_with_every_budget(body: bytes, per_turn: int, level: int) -> None:
    assert inflated(zlib.compress(body, level), DEFLATE, per_turn=per_turn) == body


@pytest.mark.parametrize("cut", [1, 9, 20])
def test_a_message_that_ends_early_is_refused(cut: int) -> None:
    with pytest.raises(MessageError, match="cannot be decompressed"):
        inflated(gzip.compress(b"row" * 1000)[:-cut])


@pytest.mark.parametrize(
    ("packed", "bits"),
    [(gzip.compress(b"row") + b"x", GZIP), (gzip.compress(b"row") + gzip.compress(b"row")[:-1], GZIP),
     (zlib.compress(b"row") + zlib.compress(b"row"), DEFLATE), (b"", GZIP), (b"no gzip", GZIP)],
)  # fmt: skip
def test_bytes_that_are_no_member_are_refused(packed: bytes, bits: int) -> None:
    with pytest.raises(MessageError, match="cannot be decompressed"):
        inflated(packed, bits)


@pytest.mark.parametrize("size", [100, 101])
def test_a_message_may_inflate_to_its_limit_and_no_further(size: int) -> None:
    packed = gzip.compress(bytes(size))
    if size <= 100:
        assert inflated(packed, max_message=100) == bytes(size)
        return
    with pytest.raises(MessageError, match="more than 100 bytes") as raised:
        inflated(packed, max_message=100)
    assert raised.value.code == 8


def test_a_large_message_may_be_a_hundred_times_its_compressed_size() -> None:
    content = bytes(range(256)) * 8192
    packed = gzip.compress(content)  # of 2 MiB, some 100 times smaller
    with_padding = packed + gzip.compress(zlib.compress(bytes(range(256)) * 100, 0), 0)
    assert len(inflated(with_padding)) > MIN_RATIO_BYTES
    with pytest.raises(MessageError, match=f"{MAX_RATIO} times its") as raised:
        inflated(gzip.compress(bytes(4 * MIB)))
    assert raised.value.code == 8


def test_members_without_content_spend_the_budget_too() -> None:
    inflation, budget = Inflation(memoryview(gzip.compress(b"") * 10_000), GZIP, MIB), InflateBudget()
    turns = 1
    while not inflation.run(budget):
        budget.refill()
        turns += 1
    assert turns > 50


def bombs(count: int, stream: int, size: int = MIN_RATIO_BYTES) -> bytes:
    """Unary calls whose messages inflate to `size` bytes each."""
    bomb = message(gzip.compress(bytes(size)), 1)
    sent = []
    for number in range(count):
        stream_id = stream + 2 * number
        sent.append(frames.frame(frames.HEADERS, 4, stream_id, block(b"/score", (b"grpc-encoding", b"gzip"))))
        sent.append(frames.frame(frames.DATA, 1, stream_id, bomb))
    return b"".join(sent)


def test_a_read_inflates_no_more_than_the_budget_of_a_turn_and_the_next_turns_go_on_in_order() -> None:
    budget = InflateBudget()
    connection = Connection(METHODS, EveryCall(), Limits(), budget)
    connection.receive(frames.PREFACE + frames.settings({}) + bombs(20, 1), 0)
    assert budget.left <= 0
    assert connection.events == []
    assert connection.is_inflating
    order, turns = [], 0
    while connection.is_inflating:
        budget.refill()
        connection.inflate()
        assert budget.left > -TURN_BYTES // 10
        assert len(connection.events) <= 1
        order += [stream.id for kind, stream, body in connection.events if kind == Event.REQUEST]
        connection.events.clear()
        turns += 1
    assert order == list(range(1, 41, 2))
    assert turns >= 20 * MIN_RATIO_BYTES // TURN_BYTES - 1
    assert connection._buffered == 0


def test_the_budget_is_shared_by_connections() -> None:
    budget = InflateBudget()
    first, second = (Connection(METHODS, EveryCall(), Limits(), budget) for _ in range(2))
    for connection in (first, second):
        connection.receive(frames.PREFACE + frames.settings({}) + bombs(1, 1, TURN_BYTES), 0)
    assert budget.left <= 0
    assert second.is_inflating


def test_a_small_compressed_call_is_a_request_within_its_read() -> None:
    peer = Peer()
    peer.raw(bombs(1, 1, 1000))
    assert peer.asked() == [(1, bytes(1000))]
    assert not peer.connection.is_inflating


def test_a_call_given_up_while_it_inflates_leaves_nothing_behind() -> None:
    peer = Peer()
    peer.raw(bombs(3, 1))
    for stream in (1, 3, 5):
        peer.send(frames.RST_STREAM, 0, stream, bytes(4))
    assert not peer.connection.is_inflating
    assert peer.connection._buffered == 0


def test_messages_of_a_stream_come_in_order_though_one_inflates_over_turns() -> None:
    budget = InflateBudget()
    peer = Peer(budget=budget)
    peer.head(1, b"/stream", (b"grpc-encoding", b"gzip"))
    large = bytes(MIN_RATIO_BYTES)
    peer.data(1, message(b"first") + message(gzip.compress(large), 1) + message(b"last"), frames.END_STREAM)
    connection = peer.connection
    stream = connection.streams[1]
    assert connection.take_messages(stream, 9) == [b"first"]
    assert stream.is_inflating
    peer.events()
    while connection.is_inflating:
        assert connection.take_messages(stream, 9) == []
        budget.refill()
        connection.inflate()
    assert peer.events() == [(Event.DATA, 1, b"")]
    assert connection.take_messages(stream, 9) == [large, b"last"]
    assert not stream.is_inflating


def test_messages_put_back_before_one_that_inflates_keep_their_order() -> None:
    budget = InflateBudget()
    peer = Peer(budget=budget)
    peer.head(1, b"/stream", (b"grpc-encoding", b"gzip"))
    peer.data(1, message(b"first") + message(gzip.compress(bytes(MIN_RATIO_BYTES)), 1))
    connection = peer.connection
    stream = connection.streams[1]
    connection.put_back(stream, connection.take_messages(stream, 9))
    while connection.is_inflating:
        budget.refill()
        connection.inflate()
    assert connection.take_messages(stream, 9) == [b"first", bytes(MIN_RATIO_BYTES)]
