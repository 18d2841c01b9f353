"""One HTTP/2 connection, the server's side: RFC 9113 as far as gRPC uses it.

`receive` reads bytes from the socket and adds calls and events. The application answers with `respond`, `send`,
`finish` and `fail_stream`. `output` returns the bytes for the socket. This module reads frames and holds the fast path:
unary calls of one HEADERS and few DATA frames, blocks of such calls, and DATA frames of streams. All other frames go to
`receiving` and `control`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from common.http2 import frames
from common.http2.frames import ErrorCode, ProtocolError
from server.http2 import blocks
from server.http2.blocks import CREDIT_WORD, MIN_COLUMNAR_CALLS, Block, Bytes, CallLayout
from server.http2.bodies import RECEIVED_FRAME_SIZE, Bodies
from server.http2.control import Control
from server.http2.headers import CallPolicy, Head
from server.http2.inflating import InflateBudget
from server.http2.limits import Limits
from server.http2.responding import Responding
from server.http2.sending import Event
from server.http2.stream import FRAME_WEIGHT, MAX_SMALL_CHUNKS, PREFIX, Stream, join_small_chunks

__all__ = ["Connection", "Event", "Limits"]

# A smaller read is joined as a whole with the rest of the last read.
MIN_SPLIT_BYTES = 4096
MIN_COLUMNAR_BYTES = 32 * MIN_COLUMNAR_CALLS  # a smaller read cannot hold a block of calls
MIN_BYTES_PER_S = 1024  # minimum rate of a frame or header block after its timeout
MAX_WORK = 8192  # per read, about 5 ms; a read of 256 KB can hold 28,000 frames
SLOW_WORK, HEADERS_WORK = 6, 80  # measured: a frame on the slow path, a header block
HTTP1_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE ")
HTTP1_TEXT = b"This port speaks gRPC over HTTP/2. Use a gRPC client, or REST on the port of the gateway.\n"
HTTP1_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(HTTP1_TEXT), HTTP1_TEXT)
)
RETRY_BYTES = 1024  # skipped after a call that begins no block, before the next attempt
CREDIT_BYTES = 13  # a WINDOW_UPDATE frame
MIN_BODY_BYTES = 9 + PREFIX  # a DATA frame with an empty message
_PREFACE = frames.PREFACE
_unpack = frames.HEADER.unpack_from
_pack = frames.HEADER.pack
_pack_message = frames.MESSAGE.pack
_unpack_message = frames.MESSAGE.unpack_from
_unpack_word = struct.Struct(">I").unpack_from


class Connection(Bodies, Control, Responding):
    __slots__ = (
        "_missing", "_partial_bytes", "_partial_since_ns", "_rest", "_rest_bytes",
        "_started", "_window", "blocks", "has_more", "work",
    )  # fmt: skip

    def __init__(
        self, methods: Mapping[bytes, Any], gate: CallPolicy, limits: Limits, budget: InflateBudget | None = None
    ) -> None:
        """methods: `Head.method` for each path. budget: shared by all connections of an event loop."""
        super().__init__(methods, gate, limits, budget or InflateBudget())
        self.blocks: list[Block] = []  # whole calls with identical byte layout
        # Begin of the unfinished preface, frame or header block, or the last restart of its clock.
        self._partial_since_ns: int | None = None
        self._partial_bytes = 0  # received since then
        self._rest: list[bytes | memoryview] = []  # chunks of the incomplete frame
        self._rest_bytes = 0
        self._missing = 0  # bytes until the preface, the frame's header or the frame is complete
        self.work = 0  # of the last read, in units of a frame on the fast path
        self.has_more = False  # the last read ended at MAX_WORK; `receive` without bytes continues it
        self._started = False
        values = {
            frames.MAX_CONCURRENT_STREAMS: limits.max_streams,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window,
            frames.MAX_FRAME_SIZE: RECEIVED_FRAME_SIZE,
            frames.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        }
        self._window = max(16 * limits.stream_window, 4 * 1024 * 1024)
        first = self._window - frames.DEFAULT_WINDOW
        self._out += [frames.settings(values), frames.window_update(0, first)]

    def receive(self, data: bytes, now_ns: int) -> None:
        """Reads bytes of the socket; adds calls and events. Raises ProtocolError if the peer breaks the protocol."""
        self.work, self.has_more = 0, False
        self._now_ns = now_ns
        if self._partial_since_ns is None and self._started:
            at = self._frames(data, 0)
        else:
            self._partial_bytes += len(data)
            joined = self._join_rest(data, now_ns)
            if joined is None:
                return
            data, at = joined
            at = self._frames(data, at)
        if self._new_views:
            self._copy_views()
        if self._new_deadlines:
            self._watch_deadlines()
        if at < len(data) or self._open_header_block is not None:
            self._keep_rest(data, at, len(data), now_ns)
        else:
            self._partial_since_ns = None
        if self._unacked_bytes >= self._window // 2:
            self._out.append(frames.window_update(0, self._unacked_bytes))
            self._unacked_bytes = 0

    def _join_rest(self, data: bytes, now_ns: int) -> tuple[bytes, int] | None:
        """The bytes to split into frames, and where to begin; None if the preface or a frame is still incomplete."""
        at = 0
        if self._rest:
            if len(data) < self._missing:
                self._missing -= len(data)
                self._wait_for_more(data)
                return None
            whole, self._rest, self._rest_bytes = self._rest, [], 0
            if self._started and MIN_SPLIT_BYTES <= len(data) > self._missing:
                # Join only the frame that began in the last read: the rest of a large read is not copied.
                at = self._missing
                begun = b"".join((*whole, memoryview(data)[:at]))
                left = self._frames(begun, 0)
                if left < len(begun):  # only its header was complete
                    data, at = begun[left:] + data[at:], 0
            else:
                data = b"".join((*whole, data))
        if not self._started:
            at = self._read_preface(data)
            if not at:
                self._keep_rest(data, 0, len(data), now_ns)
                return None
        return data, at

    def _wait_for_more(self, data: bytes) -> None:
        self._rest.append(data)
        self._rest_bytes += len(data)
        join_small_chunks(self._rest, self._rest_bytes)

    def _frames(self, data: bytes, at: int) -> int:
        """Reads the whole frames in `data` from `at` on; returns the offset of the first incomplete frame."""
        end = len(data)
        cached, begun, asked, streams = (
            self._heads.cached,
            self._headers_received,
            self._awaiting_response,
            self.streams,
        )
        deadlines = self._deadlines
        may_hold_block = end - at >= MIN_COLUMNAR_BYTES
        next_try = at  # offset of the next attempt at a block
        work = slow_work = 0
        last_stream: Stream | None = None  # stream of the last DATA frame
        last_call = at  # offset of the last HEADERS; the distance to the next HEADERS estimates a call's size
        for work in range(MAX_WORK):
            if end - at < 9:
                break
            head, flags, stream_id = _unpack(data, at)
            length, kind = head >> 8, head & 0xFF
            if length > RECEIVED_FRAME_SIZE:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin = at + 9
            until = begin + length
            if until > end:
                break
            if kind == 1 and may_hold_block:
                call_bytes, last_call = at - last_call, at
                if at >= next_try and end - at >= max(MIN_COLUMNAR_BYTES, MIN_COLUMNAR_CALLS * call_bytes):
                    after = self._block_of_calls(data, at)
                    if after > at:
                        at = last_call = after
                        continue
                    next_try = at + RETRY_BYTES
            at = until
            if kind == 0:
                if (
                    flags == 0
                    and (stream := streams.get(stream_id)) is not None
                    and stream.fast_path
                    and 0 < length <= stream.receive_window
                    and self._buffered < self._limits.max_buffered
                    and self._open_header_block is None
                ):
                    self._unacked_bytes += length
                    self._buffered += length + FRAME_WEIGHT
                    stream.receive_window -= length
                    stream.size += length
                    stream.unread.append(data[begin:until])
                    if stream is not last_stream:
                        if last_stream is not None and len(last_stream.unread) > MAX_SMALL_CHUNKS:
                            self._join_unread(last_stream)
                        last_stream = stream
                    if not stream.data_event_pending:
                        stream.data_event_pending = True
                        self.events.append((Event.DATA, stream, b""))
                    continue
                if flags < 2 and (call := begun.get(stream_id)) is not None:
                    if (
                        flags == 1
                        and call.content_length in (None, length)
                        and PREFIX <= length <= self._max_fast_body
                        and _unpack_message(data, begin) == (0, length - PREFIX)
                        and self._open_header_block is None
                        and not (deadlines and stream_id in deadlines)
                    ):
                        self._unacked_bytes += length
                        asked[stream_id] = begun.pop(stream_id)
                        self.calls.append((stream_id, call, data[begin + PREFIX : until]))
                        continue
                    if self._on_partial_body(stream_id, flags, data, begin, until):
                        continue
            elif kind == 1:
                # The usual unary call: HEADERS without END_STREAM, then DATA with one whole message and END_STREAM.
                if flags == 4:
                    call = cached.get(data[begin:until])
                    if call is not None and call.fast_path and self._may_open(stream_id):
                        self._last_id = stream_id
                        if end - at >= MIN_BODY_BYTES and (after := self._rest_of_call(data, at, stream_id, call)):
                            at = after
                        else:
                            begun[stream_id] = call
                            if call.timeout_ns >= 0:
                                self._new_deadlines.append(stream_id)
                        continue
            elif kind == 8 and stream_id == 0 and length == 4 and self._grow_connection(data, begin):
                continue
            self._on_slow_path(kind, flags, stream_id & frames.MAX_WINDOW, data[begin:until])
            slow_work += HEADERS_WORK if kind == 1 or kind == 9 else SLOW_WORK
            if work + slow_work >= MAX_WORK:
                break
        if last_stream is not None and len(last_stream.unread) > MAX_SMALL_CHUNKS:
            self._join_unread(last_stream)
        work += slow_work + 1
        self.work += work
        self.has_more = work >= MAX_WORK and end - at >= 9
        return at

    def _rest_of_call(self, data: bytes, at: int, stream_id: int, call: Head) -> int:
        """Reads the frames of a call behind its HEADERS; returns the offset of the next frame.

        0 if the read does not hold them, or if they are other frames than DATA, or WINDOW_UPDATE and DATA as gRPC's own
        clients send them.
        """
        word, flags, data_id = _unpack(data, at)
        increment = 0
        if word == CREDIT_WORD and data_id == stream_id and len(data) - at >= CREDIT_BYTES + MIN_BODY_BYTES:
            increment = _unpack_word(data, at + 9)[0]
            if not 0 < increment <= frames.MAX_WINDOW - self._initial_send:
                return 0
            at += CREDIT_BYTES
            word, flags, data_id = _unpack(data, at)
        length, begin = word >> 8, at + 9
        until: int = begin + length
        if (
            data_id != stream_id
            or word & 0xFF != frames.DATA
            or flags != frames.END_STREAM
            or until > len(data)
            or not PREFIX <= length <= self._max_fast_body
            or call.content_length not in (None, length)
            or _unpack_message(data, begin) != (0, length - PREFIX)
        ):
            return 0
        if increment:
            self._extra_credit[stream_id] = increment
        self._unacked_bytes += length
        self._awaiting_response[stream_id] = call
        self.calls.append((stream_id, call, data[begin + PREFIX : until]))
        return until

    def _grow_connection(self, data: bytes, begin: int) -> bool:
        """Applies WINDOW_UPDATE of the connection; False if the slow path must refuse it or send queued output."""
        increment: int = _unpack_word(data, begin)[0]
        if (
            not 0 < increment <= frames.MAX_WINDOW - self._send_window
            or self._blocked_on_connection_window
            or self._open_header_block is not None
            or not self._settings_received
        ):
            return False
        self._send_window += increment
        return True

    def _block_of_calls(self, data: bytes, at: int) -> int:
        """Reads the calls from `at` on that share a layout, if there are enough; returns the offset of the next frame.

        `_frames` validates a single call by the same rules.
        """
        word, flags, stream_id = _unpack(data, at)
        header = word >> 8
        if flags != frames.END_HEADERS or not self._may_open(stream_id):
            return at
        call = self._heads.cached.get(data[at + 9 : at + 9 + header])
        layout = blocks.call_layout(data, at, header, stream_id) if call is not None and call.fast_path else None
        if call is None or layout is None or layout.body > self._max_fast_body:
            return at
        last = at + (MIN_COLUMNAR_CALLS - 1) * layout.period
        limit = min(self._limits.max_streams - self.open_calls, (frames.MAX_WINDOW - stream_id) // 2)
        if (
            call.content_length not in (None, layout.body)
            or limit < MIN_COLUMNAR_CALLS
            or last + layout.period > len(data)
            or _unpack(data, last) != (word, flags, stream_id + 2 * (MIN_COLUMNAR_CALLS - 1))
        ):
            return at
        rows = blocks.matching_prefix(data, at, limit, layout, stream_id)
        ids = range(stream_id, stream_id + 2 * len(rows), 2)
        if len(rows) < MIN_COLUMNAR_CALLS or not self._credit_block(rows, layout, ids):
            return at
        self._last_id = ids[-1]
        self._unacked_bytes += len(rows) * layout.body
        self._awaiting_response.update(dict.fromkeys(ids, call))
        messages = rows[:, layout.message : layout.message + layout.body - PREFIX]
        self.blocks.append(Block(stream_id, call, messages))
        return at + rows.size

    def _credit_block(self, rows: Bytes, layout: CallLayout, ids: range) -> bool:
        """Applies the increments of a block of calls. Returns False, with no change, if the slow path must do it."""
        stream_credit = blocks.credit(rows, layout.stream_credits)
        connection_credit = blocks.credit(rows, layout.connection_credits)
        if stream_credit is not None and stream_credit.max() > frames.MAX_WINDOW - self._initial_send:
            return False
        if connection_credit is not None:
            total = int(connection_credit.sum())
            if self._blocked_on_connection_window or total > frames.MAX_WINDOW - self._send_window:
                return False
            self._send_window += total
        if stream_credit is not None:
            self._extra_credit.update(zip(ids, stream_credit.tolist(), strict=True))
        return True

    def _join_unread(self, stream: Stream) -> None:
        before = stream.weight
        join_small_chunks(stream.unread, stream.size)
        self._buffered += stream.weight - before

    def _read_preface(self, data: bytes) -> int:
        """The offset of the first frame; 0 if the preface is incomplete."""
        if not data.startswith(_PREFACE):
            if not _PREFACE.startswith(data):
                if any(data.startswith(method) or method.startswith(data) for method in HTTP1_METHODS):
                    self._out = [HTTP1_ANSWER]
                    self._is_http1 = True
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "expected the preface of HTTP/2")
            return 0
        self._started = True
        return len(_PREFACE)

    def _keep_rest(self, data: bytes, at: int, end: int, now_ns: int) -> None:
        """Keeps the bytes of an incomplete frame, and measures the peer's progress."""
        size = end - at
        if size:
            self._rest = [data[at:] if at else data]
            self._rest_bytes = size
            if not self._started:
                self._missing = 1
            else:
                missing = 9 - size if size < 9 else 9 + (_unpack(self._rest[0])[0] >> 8) - size
                self._missing = max(0, missing)  # 0: the last read ended at MAX_WORK
        if self._open_header_block is not None or (size and not at):
            if self._partial_since_ns is None:
                self.restart_clock(now_ns)
        elif size:
            self.restart_clock(now_ns)
        else:
            self._partial_since_ns = None

    def restart_clock(self, now_ns: int) -> None:
        """Measures the peer's progress from now on: a frame began, or the server did not read for a while."""
        self._partial_since_ns = now_ns
        self._partial_bytes = 0

    def is_stalled(self, now_ns: int, timeout_ns: int) -> bool:
        """Whether an unfinished frame or header block is past its timeout and slower than MIN_BYTES_PER_S."""
        if self._partial_since_ns is None or now_ns - self._partial_since_ns <= timeout_ns:
            return False
        if self._partial_bytes * 1_000_000_000 < MIN_BYTES_PER_S * (now_ns - self._partial_since_ns):
            return True
        self.restart_clock(now_ns)
        return False

    def excuse(self, now_ns: int) -> None:
        """The server did not read for a while: the time does not count against the peer."""
        if self._partial_since_ns is not None:
            self.restart_clock(now_ns)

    def _may_open(self, stream_id: int) -> bool:
        return (
            stream_id == self._last_id + 2
            and self._open_header_block is None
            and not self.closing
            and stream_id <= frames.MAX_WINDOW
            and len(self.streams) + len(self._headers_received) + len(self._awaiting_response)
            < self._limits.max_streams
        )

    def _on_slow_path(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Handles a frame that the fast path did not read."""
        if self._open_header_block is not None and (
            kind != frames.CONTINUATION or stream_id != self._open_header_block[0]
        ):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block was left open")
        if not self._settings_received:
            if kind != frames.SETTINGS:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "expected SETTINGS as the first frame")
            self._settings_received = True
        handler = _HANDLERS[kind] if kind < len(_HANDLERS) else Connection._on_unknown
        handler(self, flags, stream_id, payload)

    def forget_partial(self) -> None:
        """Called after a fault of the peer: stops the clock of its unfinished frame."""
        self._partial_since_ns = None

    @property
    def has_whole_calls(self) -> bool:
        """Whether a whole unary call awaits its response. A response that waits for a window does not count."""
        if self._awaiting_response:
            return True
        return any(stream.unary and stream.remote_closed and not stream.out for stream in self.streams.values())

    def abandon(self) -> list[Stream]:
        """Closes all calls of a lost connection; returns the calls that had a Stream."""
        streams = list(self.streams.values())
        for stream in streams:
            self._close(stream)
        self._headers_received.clear()
        self._awaiting_response.clear()
        self._extra_credit.clear()
        self._partial_bodies.clear()
        self._deadlines.clear()
        return streams


# Indexed by frame type.
_HANDLERS = (
    Connection._on_data,
    Connection._on_headers,
    Connection._on_priority,
    Connection._on_reset,
    Connection._on_settings,
    Connection._on_push_promise,
    Connection._on_ping,
    Connection._on_goaway,
    Connection._on_window_update,
    Connection._on_continuation,
)
