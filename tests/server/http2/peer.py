"""The client's side of a connection in memory: sends frames, reads what comes back."""

from __future__ import annotations

from typing import Any, NamedTuple

from hpack import Decoder

from server.http2 import frames
from server.http2.connection import Connection, Event, Limits
from server.http2.headers import FAST_UNARY, STREAMING, UNARY, literal
from server.http2.inflating import InflateBudget
from server.http2.stream import Stream

MIB = 1024 * 1024
NOW_NS = 1_000
METHODS = {b"/score": FAST_UNARY, b"/health": UNARY, b"/stream": STREAMING}


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames_in(data: bytes) -> list[Frame]:
    at, got = 0, []
    while at < len(data):
        word, flags, stream = frames.HEADER.unpack_from(data, at)
        until = at + 9 + (word >> 8)
        got.append(Frame(word & 0xFF, flags, stream, data[at + 9 : until]))
        at = until
    return got


class EveryCall:
    """A gate that lets pass whoever does not say that he is bad."""

    def kind(self, method: Any) -> int:
        kind: int = method
        return kind

    def refusal(self, path: bytes, authorization: bytes) -> str:
        return "bad token" if authorization == b"bad" else ""


def block(path: bytes = b"/score", *extra: tuple[bytes, bytes], method: bytes = b"POST") -> bytes:
    fields: tuple[tuple[bytes, bytes], ...] = (
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
    )
    fields += ((b"content-type", b"application/grpc"), (b"te", b"trailers"), *extra)
    return b"".join(literal(name, value) for name, value in fields)


def message(body: bytes, compressed: int = 0) -> bytes:
    return frames.MESSAGE.pack(compressed, len(body)) + body


class Peer:
    def __init__(
        self, limits: Limits | None = None, settings: dict[int, int] | None = None, budget: InflateBudget | None = None
    ) -> None:
        self.connection = Connection(METHODS, EveryCall(), limits or Limits(), budget)
        self.received = 0
        self._decoder = Decoder()
        self.raw(frames.PREFACE + frames.settings(settings or {}))
        self.greeting = self.read()

    def raw(self, data: bytes) -> None:
        self.connection.receive(data, NOW_NS)
        while self.connection.has_more:
            self.connection.receive(b"", NOW_NS)

    def send(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        self.raw(frames.frame(kind, flags, stream, payload))

    def head(self, stream: int, path: bytes = b"/score", *extra: tuple[bytes, bytes], flags: int = 4) -> None:
        self.send(frames.HEADERS, flags, stream, block(path, *extra))

    def data(self, stream: int, body: bytes, flags: int = 0) -> None:
        self.send(frames.DATA, flags, stream, body)

    def call(self, stream: int, body: bytes = b"row", path: bytes = b"/score") -> None:
        """A unary call as small ones come."""
        self.head(stream, path)
        self.data(stream, message(body), frames.END_STREAM)

    def read(self) -> list[Frame]:
        return frames_in(self.connection.output())

    def fields(self, frame: Frame) -> dict[bytes, bytes]:
        assert frame.kind == frames.HEADERS
        return dict(self._decoder.decode(frame.payload, raw=True))

    def status(self, stream: int, read: list[Frame] | None = None) -> int:
        """grpc-status of a call that has ended."""
        last = [sent for sent in (read or self.read()) if sent.stream == stream and sent.kind == frames.HEADERS][-1]
        assert last.flags & frames.END_STREAM
        return int(self.fields(last)[b"grpc-status"])

    def events(self) -> list[tuple[Event, int, bytes]]:
        events, self.connection.events = self.connection.events, []
        return [(kind, stream.id, body) for kind, stream, body in events]

    def calls(self) -> list[tuple[int, bytes]]:
        """Calls that came the fast path."""
        calls, self.connection.calls = self.connection.calls, []
        return [(stream, body) for stream, _, body in calls]

    def asked(self) -> list[tuple[int, bytes]]:
        """Unary calls that came whole, whatever their way."""
        whole = [(stream, body) for kind, stream, body in self.events() if kind == Event.REQUEST]
        return self.calls() + whole


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
