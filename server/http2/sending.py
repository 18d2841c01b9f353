"""What a connection sends: answers, as far as the peer's windows go, and the ends of calls and of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from server.http2 import frames
from server.http2.blocks import Bytes
from server.http2.frames import ErrorCode, ProtocolError
from server.http2.headers import NOT_GRPC, NOT_GRPC_TEXT, RESPONSE, RESPONSE_WORD, Head, failure
from server.http2.stream import RESOURCE_EXHAUSTED, MessageError, Parts, Stream

_REMEMBERED_CUTS = 1024
_pack = frames.HEADER.pack
_pack_message = frames.MESSAGE.pack


def framed(message: bytes) -> bytes:
    """A message behind its prefix, not compressed."""
    return _pack_message(0, len(message)) + message


class Event(IntEnum):
    REQUEST = 1  # a unary call, whole: (stream, message)
    OPENED = 2  # a streaming call
    DATA = 3  # a streaming call has more messages, or the peer has ended its side
    RESET = 4  # the call is over before its end: the peer gave it up, or broke it
    DRAINED = 5  # the peer has more room for what a call sends


@dataclass(frozen=True)
class Limits:
    """max_message: bytes of one message. stream_window: bytes a stream may have under way that nobody took."""

    max_message: int = 16 * 1024 * 1024
    max_streams: int = 1024  # calls of one connection at a time
    max_header_bytes: int = 16 * 1024
    stream_window: int = 256 * 1024
    # What partial and untaken messages of one connection may hold: above it, calls are refused.
    max_buffered: int = 64 * 1024 * 1024
    # What answers of one connection may hold that its peer makes no room for: above it, calls fail.
    max_unsent: int = 16 * 1024 * 1024
    # Frames that ask for an answer or undo work, over frames that bring work: CVE-2023-44487 and its kin.
    max_glitches: int = 10_000


class Sending:
    """State of one connection, and its way out."""

    def __init__(self, limits: Limits) -> None:
        self.events: list[tuple[Event, Stream, bytes]] = []
        self.streams: dict[int, Stream] = {}
        self.closing = False  # GOAWAY is out and no call may begin
        self._begun: dict[int, Head] = {}  # on the short way: the headers are here
        self._parts: dict[int, Parts] = {}  # of those, whose message is here in part
        self._asked: dict[int, Head] = {}  # on the short way: the message is here, the answer is not
        self._grown: dict[int, int] = {}  # by how much the windows of those have grown
        self._limits = limits
        self._out: list[bytes] = []
        self._last_id = -1
        self._cut: dict[int, None] = {}  # ended by us before the peer had: what it still sent is no fault
        # Of those, the ones that the peer holds open: RST_STREAM follows at the next but one call of `forgive`.
        self._held_open: dict[int, None] = {}
        self._to_reset: dict[int, None] = {}
        self._send_window = frames.DEFAULT_WINDOW
        self._initial_send = frames.DEFAULT_WINDOW
        self._frame_size = frames.FRAME_SIZE
        self._starved: dict[int, Stream] = {}  # streams whose output waits for the connection's window
        self._buffered = 0  # weight of all streams
        self._unsent = 0  # bytes that wait in all streams
        self._glitches = 0
        self._drain_pinged = False
        self._now_ns = 0  # when what is being read arrived

    def output(self) -> bytes:
        """What is to be sent, in order; empty where there is nothing."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        return data

    @property
    def open_calls(self) -> int:
        return len(self.streams) + len(self._begun) + len(self._asked)

    def stream(self, stream_id: int) -> Stream | None:
        """A call as a stream, for whatever is not on the short way; None where there is none."""
        head = self._begun.pop(stream_id, None)
        ended = head is None
        if head is None:
            head = self._asked.pop(stream_id, None)
        if head is None:
            return self.streams.get(stream_id)
        stream = self._new_stream(stream_id, head, ended=ended)
        stream.send_window += self._grown.pop(stream_id, 0)
        if parts := self._parts.pop(stream_id, None):
            stream.resume(parts)  # its weight is in `_buffered` as it was
        return stream

    def open_streams(self) -> list[Stream]:
        """Every open call, as a stream."""
        for stream_id in [*self._begun, *self._asked]:
            self.stream(stream_id)
        return list(self.streams.values())

    def _new_stream(self, stream_id: int, head: Head, *, ended: bool) -> Stream:
        limits = self._limits
        stream = Stream(stream_id, head, self._initial_send, limits.stream_window, limits.max_message, self._now_ns)
        stream.ended = ended
        self.streams[stream_id] = stream
        return stream

    # What the application calls.

    def respond(self, stream: Stream, message: bytes) -> None:
        """Answers a unary call, with success; with RESOURCE_EXHAUSTED where the peer leaves too much unread."""
        if self._unsent + len(message) > self._limits.max_unsent:
            self.finish(stream, RESOURCE_EXHAUSTED, f"this connection leaves {self._unsent} bytes of answers unread")
            return
        self.send(stream, framed(message))
        self.finish(stream)

    def send(self, stream: Stream, messages: bytes) -> None:
        """Sends messages, each with its prefix, as far as the peer has room; the rest waits in the stream."""
        if stream.closed:
            return
        if not stream.started:
            self._out.append(_pack(RESPONSE_WORD, 4, stream.id) + RESPONSE)
            stream.started = True
        self._queue(stream, messages)
        self._pump(stream)

    def finish(self, stream: Stream, code: int = 0, message: str = "", details: bytes = b"") -> None:
        """Ends a call with a status, behind what it still has to send."""
        if stream.closed or stream.trailers is not None:
            return
        if not stream.started and code == 0:
            self._out.append(_pack(RESPONSE_WORD, 4, stream.id) + RESPONSE)
            stream.started = True
        block = failure(code, message, details, started=stream.started)
        if stream.out and code == 0:
            stream.trailers = block
        else:
            self._end(stream, block)

    def fail_fast(self, stream: Stream, block: bytes) -> None:
        """Ends a call that has sent nothing with a block made beforehand."""
        if not stream.closed:
            self._end(stream, block)

    def take(self, stream: Stream, limit: int) -> list[bytes]:
        """Up to `limit` messages of a streaming call. One that cannot be taken ends the call; [] then."""
        before = stream.weight
        stream.told = False
        try:
            messages = stream.take(limit)
        except MessageError as error:
            self._buffered += stream.weight - before
            self.finish(stream, error.code, str(error))
            return []
        self._buffered += stream.weight - before
        self.give_room(stream)
        return messages

    def peek_even(self, stream: Stream, limit: int, least: int) -> Bytes | None:
        """Stream.peek_even; None also where the next is no message, which `take` tells its caller."""
        before = stream.weight
        try:
            return stream.peek_even(limit, least)
        except MessageError:
            return None
        finally:
            self._buffered += stream.weight - before

    def skip(self, stream: Stream, size: int) -> None:
        """Takes what was peeked at."""
        before = stream.weight
        stream.told = False
        stream.skip(size)
        self._buffered += stream.weight - before
        self.give_room(stream)

    def put_back(self, stream: Stream, messages: list[bytes]) -> None:
        """Messages that were taken too early."""
        before = stream.weight
        stream.put_back(messages)
        self._buffered += stream.weight - before

    def give_room(self, stream: Stream) -> None:
        """Lets the peer send on: what the window holds beside untaken messages, and a begun message to its end."""
        if stream.ended or stream.closed:
            return
        before = stream.weight
        try:
            missing = stream.missing
        except MessageError as error:
            self._buffered += stream.weight - before
            self._break(stream, error.code, str(error))
            return
        self._buffered += stream.weight - before
        window = self._limits.stream_window
        room = max(window - stream.size, missing)
        if room - stream.receive_window >= window // 2 or missing > stream.receive_window:
            self._out.append(frames.window_update(stream.id, room - stream.receive_window))
            stream.receive_window = room

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Begins the orderly end (RFC 9113, section 6.8): a warning first, the last stream's id once it was read."""
        if code != ErrorCode.NO_ERROR:
            self._out.append(frames.goaway(max(0, self._last_id), code, reason))
            self.closing = True
        elif not self._drain_pinged:
            self._drain_pinged = True
            self._out.append(frames.goaway(frames.MAX_WINDOW, code, reason))
            self._out.append(frames.frame(frames.PING, 0, 0, b"draining"))

    def forgive(self) -> None:
        """Called once a second: what is spread over time is no flood."""
        self._glitches = 0
        for stream_id in self._to_reset:
            self._out.append(frames.rst_stream(stream_id, ErrorCode.NO_ERROR))
        self._to_reset, self._held_open = self._held_open, {}

    # Ends of calls.

    def _break(self, stream: Stream, code: int, text: str) -> None:
        """Ends a call for what its peer sent; the application, where it has the call, is told."""
        self.finish(stream, code, text)
        self.events.append((Event.RESET, stream, b""))

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        """Ends a call without an answer, for a fault of the peer's."""
        self._glitch()
        self._out.append(frames.rst_stream(stream_id, code))
        self._remember_cut(stream_id)
        stream = self.stream(stream_id)
        if stream is not None:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        self._forget(stream)
        self.events.append((Event.RESET, stream, b""))

    def _end(self, stream: Stream, block: bytes) -> None:
        """Sends the last header block.

        A peer closes its side when it reads the end; RFC 9113, section 8.1, lets us ask for it by RST_STREAM. That
        waits a second: HAProxy discards a status that it reads together with RST_STREAM.
        """
        self._out.append(frames.frame(frames.HEADERS, frames.END_STREAM | frames.END_HEADERS, stream.id, block))
        if not stream.ended:
            self._held_open[stream.id] = None
            if len(self._held_open) > _REMEMBERED_CUTS:
                oldest = next(iter(self._held_open))
                del self._held_open[oldest]
                self._out.append(frames.rst_stream(oldest, ErrorCode.NO_ERROR))
            self._remember_cut(stream.id)
        self._forget(stream)

    def _peer_ended(self, stream_id: int) -> None:
        """The peer has closed its side of a call that we had ended."""
        self._held_open.pop(stream_id, None)
        self._to_reset.pop(stream_id, None)

    def _not_grpc(self, stream: Stream) -> None:
        """HTTP status 415, as gRPC over HTTP/2 says, and a word for whoever reads it."""
        self._out.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, NOT_GRPC))
        stream.trailers = b""
        self._queue(stream, NOT_GRPC_TEXT)
        self._pump(stream)

    def _forget(self, stream: Stream) -> None:
        stream.closed = True
        self._buffered -= stream.weight
        self._unsent -= stream.unsent
        stream.clear()
        del self.streams[stream.id]
        self._starved.pop(stream.id, None)

    def _remember_cut(self, stream_id: int) -> None:
        cut = self._cut
        cut[stream_id] = None
        if len(cut) > _REMEMBERED_CUTS:
            del cut[next(iter(cut))]

    # Flow control.

    def _queue(self, stream: Stream, payload: bytes) -> None:
        stream.out.append(payload)
        stream.unsent += len(payload)
        self._unsent += len(payload)

    def _pump(self, stream: Stream) -> None:
        """Sends what waits in a stream as far as both windows go."""
        out, before = stream.out, stream.unsent
        while out:
            room = min(self._send_window, stream.send_window, self._frame_size)
            if room <= 0:
                break
            payload = out[0]
            if len(payload) > room:
                out[0] = memoryview(payload)[room:]
                payload = memoryview(payload)[:room]
            else:
                out.popleft()
            self._send_window -= len(payload)
            stream.send_window -= len(payload)
            stream.unsent -= len(payload)
            flags = frames.END_STREAM if stream.trailers == b"" and not out else 0
            self._out.append(_pack(len(payload) << 8, flags, stream.id) + payload)
        self._unsent += stream.unsent - before
        if out:
            self._wait_for_room(stream)
            return
        self._starved.pop(stream.id, None)
        if stream.blocked:
            stream.blocked = False
            self.events.append((Event.DRAINED, stream, b""))
        if stream.trailers:
            self._end(stream, stream.trailers)
        elif stream.trailers is not None:
            self._forget(stream)

    def _wait_for_room(self, stream: Stream) -> None:
        stream.blocked = True
        if stream.send_window > 0:
            self._starved[stream.id] = stream
        else:
            self._starved.pop(stream.id, None)

    def _feed_starved(self) -> None:
        """After the connection's window grew. Each stream passed over is sent, or waits for its own window then."""
        while self._send_window > 0 and self._starved:
            self._pump(next(iter(self._starved.values())))

    def _glitch(self, weight: int = 1) -> None:
        self._glitches += weight
        if self._glitches > self._limits.max_glitches:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring no work")
