"""One HTTP/2 connection, the server's side: RFC 9113 as far as gRPC uses it.

`receive` takes what the socket gave and leaves events; `respond`, `send`, `finish` and `fail` take what
the application says; `output` is what the socket is to send. A unary call that comes as one HEADERS and
one DATA frame, as all small ones do, takes the short way through `receive`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from server.http2 import frames
from server.http2.frames import ErrorCode, ProtocolError
from server.http2.headers import (
    NOT_GRPC,
    OK_TRAILERS,
    RESPONSE,
    STREAMING,
    Gate,
    Head,
    HeadReader,
    MalformedError,
    failure,
)
from server.http2.stream import (
    INVALID_ARGUMENT,
    PREFIX,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNIMPLEMENTED,
    MessageError,
    Stream,
)

# The most that a peer may send in one frame: a message of 256 rows is one, where a client takes this up.
RECEIVED_FRAME_SIZE = 256 * 1024
_RESPONSE_WORD = len(RESPONSE) << 8 | frames.HEADERS
_TRAILERS_WORD = len(OK_TRAILERS) << 8 | frames.HEADERS
_PREFACE = frames.PREFACE
_unpack = frames.HEADER.unpack_from
_pack = frames.HEADER.pack
_pack_message = frames.MESSAGE.pack
_unpack_message = frames.MESSAGE.unpack_from


class Event(IntEnum):
    REQUEST = 1  # a unary call, whole: (stream, message)
    OPENED = 2  # a streaming call
    DATA = 3  # a streaming call has more messages, or the peer has ended its side
    RESET = 4  # the peer gave the call up
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
    # Frames that ask for an answer or undo work, over frames that bring work: CVE-2023-44487 and its kin.
    max_glitches: int = 10_000


class Connection:
    def __init__(self, methods: Mapping[bytes, Any], gate: Gate, limits: Limits) -> None:
        """methods: what to put in Head.method for a path."""
        self.events: list[tuple[Event, Stream, bytes]] = []
        self.streams: dict[int, Stream] = {}
        self.calls: list[tuple[int, Head, bytes]] = []  # calls that came the short way, whole
        self._begun: dict[int, Head] = {}  # on the short way: the headers are here
        self._asked: dict[int, Head] = {}  # on the short way: the message is here, the answer is not
        self.closing = False  # GOAWAY is out and no call may begin
        self._limits = limits
        self._heads = HeadReader(methods, gate, limits.max_header_bytes)
        self._rest = b""
        self._started = False
        self._settled = False  # the peer's first frame was SETTINGS, as it must be
        self._last_id = 0
        self._block: tuple[int, int, bytearray] | None = None  # a header block that CONTINUATION goes on with
        self._send_window = frames.DEFAULT_WINDOW
        self._initial_send = frames.DEFAULT_WINDOW
        self._frame_size = frames.FRAME_SIZE
        self._untold = 0  # bytes received that the connection's window has not been given back
        self._glitches = 0
        self._buffered = 0
        self._blocked: dict[int, Stream] = {}  # streams whose output waits for a window
        self._drain_pinged = False
        self._now_ns = 0  # when what is being read arrived
        values = {
            frames.MAX_CONCURRENT_STREAMS: limits.max_streams,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window,
            frames.MAX_FRAME_SIZE: RECEIVED_FRAME_SIZE,
            frames.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        }
        self._window = max(16 * limits.stream_window, 4 * 1024 * 1024)
        first = self._window - frames.DEFAULT_WINDOW
        self._out: list[bytes] = [frames.settings(values), frames.window_update(0, first)]

    # What the socket calls.

    def output(self) -> bytes:
        """What is to be sent, in order; empty where there is nothing."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        return data

    @property
    def mid_frame(self) -> bool:
        """Whether the peer has begun something that it has not ended: its preface, a frame, a header block."""
        return not self._started or bool(self._rest) or self._block is not None

    def receive(self, data: bytes, now_ns: int) -> None:
        """Takes bytes of the socket; leaves events. Raises ProtocolError once the peer broke the protocol."""
        self._now_ns = now_ns
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        if not self._started:
            if end < len(_PREFACE):
                if not _PREFACE.startswith(data):
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "no preface of HTTP/2")
                self._rest = data
                return
            if not data.startswith(_PREFACE):
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "no preface of HTTP/2")
            self._started, at = True, len(_PREFACE)
        known, begun, asked, streams = self._heads.known, self._begun, self._asked, self.streams
        while end - at >= 9:
            head, flags, stream_id = _unpack(data, at)
            length, kind = head >> 8, head & 0xFF
            if length > RECEIVED_FRAME_SIZE:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin = at + 9
            until = begin + length
            if until > end:
                break
            at = until
            # A unary call as clients send it: HEADERS with a body to come, DATA that is one message and the end.
            if kind == 1 and flags == 4:
                call = known.get(data[begin:until])
                if call is not None and call.short and self._may_open(stream_id):
                    self._last_id = stream_id
                    begun[stream_id] = call
                    continue
            elif (
                kind == 0
                and flags == 1
                and stream_id in begun
                and length >= PREFIX
                and _unpack_message(data, begin) == (0, length - PREFIX)
                and self._block is None
            ):
                self._untold += length
                call = asked[stream_id] = begun.pop(stream_id)
                self.calls.append((stream_id, call, data[begin + PREFIX : until]))
                continue
            elif (
                kind == 0
                and flags == 0
                and (stream := streams.get(stream_id)) is not None
                and not (stream.unary or stream.ended)
                and 0 < length <= stream.receive_window
                and self._buffered < self._limits.max_buffered
                and self._block is None
            ):
                self._untold += length
                self._buffered += length
                stream.receive_window -= length
                stream.unread.append(data[begin:until])
                if not stream.told:
                    stream.told = True
                    self.events.append((Event.DATA, stream, b""))
                continue
            self._slow(kind, flags, stream_id & frames.MAX_WINDOW, data[begin:until])
        self._rest = data[at:] if at else data
        if self._untold >= self._window // 2:
            self._out.append(frames.window_update(0, self._untold))
            self._untold = 0

    def _may_open(self, stream_id: int) -> bool:
        return (
            self._last_id < stream_id <= frames.MAX_WINDOW
            and stream_id & 1 == 1
            and self._block is None
            and not self.closing
            and self.open_calls < self._limits.max_streams
        )

    @property
    def open_calls(self) -> int:
        return len(self.streams) + len(self._begun) + len(self._asked)

    # What the application calls.

    def forget_heads(self) -> None:
        """After a change of what the gate says; calls that have begun go on."""
        self._heads.forget()

    def is_waiting(self, stream_id: int) -> bool:
        """Whether a call that came the short way still wants its answer."""
        return stream_id in self._asked or stream_id in self.streams

    def respond_short(self, stream_id: int, message: bytes) -> None:
        """Answers a call that came the short way, with success."""
        length = len(message) + PREFIX
        if length > self._send_window or length > self._initial_send or length > frames.FRAME_SIZE:
            stream = self.stream(stream_id)
            if stream is not None:
                self.respond(stream, message)
        elif self._asked.pop(stream_id, None) is not None:
            self._send_window -= length
            self._out.append(
                b"%b%b%b%b%b%b%b"
                % (
                    _pack(_RESPONSE_WORD, 4, stream_id), RESPONSE, _pack(length << 8, 0, stream_id),
                    _pack_message(0, length - PREFIX), message, _pack(_TRAILERS_WORD, 5, stream_id), OK_TRAILERS,
                )
            )  # fmt: skip
        elif (stream := self.streams.get(stream_id)) is not None:
            self.respond(stream, message)

    def fail_short(self, stream_ids: list[int], block: bytes) -> None:
        """Ends calls that came the short way with one block made beforehand."""
        word, asked = len(block) << 8 | frames.HEADERS, self._asked
        self._out.extend([_pack(word, 5, one) + block for one in stream_ids if asked.pop(one, None) is not None])

    def stream(self, stream_id: int) -> Stream | None:
        """A call as a stream, for whatever is not on the short way; None where there is none."""
        head = self._begun.pop(stream_id, None)
        ended = head is None
        if head is None:
            head = self._asked.pop(stream_id, None)
        if head is not None:
            limits = self._limits
            stream = Stream(stream_id, head, self._initial_send, limits.stream_window, limits.max_message, self._now_ns)
            stream.ended = ended
            self.streams[stream_id] = stream
        return self.streams.get(stream_id)

    def respond(self, stream: Stream, message: bytes) -> None:
        """Answers a unary call, with success."""
        self.send(stream, (message,))
        self.finish(stream)

    def send(self, stream: Stream, messages: tuple[bytes, ...] | list[bytes]) -> None:
        """Sends messages of a streaming call, as far as the peer has room; the rest waits in the stream."""
        if stream.closed:
            return
        if not stream.started:
            self._out.append(_pack(_RESPONSE_WORD, 4, stream.id) + RESPONSE)
            stream.started = True
        stream.out.append(b"".join([part for one in messages for part in (_pack_message(0, len(one)), one)]))
        self._pump(stream)

    def finish(self, stream: Stream, code: int = 0, message: str = "", details: bytes = b"") -> None:
        """Ends a call with a status, behind what it still has to send."""
        if stream.closed or stream.trailers:
            return
        if not stream.started and code == 0:
            self._out.append(_pack(_RESPONSE_WORD, 4, stream.id) + RESPONSE)
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
        before = stream.buffered
        stream.told = False
        try:
            messages = stream.take(limit)
        except MessageError as error:
            self.finish(stream, error.code, str(error))
            return []
        self._buffered -= before - stream.buffered
        self.give_room(stream)
        return messages

    def put_back(self, stream: Stream, messages: list[bytes]) -> None:
        """Messages that were taken too early."""
        before = stream.buffered
        stream.put_back(messages)
        self._buffered += stream.buffered - before

    def give_room(self, stream: Stream) -> None:
        """Lets the peer send on: what the window holds beside untaken messages, and a begun message to its end."""
        if stream.ended or stream.closed:
            return
        try:
            missing = stream.missing
        except MessageError as error:
            self.finish(stream, error.code, str(error))
            return
        window = self._limits.stream_window
        room = max(window - stream.buffered, missing)
        if room - stream.receive_window >= window // 2 or missing > stream.receive_window:
            self._out.append(frames.window_update(stream.id, room - stream.receive_window))
            stream.receive_window = room

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Begins the orderly end (RFC 9113, section 6.8): a warning first, the last stream's id once it was read."""
        if code != ErrorCode.NO_ERROR:
            self._out.append(frames.goaway(self._last_id, code, reason))
            self.closing = True
        elif not self._drain_pinged:
            self._drain_pinged = True
            self._out.append(frames.goaway(frames.MAX_WINDOW, code, reason))
            self._out.append(frames.frame(frames.PING, 0, 0, b"draining"))

    # Frames that are not on the short way.

    def _slow(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block[0]):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block was left open")
        if not self._settled:
            if kind != frames.SETTINGS:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is no SETTINGS")
            self._settled = True
        if kind == frames.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == frames.HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind == frames.CONTINUATION:
            self._on_continuation(flags, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(stream_id, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._on_reset(stream_id, payload)
        elif kind == frames.PING:
            self._on_ping(flags, stream_id, payload)
        elif kind == frames.PRIORITY:
            self._on_priority(stream_id, payload)
        elif kind == frames.GOAWAY:
            if stream_id:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        else:
            self._glitch()  # kinds that we do not know are ignored, but not without end

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        payload = _unpadded(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if frames.word(payload[:4]) == stream_id:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._open(stream_id, payload, bool(flags & frames.END_STREAM))
        else:
            self._block = (stream_id, flags, bytearray(payload))

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of no header block")
        stream_id, first_flags, block = self._block
        block += payload
        self._glitch()
        # Huffman coding makes a block smaller than its list, never four times larger.
        if len(block) > 4 * self._limits.max_header_bytes:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._open(stream_id, bytes(block), bool(first_flags & frames.END_STREAM))

    def _open(self, stream_id: int, block: bytes, ended: bool) -> None:
        if not self._settled:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is no SETTINGS")
        if stream_id <= self._last_id:
            self._on_trailers(stream_id, block, ended)
            return
        if not stream_id & 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} is not a client's")
        self._last_id = stream_id
        try:
            head = self._heads.read(block)
        except MalformedError:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        if self.closing or self.open_calls >= self._limits.max_streams:
            self._reset(stream_id, ErrorCode.REFUSED_STREAM)  # the client may try it elsewhere, safely
            return
        limits = self._limits
        stream = Stream(stream_id, head, self._initial_send, limits.stream_window, limits.max_message, self._now_ns)
        stream.ended = ended
        self.streams[stream_id] = stream
        if head.unsupported:
            self._end(stream, NOT_GRPC)
        elif head.size > limits.max_header_bytes:
            text = f"metadata of {head.size} bytes; at most {limits.max_header_bytes} are taken"
            self.finish(stream, RESOURCE_EXHAUSTED, text)
        elif head.method is None:
            path = head.path[:100].decode("ascii", "backslashreplace")
            self.finish(stream, UNIMPLEMENTED, f"no method {path}")
        elif head.refusal:
            self.finish(stream, UNAUTHENTICATED, head.refusal)
        elif head.kind == STREAMING:
            stream.unary = False
            self.events.append((Event.OPENED, stream, b""))
        elif ended:
            self._whole(stream)

    def _on_trailers(self, stream_id: int, block: bytes, ended: bool) -> None:
        self._heads.skip(block)
        stream = self.stream(stream_id)
        if stream is None or stream.ended:
            self._closed_already(stream_id)
        elif not ended:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.ended = True
            self._more(stream)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id or stream_id > self._last_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which is idle")
        self._untold += len(payload)
        stream = self.stream(stream_id)
        if stream is None or stream.ended:
            self._closed_already(stream_id)
            return
        body = _unpadded(flags, payload)
        if not body:
            self._glitch()
        stream.receive_window -= len(payload)
        if stream.receive_window < 0:
            self._reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
            return
        stream.unread.append(body)
        self._buffered += len(body)
        if flags & frames.END_STREAM:
            stream.ended = True
        if self._buffered > self._limits.max_buffered:
            self.finish(stream, RESOURCE_EXHAUSTED, "too much of this connection's messages is waiting")
            return
        self._more(stream)

    def _more(self, stream: Stream) -> None:
        if not stream.unary:
            self.events.append((Event.DATA, stream, b""))
        elif stream.ended:
            self._whole(stream)
        else:
            self.give_room(stream)

    def _whole(self, stream: Stream) -> None:
        """A unary call whose side has ended: one message, no more and no less."""
        self._buffered -= stream.buffered
        try:
            messages = stream.take(2)
        except MessageError as error:
            self.finish(stream, error.code, str(error))
            return
        if len(messages) == 1 and not stream.buffer:
            self.events.append((Event.REQUEST, stream, messages[0]))
            return
        got = "more" if messages else "a part of one" if stream.buffer else "none"
        stream.buffer = b""
        self.finish(stream, INVALID_ARGUMENT, f"expected one message, got {got}")

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size than 4")
        increment = frames.word(payload)
        if stream_id == 0:
            self._send_window += increment
            if not increment or self._send_window > frames.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise ProtocolError(code, f"a window that grows by {increment}")
            for stream in list(self._blocked.values()):
                self._pump(stream)
            return
        if stream_id > self._last_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {stream_id}, which is idle")
        open_stream = self.stream(stream_id)
        if open_stream is None:
            return
        open_stream.send_window += increment
        if not increment or open_stream.send_window > frames.MAX_WINDOW:
            self._reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR)
        elif open_stream.out:
            self._pump(open_stream)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            return
        if len(payload) % 6:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a size that is no multiple of 6")
        self._glitch()
        for key, value in frames.parse_settings(payload):
            self._set(key, value)
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        for stream in list(self._blocked.values()):
            self._pump(stream)

    def _set(self, key: int, value: int) -> None:
        if key == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value}")
            for stream_id in [*self._begun, *self._asked]:
                self.stream(stream_id)  # each has a window of its own from now on
            for stream in self.streams.values():
                stream.send_window += value - self._initial_send
                if stream.send_window > frames.MAX_WINDOW:
                    raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window beyond its limit")
            self._initial_send = value
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.FRAME_SIZE <= value < 2**24:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"a frame size of {value}")
            # 64 KiB at a time is enough for us, and keeps one call from holding up another.
            self._frame_size = min(value, 65_536)
        elif key == frames.ENABLE_PUSH and value > 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")

    def _on_reset(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another size than 4")
        if not stream_id or stream_id > self._last_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}, which is idle")
        self._glitch()
        stream = self.stream(stream_id)
        if stream is not None:
            self._drop(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING of another size than 8")
        if not flags & frames.ACK:
            self._glitch()
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == b"draining" and self._drain_pinged:
            # Whatever the client sent before it read the warning is here: now the end can be told.
            self._out.append(frames.goaway(self._last_id, ErrorCode.NO_ERROR))
            self.closing = True

    def _on_priority(self, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
        self._glitch()
        if len(payload) != 5:
            self._reset(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        elif frames.word(payload[:4]) == stream_id:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR)

    # Ends.

    def _closed_already(self, stream_id: int) -> None:
        self._glitch()
        self._out.append(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))
        stream = self.stream(stream_id)
        if stream is not None:
            self._drop(stream)

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        self._glitch()
        self._out.append(frames.rst_stream(stream_id, code))
        stream = self.stream(stream_id)
        if stream is not None:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        self._forget(stream)
        stream.out.clear()
        self.events.append((Event.RESET, stream, b""))

    def _end(self, stream: Stream, block: bytes) -> None:
        """Sends the last header block, and closes the peer's side where it is open."""
        self._out.append(frames.frame(frames.HEADERS, frames.END_STREAM | frames.END_HEADERS, stream.id, block))
        if not stream.ended:
            self._out.append(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.closed = True
        self._buffered -= stream.buffered
        stream.buffer = b""
        stream.unread.clear()
        del self.streams[stream.id]
        self._blocked.pop(stream.id, None)

    def _pump(self, stream: Stream) -> None:
        """Sends what waits in a stream as far as both windows go."""
        out = stream.out
        while out:
            room = min(self._send_window, stream.send_window, self._frame_size)
            if room <= 0:
                self._blocked[stream.id] = stream
                return
            payload = out[0]
            if len(payload) > room:
                out[0] = payload[room:]
                payload = payload[:room]
            else:
                out.popleft()
            self._send_window -= len(payload)
            stream.send_window -= len(payload)
            self._out.append(frames.frame(frames.DATA, 0, stream.id, payload))
        if self._blocked.pop(stream.id, None) is not None:
            self.events.append((Event.DRAINED, stream, b""))
        if stream.trailers:
            self._end(stream, stream.trailers)

    def _glitch(self) -> None:
        self._glitches += 1
        if self._glitches > self._limits.max_glitches:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring no work")

    def forgive(self) -> None:
        """Called once in a while: what is spread over time is no flood."""
        self._glitches = 0


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "padding larger than its frame")
    return payload[1 : len(payload) - payload[0]]
