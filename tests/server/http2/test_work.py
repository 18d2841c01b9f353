"""The work of a read depends on the bytes of that read, not on what waits on the connection."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.http2 import frames
from server.http2.connection import MAX_WORK, Limits
from server.http2.stream import MAX_SMALL_CHUNKS, join_small_chunks
from tests.server.http2.peer import Peer, message

READ_BYTES = 200_000
ONE_BYTE = frames.frame(frames.DATA, 0, 3, b"\1")
# Of memory and of function calls for a read of some bytes; a walk over what waits takes much more.
TRICKLE_BYTES = 64 * 1024
TRICKLE_CALLS = 200


def send(peer: Peer, data: bytes) -> None:
    for at in range(0, len(data), READ_BYTES):
        peer.raw(data[at : at + READ_BYTES])


def is_cheap(peer: Peer, data: bytes) -> bool:
    """Whether a read takes little memory, and few calls of functions."""
    peer.raw(data[:1])  # whatever the first read after a large one tidies up
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1

    tracemalloc.start()
    sys.setprofile(count)
    try:
        peer.raw(data[1:])
        return calls < TRICKLE_CALLS and tracemalloc.get_traced_memory()[1] < TRICKLE_BYTES
    finally:
        sys.setprofile(None)
        tracemalloc.stop()


def begun(peer: Peer, path: bytes, size: int, compressed: int = 0, *extra: tuple[bytes, bytes]) -> None:
    """Call 3, with headers that the connection knows, and the prefix of its message."""
    if path == b"/score":
        peer.call(1)
    else:
        peer.head(1, path)
    peer.head(3, path, *extra)
    peer.data(3, frames.MESSAGE.pack(compressed, size))


@pytest.mark.parametrize("path", [b"/score", b"/stream"])
@pytest.mark.parametrize("compressed", [0, 1])
def test_a_read_costs_the_same_behind_many_frames_of_one_byte(path: bytes, compressed: int) -> None:
    peer = Peer(Limits(stream_window=400_000))
    begun(peer, path, 390_000, compressed)
    send(peer, ONE_BYTE * 300_000)
    assert is_cheap(peer, ONE_BYTE + b"\0\0\1")


def test_a_read_costs_the_same_beside_many_partial_messages() -> None:
    peer = Peer()
    peer.call(1)
    for stream in range(3, 2003, 2):
        peer.head(stream)
        peer.data(stream, frames.MESSAGE.pack(0, 10_000) + bytes(5000))
    trickle = frames.frame(frames.DATA, 0, 1001, b"x")
    assert is_cheap(peer, trickle + trickle)


def test_a_read_costs_the_same_within_a_large_frame() -> None:
    peer = Peer()
    peer.call(1)
    peer.head(3)
    peer.raw(frames.frame(frames.DATA, 0, 3, message(bytes(250_000)))[:200_000])
    for _ in range(1000):
        peer.raw(b"\0")
    assert is_cheap(peer, bytes(20))


@pytest.mark.parametrize("path", [b"/score", b"/stream"])
def test_a_message_of_many_small_frames_is_kept_in_few_chunks_and_comes_whole(path: bytes) -> None:
    peer = Peer(Limits(stream_window=100_000))
    body = bytes(number % 251 for number in range(50_000))
    begun(peer, path, len(body))
    data = b"".join(frames.frame(frames.DATA, 0, 3, body[at : at + 1]) for at in range(len(body) - 1))
    send(peer, data)
    connection = peer.connection
    chunks = connection._partial_bodies[3].chunks if path == b"/score" else connection.streams[3].unread
    assert len(chunks) <= 2 * MAX_SMALL_CHUNKS
    assert connection._buffered < 2 * len(body)
    if path == b"/score":
        peer.data(3, body[-1:], frames.END_STREAM)
        assert (3, body) in peer.asked()
    else:
        peer.data(3, body[-1:])
        assert connection.take_messages(connection.streams[3], 9) == [body]
    assert connection._buffered == 0


def test_a_frame_in_pieces_of_any_size_is_read_whole() -> None:
    peer = Peer()
    peer.call(1)
    peer.head(3)
    body = bytes(number % 251 for number in range(30_000))
    data = frames.frame(frames.DATA, 1, 3, message(body))
    for at in range(0, len(data), 7):
        peer.raw(data[at : at + 7])
    assert (3, body) in peer.asked()


@given(st.lists(st.integers(0, 9000), max_size=600))
def test_joined_chunks_hold_the_same_bytes_and_are_few(sizes: list[int]) -> None:
    chunks: list[bytes | memoryview] = []
    total = 0
    for number, size in enumerate(sizes):
        chunks.append(bytes([number % 251]) * size)
        total += size
        join_small_chunks(chunks, total)
        assert len(chunks) <= MAX_SMALL_CHUNKS or total >= 4096 * len(chunks)
    assert b"".join(chunks) == b"".join(bytes([number % 251]) * size for number, size in enumerate(sizes))


@pytest.mark.parametrize("path", [b"/score", b"/stream"])
def test_a_read_of_many_small_frames_ends_early_and_goes_on_without_new_bytes(path: bytes) -> None:
    peer = Peer(Limits(stream_window=100_000))
    begun(peer, path, 90_000)
    connection = peer.connection
    connection.receive(ONE_BYTE * 20_000, 0)
    turns = 1
    while connection.has_more:
        assert connection.work <= 2 * MAX_WORK
        connection.receive(b"", 0)
        turns += 1
    assert turns > 2
    assert connection._rest == []
    assert not connection.is_stalled(10**12, 1)
    size = connection._partial_bodies[3].size if path == b"/score" else connection.streams[3].size
    assert size == 20_005


def test_new_bytes_behind_an_unfinished_read_are_read_in_order() -> None:
    peer = Peer()
    connection = peer.connection
    pings = [frames.frame(frames.PING, 0, 0, number.to_bytes(8, "big")) for number in range(9000)]
    connection.receive(b"".join(pings[:5000]) + pings[5000][:4], 0)
    assert connection.has_more
    connection.receive(pings[5000][4:] + b"".join(pings[5001:]), 0)
    while connection.has_more:
        connection.receive(b"", 0)
    answers = [frame.payload for frame in peer.read() if frame.flags == frames.ACK]
    assert answers == [number.to_bytes(8, "big") for number in range(9000)]
