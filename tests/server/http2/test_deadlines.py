"""A unary call whose message does not arrive ends at its deadline."""

from __future__ import annotations

import pytest

from common.http2 import frames
from server.http2.connection import Event
from tests.server.http2.peer import NOW_NS, Peer, message

TIMEOUT = (b"grpc-timeout", b"100m")
TIMEOUT_NS = 100_000_000
WORD = (0).to_bytes(4, "big")


def known(peer: Peer) -> None:
    """Headers with the timeout that the connection has cached: the next call takes the fast path."""
    peer.head(1, b"/score", TIMEOUT)
    peer.data(1, message(b"row"), frames.END_STREAM)
    peer.asked()
    peer.connection.respond(peer.connection.streams[1], b"answer")
    peer.read()


def expired(peer: Peer, now_ns: int) -> list[int]:
    peer.connection.expire(now_ns)
    return [stream for kind, stream, _ in peer.events() if kind == Event.EXPIRED]


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("part", [b"", message(b"a longer row")[:7], message(b"a longer row")[:3]])
def test_a_unary_call_without_its_whole_message_expires(is_known: bool, part: bytes) -> None:
    peer = Peer()
    known(peer)
    extra = () if is_known else ((b"x-new", b"1"),)
    peer.head(3, b"/score", TIMEOUT, *extra)
    if part:
        peer.data(3, part)
    assert peer.connection.next_deadline_ns == NOW_NS + TIMEOUT_NS
    assert expired(peer, NOW_NS + TIMEOUT_NS - 1) == []
    assert expired(peer, NOW_NS + TIMEOUT_NS) == [3]
    assert peer.connection.next_deadline_ns is None


@pytest.mark.parametrize("is_known", [True, False])
def test_a_call_whose_message_arrived_has_no_deadline_to_watch(is_known: bool) -> None:
    peer = Peer()
    known(peer)
    extra = () if is_known else ((b"x-new", b"1"),)
    peer.head(3, b"/score", TIMEOUT, *extra)
    peer.data(3, message(b"row"), frames.END_STREAM)
    peer.head(5, b"/score", TIMEOUT, *extra)
    peer.send(frames.RST_STREAM, 0, 5, WORD)
    assert peer.connection._deadlines == {}
    assert expired(peer, NOW_NS + TIMEOUT_NS) == []


def test_many_calls_with_long_timeouts_leave_nothing_behind() -> None:
    peer = Peer()
    for stream in range(1, 3000, 2):
        peer.head(stream, b"/score", (b"grpc-timeout", b"99999999H"))
        peer.data(stream, message(b"row"), frames.END_STREAM)
        peer.connection.respond_fast(stream, b"answer")
    assert peer.connection._deadlines == {}


def test_the_time_that_a_message_took_counts_against_its_deadline() -> None:
    peer = Peer()
    known(peer)
    peer.head(3, b"/score", TIMEOUT)
    peer.connection.receive(frames.frame(frames.DATA, 1, 3, message(b"row")), NOW_NS + TIMEOUT_NS // 2)
    (stream,) = [stream for kind, stream, _ in peer.connection.events if kind == Event.REQUEST]
    assert stream.deadline_ns == NOW_NS + TIMEOUT_NS


def test_deadlines_expire_in_any_order() -> None:
    peer = Peer()
    for stream, timeout in ((1, b"300m"), (3, b"100m"), (5, b"200m")):
        peer.head(stream, b"/score", (b"grpc-timeout", timeout))
    assert peer.connection.next_deadline_ns == NOW_NS + TIMEOUT_NS
    assert expired(peer, NOW_NS + TIMEOUT_NS) == [3]
    assert peer.connection.next_deadline_ns == NOW_NS + 2 * TIMEOUT_NS
    assert expired(peer, NOW_NS + 3 * TIMEOUT_NS) == [1, 5]
