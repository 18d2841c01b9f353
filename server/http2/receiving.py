"""Frames of calls on the slow path: header blocks, data and trailers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.http2 import frames
from common.http2.frames import ErrorCode, ProtocolError
from server.http2.headers import NO_TIMEOUT, STREAMING, CallPolicy, Head, HeadReader, MalformedError
from server.http2.inflating import InflateBudget
from server.http2.limits import Limits
from server.http2.sending import Event, Sending
from server.http2.status import RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNIMPLEMENTED
from server.http2.stream import Stream

MAX_SKIPPED_IDS = 256


class Receiving(Sending):
    __slots__ = (
        "_heads", "_new_deadlines", "_open_header_block", "_settings_received", "_skipped_ids", "_unacked_bytes",
        "next_deadline_ns",
    )  # fmt: skip

    def __init__(self, methods: Mapping[bytes, Any], gate: CallPolicy, limits: Limits, budget: InflateBudget) -> None:
        super().__init__(limits, budget)
        self._heads = HeadReader(methods, gate, limits.max_header_bytes)
        self._settings_received = False  # the peer's first frame must be SETTINGS
        # A header block that CONTINUATION extends: stream id, flags, bytes.
        self._open_header_block: tuple[int, int, bytearray] | None = None
        # (last id, next id): the peer skipped the ids between them, which closes these streams.
        self._skipped_ids: list[tuple[int, int]] = []
        self._new_deadlines: list[int] = []  # calls with a deadline whose headers are in the current read
        self.next_deadline_ns: int | None = None  # `expire` is due then, or later
        self._unacked_bytes = 0  # received bytes that are not yet returned to the connection's window

    def forget_heads(self) -> None:
        """Called after a change of the call policy. Open calls continue."""
        self._heads.forget()

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} is not a client's")
        payload = _unpadded(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if frames.word(payload[:4]) == stream_id:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._on_header_block(stream_id, payload, bool(flags & frames.END_STREAM))
        else:
            self._open_header_block = (stream_id, flags, bytearray(payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._open_header_block is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of no header block")
        stream_id, first_flags, block = self._open_header_block
        block += payload
        self._count_abuse()
        # Huffman coding can make a block larger than its list, but never four times larger.
        if len(block) > 4 * self._limits.max_header_bytes:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & frames.END_HEADERS:
            self._open_header_block = None
            self._on_header_block(stream_id, bytes(block), bool(first_flags & frames.END_STREAM))

    def _on_header_block(self, stream_id: int, block: bytes, ended: bool) -> None:
        last_id = self._last_id
        if stream_id <= last_id:
            self._on_trailers(stream_id, block, ended)
            return
        self._last_id = stream_id
        if stream_id != last_id + 2:
            self._count_abuse()
            self._skipped_ids = [*self._skipped_ids[-MAX_SKIPPED_IDS:], (last_id, stream_id)]
        try:
            head = self._heads.read(block)
        except MalformedError:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        if self.closing or self.open_calls >= self._limits.max_streams:
            self._reset(stream_id, ErrorCode.REFUSED_STREAM)  # the client may safely retry on another connection
            return
        self._open(self._new_stream(stream_id, head, ended=False), head, ended)

    def _open(self, stream: Stream, head: Head, ended: bool) -> None:
        limits = self._limits
        stream.remote_closed = ended  # `finish` below needs to know whether the peer has ended its side
        if head.unsupported:
            pass  # answered after its body, which is discarded
        elif head.size > limits.max_header_bytes:
            text = f"metadata of {head.size} bytes; at most {limits.max_header_bytes} are taken"
            self.finish(stream, RESOURCE_EXHAUSTED, text)
        elif head.refusal:  # before the method: a caller without a token cannot probe for methods
            self.finish(stream, UNAUTHENTICATED, head.refusal)
        elif head.method is None:
            path = head.path[:100].decode("ascii", "backslashreplace")
            self.finish(stream, UNIMPLEMENTED, f"no method {path}")
        elif head.kind == STREAMING:
            stream.unary = False
            stream.fast_path = head.content_length is None and not ended
            self.events.append((Event.OPENED, stream, b""))
        if ended and not stream.closed:
            self._on_end(stream)
        elif stream.unary and head.timeout_ns != NO_TIMEOUT and not head.unsupported:
            self._new_deadlines.append(stream.id)

    def _watch_deadlines(self) -> None:
        """Called at the end of a read: most calls with a deadline are whole by then and need no entry."""
        for stream_id in self._new_deadlines:
            head = self._headers_received.get(stream_id)
            if head is None:
                stream = self.streams.get(stream_id)
                if stream is None or stream.remote_closed:
                    continue
                head = stream.head
            deadline_ns = self._deadlines[stream_id] = self._now_ns + head.timeout_ns
            if self.next_deadline_ns is None or deadline_ns < self.next_deadline_ns:
                self.next_deadline_ns = deadline_ns
        self._new_deadlines.clear()

    def expire(self, now_ns: int) -> None:
        """Adds an event for each unary call whose deadline has passed before its message was whole."""
        due = [stream_id for stream_id, deadline_ns in self._deadlines.items() if deadline_ns <= now_ns]
        for stream_id in due:
            stream = self.promote(stream_id)
            del self._deadlines[stream_id]
            if stream is not None:
                self.events.append((Event.EXPIRED, stream, b""))
        self.next_deadline_ns = min(self._deadlines.values(), default=None)

    def _on_trailers(self, stream_id: int, block: bytes, ended: bool) -> None:
        """Reads request trailers, which gRPC ignores. HEADERS on a closed stream is an error of the connection."""
        has_pseudo = self._heads.skip(block)
        stream = self.promote(stream_id)
        if stream is not None and stream.remote_closed:
            self._reset(stream_id, ErrorCode.STREAM_CLOSED)
        elif stream is not None and (not ended or has_pseudo):
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif stream is not None:
            self._on_end(stream)
        elif stream_id in self._locally_reset:
            self._count_abuse()
            self._peer_ended(stream_id)
        else:
            passed_over = any(low < stream_id < high for low, high in self._skipped_ids)
            code = ErrorCode.PROTOCOL_ERROR if passed_over else ErrorCode.STREAM_CLOSED
            raise ProtocolError(code, f"HEADERS on stream {stream_id}, which is closed")

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which is idle")
        self._unacked_bytes += len(payload)
        body = _unpadded(flags, payload)
        ended = bool(flags & frames.END_STREAM)
        if not (body or ended):
            self._count_abuse()
        stream = self.promote(stream_id)
        if stream is None and stream_id in self._locally_reset:
            self._count_abuse()
            if ended:
                self._peer_ended(stream_id)
        elif stream is None or stream.remote_closed:
            self._reset(stream_id, ErrorCode.STREAM_CLOSED)
        elif len(payload) > stream.receive_window:
            self._reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            stream.receive_window -= len(payload)
            stream.received += len(body)
            self._on_body(stream, body, ended)

    def _on_body(self, stream: Stream, body: bytes, ended: bool) -> None:
        if body and not stream.head.unsupported:
            before = stream.weight
            stream.append(body)
            self._buffered += stream.weight - before
            if self._buffered > self._limits.max_buffered:
                stream.remote_closed = ended
                self._fail_call(stream, RESOURCE_EXHAUSTED, "too many bytes of messages are waiting on this connection")
                return
        if ended:
            self._on_end(stream)
        elif stream.unary:
            self.open_window(stream)
        else:
            self.events.append((Event.DATA, stream, b""))

    def _on_end(self, stream: Stream) -> None:
        """Handles the end of the peer's side of a call."""
        stream.remote_closed, stream.fast_path = True, False
        self._deadlines.pop(stream.id, None)
        if stream.head.content_length not in (None, stream.received):
            self._reset(stream.id, ErrorCode.PROTOCOL_ERROR)  # malformed: RFC 9113, section 8.1.1
        elif stream.head.unsupported:
            self._not_grpc(stream)
        elif stream.unary:
            self._on_unary_end(stream)
        else:
            self.events.append((Event.DATA, stream, b""))


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "padding larger than its frame")
    return payload[1 : len(payload) - payload[0]]
