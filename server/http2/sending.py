"""Output of a connection: responses within the peer's windows, ends of calls, and GOAWAY."""

from __future__ import annotations

from enum import IntEnum

from common.http2 import frames
from common.http2.frames import MESSAGE, ErrorCode, ProtocolError
from server.http2.blocks import Bytes
from server.http2.headers import NO_TABLE, NOT_GRPC, NOT_GRPC_TEXT, RESPONSE, Head, failure, fitted
from server.http2.inflating import InflateBudget
from server.http2.limits import Limits
from server.http2.status import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, MessageError
from server.http2.stream import FRAME_WEIGHT, PREFIX, PartialMessage, Stream

MAX_LOCAL_RESETS = 1024
RESTORED_BY_CALL = 4  # abuse score that one answered call removes: so many cancelled calls
MAX_LIST_OVERHEAD = 256  # header list minus block, at most: 6 fields with names of the static table
_SPENT = InflateBudget(0)
_pack = frames.HEADER.pack
_pack_message = frames.MESSAGE.pack


def framed(message: bytes) -> bytes:
    """A message behind its prefix, not compressed."""
    return _pack_message(0, len(message)) + message


class Event(IntEnum):
    REQUEST = 1  # a unary call, whole: (stream, message)
    OPENED = 2  # a streaming call
    DATA = 3  # a streaming call has more messages, or the peer has ended its side
    RESET = 4  # the call ended early: the peer cancelled it, or broke the protocol
    DRAINED = 5  # the queued output of a call was sent
    EXPIRED = 6  # the deadline of a unary call passed before its message was whole


class Sending:
    """State and output of one connection.

    A call is in one of these states. A fast-path call is only a dict entry. If it needs the slow path, promote() makes
    it a Stream.

    | state | where | left when |
    |---|---|---|
    | headers received | _headers_received | the message is whole, or promote() |
    | body received in part | also _partial_bodies | the message is whole, or promote() |
    | awaiting response | _awaiting_response | answered or failed: closed; or promote() |
    | open | streams, not remote_closed | the peer ends its side |
    | half closed (remote) | streams, remote_closed | trailers are sent |
    | locally reset | _locally_reset | it is the oldest of too many; until then late frames are ignored |
    | closed | nowhere, id <= _last_id | - |

    promote() moves a call from the first two states to open, and from the third to half closed. RST_STREAM of the peer
    moves every state to closed. Three more dicts refer to open calls: _extra_credit has the growth of a fast-path
    call's send window, _deadlines has the deadline of a unary call whose message was incomplete at the end of a read,
    and inflating_calls has the streams whose next message waits for the budget of decompression.
    """

    # More than 30 attributes: without slots, CPython would look each of them up in a dict (a fifth of a call's time).
    __slots__ = (
        "_abuse_score", "_awaiting_response", "_blocked_on_connection_window", "_budget", "_buffered", "_deadlines",
        "_drain_pinged", "_extra_credit", "_fast_answer_bytes", "_frame_size", "_header_table_size",
        "_headers_received", "_held_open", "_initial_send", "_is_http1", "_last_id", "_limits", "_locally_reset",
        "_max_list_bytes", "_now_ns", "_out", "_partial_bodies", "_send_window", "_table_update_due", "_to_reset",
        "_unsent", "closing", "events", "inflating_calls", "resets", "streams",
    )  # fmt: skip

    def __init__(self, limits: Limits, budget: InflateBudget) -> None:
        self.events: list[tuple[Event, Stream, bytes]] = []
        self.streams: dict[int, Stream] = {}
        self.closing = False  # GOAWAY was sent; no new calls
        self._headers_received: dict[int, Head] = {}  # fast path: headers received
        self._partial_bodies: dict[int, PartialMessage] = {}  # fast path: the received part of the message
        self._awaiting_response: dict[int, Head] = {}  # fast path: message received, no response yet
        self._extra_credit: dict[int, int] = {}  # fast path: growth of the call's send window
        self._limits = limits
        self._deadlines: dict[int, int] = {}  # of unary calls with an incomplete message at the end of a read
        self._budget = budget
        self.resets = 0  # RST_STREAM frames of the peer
        self.inflating_calls: dict[int, Stream] = {}  # streams that wait for the budget, in order; the first has begun
        self._out: list[bytes] = []
        self._last_id = -1
        self._locally_reset: dict[int, None] = {}  # ended by us before the peer's end: late frames are valid
        # Locally reset calls whose peer has not ended its side. The second `reset_held_open` sends RST_STREAM.
        self._held_open: dict[int, None] = {}
        self._to_reset: dict[int, None] = {}
        self._send_window = frames.DEFAULT_WINDOW
        self._initial_send = frames.DEFAULT_WINDOW
        self._frame_size = frames.FRAME_SIZE
        self._header_table_size = frames.HEADER_TABLE  # of the peer's decoder; our blocks use no dynamic table
        self._table_update_due = False  # the next header block confirms a smaller table
        self._max_list_bytes = frames.MAX_WINDOW  # of one header list that the peer accepts
        # The largest answer, with its prefix, that the fast path writes; 0 while a table update is due.
        self._fast_answer_bytes = frames.FRAME_SIZE
        self._blocked_on_connection_window: dict[int, Stream] = {}  # streams in order of sending
        self._buffered = 0  # weight of all streams
        self._unsent = 0  # queued bytes of all streams
        self._abuse_score = 0
        self._drain_pinged = False
        self._is_http1 = False  # the peer uses HTTP/1 and got a response in HTTP/1
        self._now_ns = 0  # arrival of the current read

    def output(self) -> bytes:
        """The bytes to send, in order; empty if there are none."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        return data

    @property
    def open_calls(self) -> int:
        return len(self.streams) + len(self._headers_received) + len(self._awaiting_response)

    def _is_idle(self, stream_id: int) -> bool:
        """Whether a stream was never opened: a server opens none, so all even ids are idle."""
        return stream_id > self._last_id or not stream_id & 1

    def promote(self, stream_id: int) -> Stream | None:
        """Moves a call from the fast path to a Stream; None if the call is closed or was never opened."""
        head = self._headers_received.pop(stream_id, None)
        ended = head is None
        if head is None:
            head = self._awaiting_response.pop(stream_id, None)
        if head is None:
            return self.streams.get(stream_id)
        stream = self._new_stream(stream_id, head, ended=ended)
        stream.send_window += self._extra_credit.pop(stream_id, 0)
        if parts := self._partial_bodies.pop(stream_id, None):
            stream.resume(parts)  # `_buffered` already contains its weight
        return stream

    def open_streams(self) -> list[Stream]:
        """Every open call, as a stream."""
        for stream_id in [*self._headers_received, *self._awaiting_response]:
            self.promote(stream_id)
        return list(self.streams.values())

    def _new_stream(self, stream_id: int, head: Head, *, ended: bool) -> Stream:
        limits = self._limits
        stream = Stream(stream_id, head, self._initial_send, limits.stream_window, limits.max_message, self._now_ns)
        stream.remote_closed = ended
        deadline_ns = self._deadlines.get(stream_id)
        if deadline_ns is not None:
            stream.arrived_ns = deadline_ns - head.timeout_ns
        self.streams[stream_id] = stream
        return stream

    # Called by the application.

    def respond(self, stream: Stream, message: bytes) -> None:
        """Sends the response of a unary call, or RESOURCE_EXHAUSTED if the peer leaves too many bytes unread."""
        if self._unsent + len(message) > self._limits.max_unsent:
            self.finish(stream, RESOURCE_EXHAUSTED, f"this connection leaves {self._unsent} bytes of answers unread")
            return
        if self._abuse_score:
            self._count_work(1)
        self.send(stream, framed(message))
        self.finish(stream)

    def send(self, stream: Stream, messages: bytes) -> None:
        """Sends messages, each with its prefix, within the peer's windows; queues the rest in the stream."""
        if stream.closed:
            return
        if not stream.headers_sent:
            self._send_headers(stream.id, RESPONSE)
            stream.headers_sent = True
        self._queue(stream, messages)
        self._pump(stream)

    def finish(self, stream: Stream, code: int = 0, message: str = "", details: bytes = b"") -> None:
        """Ends a call with a status. With code 0, queued output is sent before; else it is dropped."""
        if stream.closed or stream.trailers is not None:
            return
        if not stream.headers_sent and code == 0:
            self._send_headers(stream.id, RESPONSE)
            stream.headers_sent = True
        block = failure(code, message, details, started=stream.headers_sent)
        if stream.out and code == 0:
            stream.trailers = block
        else:
            self._send_trailers(stream, block)

    def fail_stream(self, stream: Stream, block: bytes) -> None:
        """Ends a call that has sent nothing with a prepared header block."""
        if not stream.closed:
            self._send_trailers(stream, block)

    def take_messages(self, stream: Stream, limit: int) -> list[bytes]:
        """Up to `limit` messages of a streaming call. An invalid message ends the call and returns []."""
        before = stream.weight
        stream.data_event_pending = False
        try:
            messages = self._messages(stream, limit)
        except MessageError as error:
            self._buffered += stream.weight - before
            self.finish(stream, error.code, str(error))
            return []
        self._buffered += stream.weight - before
        self.open_window(stream)
        return messages

    def take_single(self, stream: Stream) -> bytes | None:
        """The next message of a streaming call, if it is one whole frame and no other byte is unread.

        Otherwise returns None and takes nothing; `take_messages` handles every case.
        """
        unread = stream.unread
        if len(unread) != 1 or stream.buffer or stream.remote_closed:
            return None
        frame = unread[0]
        size = len(frame)
        if size < PREFIX or MESSAGE.unpack_from(frame) != (0, size - PREFIX) or size > stream.max_message:
            return None
        stream.data_event_pending = False
        stream.unread = []
        stream.size = 0
        self._buffered -= size + FRAME_WEIGHT
        window = self._limits.stream_window
        if window - stream.receive_window >= window // 2:
            self._out.append(frames.window_update(stream.id, window - stream.receive_window))
            stream.receive_window = window
        return bytes(frame[PREFIX:])

    def _messages(self, stream: Stream, limit: int) -> list[bytes]:
        """Inflates messages one after another: at most one is partly inflated. Raises MessageError."""
        messages = stream.take_messages(limit, _SPENT if self.inflating_calls else self._budget)
        if stream.is_inflating:
            self.inflating_calls.setdefault(stream.id, stream)
        return messages

    @property
    def is_inflating(self) -> bool:
        """Whether a message waits for the budget of the next turn."""
        return bool(self.inflating_calls)

    def inflate(self) -> None:
        """Inflates waiting messages until the budget is spent; adds an event for each whole message."""
        while self.inflating_calls and self._budget.left > 0:
            stream = next(iter(self.inflating_calls.values()))
            if not stream.inflate(self._budget):
                return
            del self.inflating_calls[stream.id]
            if stream.unary:
                self._on_unary_end(stream)
            elif not stream.data_event_pending:
                stream.data_event_pending = True
                self.events.append((Event.DATA, stream, b""))

    def _on_unary_end(self, stream: Stream) -> None:
        """Handles the end of a unary call's request, which must be exactly one message."""
        before = stream.weight
        try:
            messages = self._messages(stream, 2)
            if stream.is_inflating:
                stream.put_back(messages)
                self._buffered += stream.weight - before
                return
        except MessageError as error:
            self._buffered += stream.weight - before
            self.finish(stream, error.code, str(error))
            return
        self._buffered += stream.weight - before
        if len(messages) == 1 and not stream.size:
            self.events.append((Event.REQUEST, stream, messages[0]))
            return
        got = "more" if messages else "a part of one" if stream.size else "none"
        self.finish(stream, INVALID_ARGUMENT, f"expected one message, got {got}")

    def peek_rows(self, stream: Stream, limit: int, min_rows: int) -> Bytes | None:
        """As Stream.peek_rows; None also if the next message is invalid, which `take_messages` reports."""
        before = stream.weight
        try:
            return stream.peek_rows(limit, min_rows)
        except MessageError:
            return None
        finally:
            self._buffered += stream.weight - before

    def consume(self, stream: Stream, size: int) -> None:
        """Takes the first `size` bytes, which `peek_rows` returned."""
        before = stream.weight
        stream.data_event_pending = False
        stream.consume(size)
        self._buffered += stream.weight - before
        self.open_window(stream)

    def put_back(self, stream: Stream, messages: list[bytes]) -> None:
        """Puts taken messages back to the front of the stream."""
        before = stream.weight
        stream.put_back(messages)
        self._buffered += stream.weight - before

    def open_window(self, stream: Stream) -> None:
        """Restores the receive window, less unread bytes; enlarges it if a message that has begun needs more."""
        if stream.remote_closed or stream.closed:
            return
        before = stream.weight
        try:
            missing = stream.missing
        except MessageError as error:
            self._buffered += stream.weight - before
            if stream.unary:
                self._fail_call(stream, error.code, str(error))
            return  # `take_messages` ends a streaming call, after the responses to earlier messages
        self._buffered += stream.weight - before
        window = self._limits.stream_window
        room = max(window - stream.size, missing)
        if room - stream.receive_window >= window // 2 or missing > stream.receive_window:
            self._out.append(frames.window_update(stream.id, room - stream.receive_window))
            stream.receive_window = room

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Sends GOAWAY (RFC 9113, section 6.8).

        Without an error, a warning and a PING are sent first. The reply to the PING makes Control send the GOAWAY that
        names the last stream.
        """
        if self._is_http1:
            return
        if code != ErrorCode.NO_ERROR:
            self._out.append(frames.goaway(max(0, self._last_id), code, reason))
            self.closing = True
        elif not self._drain_pinged:
            self._drain_pinged = True
            self._out.append(frames.goaway(frames.MAX_WINDOW, code, reason))
            self._out.append(frames.frame(frames.PING, 0, 0, b"draining"))

    def reset_abuse_score(self) -> None:
        """Called about once a second, so that the score bounds a rate."""
        self._abuse_score = 0

    @property
    def is_done(self) -> bool:
        """Whether GOAWAY was sent, no call is open, and the peer has closed its side of every call."""
        return self.closing and not (self.open_calls or self._held_open or self._to_reset)

    def reset_held_open(self) -> bool:
        """Called once a second: sends RST_STREAM for calls that ended a second ago if the peer's side is open."""
        some = bool(self._to_reset)
        for stream_id in self._to_reset:
            self._out.append(frames.rst_stream(stream_id, ErrorCode.NO_ERROR))
        self._to_reset, self._held_open = self._held_open, {}
        return some

    # Ends of calls.

    def _fail_call(self, stream: Stream, code: int, text: str) -> None:
        """Ends a call for a fault in its messages, and adds an event."""
        self.finish(stream, code, text)
        self.events.append((Event.RESET, stream, b""))

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        """Ends a call with RST_STREAM for a fault of the peer."""
        self._count_abuse()
        self._out.append(frames.rst_stream(stream_id, code))
        self._remember_local_reset(stream_id)
        stream = self.promote(stream_id)
        if stream is not None:
            self._abandon_call(stream)

    def _abandon_call(self, stream: Stream) -> None:
        self._close(stream)
        self.events.append((Event.RESET, stream, b""))

    def _send_trailers(self, stream: Stream, block: bytes) -> None:
        """Sends the last header block.

        Most peers then close their side. If a peer does not, RFC 9113, section 8.1, allows RST_STREAM. It is sent a
        second later: HAProxy discards a status that it reads together with RST_STREAM.
        """
        self._send_headers(stream.id, block, frames.END_STREAM)
        if not stream.remote_closed:
            self._held_open[stream.id] = None
            if len(self._held_open) > MAX_LOCAL_RESETS:
                oldest = next(iter(self._held_open))
                del self._held_open[oldest]
                self._out.append(frames.rst_stream(oldest, ErrorCode.NO_ERROR))
            self._remember_local_reset(stream.id)
        self._close(stream)

    def _peer_ended(self, stream_id: int) -> None:
        """Called if the peer closes its side of a call that we have ended."""
        self._held_open.pop(stream_id, None)
        self._to_reset.pop(stream_id, None)

    def _not_grpc(self, stream: Stream) -> None:
        """Sends HTTP status 415, as gRPC over HTTP/2 requires, and a line of text."""
        self._send_headers(stream.id, NOT_GRPC)
        stream.trailers = b""
        self._queue(stream, NOT_GRPC_TEXT)
        self._pump(stream)

    def _send_headers(self, stream_id: int, block: bytes, flags: int = 0) -> None:
        """Sends a header block that respects the peer's SETTINGS. Blocks of the fast path always do."""
        if not self._may_list(block):
            block = fitted(block, self._max_list_bytes)
        if self._table_update_due:
            block = NO_TABLE + block
            self._table_update_due = False
            self._set_fast_answer_bytes()
        size, kind = self._frame_size, frames.HEADERS
        for at in range(0, len(block), size):
            last = frames.END_HEADERS if at + size >= len(block) else 0
            self._out.append(frames.frame(kind, flags | last, stream_id, block[at : at + size]))
            flags, kind = 0, frames.CONTINUATION

    def _may_list(self, block: bytes) -> bool:
        """Whether the header list of a block is surely within the peer's limit, which adds 32 bytes per field."""
        return len(block) + MAX_LIST_OVERHEAD <= self._max_list_bytes

    def _set_fast_answer_bytes(self) -> None:
        self._fast_answer_bytes = 0 if self._table_update_due else min(self._initial_send, frames.FRAME_SIZE)

    def _close(self, stream: Stream) -> None:
        stream.closed = True
        self._buffered -= stream.weight
        self._unsent -= stream.unsent
        stream.clear()
        del self.streams[stream.id]
        self.inflating_calls.pop(stream.id, None)
        self._deadlines.pop(stream.id, None)
        self._blocked_on_connection_window.pop(stream.id, None)

    def _remember_local_reset(self, stream_id: int) -> None:
        cut = self._locally_reset
        cut[stream_id] = None
        if len(cut) > MAX_LOCAL_RESETS:
            del cut[next(iter(cut))]

    # Flow control.

    def _queue(self, stream: Stream, payload: bytes) -> None:
        stream.out.append(payload)
        stream.unsent += len(payload)
        self._unsent += len(payload)

    def _pump(self, stream: Stream, max_frames: int = -1) -> None:
        """Sends queued output of a stream within both windows. max_frames: negative for no limit."""
        out, before = stream.out, stream.unsent
        while out and max_frames:
            max_frames -= 1
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
            self._wait_for_window(stream)
            return
        self._blocked_on_connection_window.pop(stream.id, None)
        if stream.notify_when_drained:
            stream.notify_when_drained = False
            self.events.append((Event.DRAINED, stream, b""))
        if stream.trailers:
            self._send_trailers(stream, stream.trailers)
        elif stream.trailers is not None:
            self._close(stream)

    def _wait_for_window(self, stream: Stream) -> None:
        stream.notify_when_drained = True
        if stream.send_window > 0:
            self._blocked_on_connection_window[stream.id] = stream
        else:
            self._blocked_on_connection_window.pop(stream.id, None)

    def _pump_blocked(self) -> None:
        """Called after the connection's window grew: blocked streams send one frame each in turn."""
        blocked = self._blocked_on_connection_window
        while self._send_window > 0 and blocked:
            stream = blocked.pop(next(iter(blocked)))
            self._pump(stream, max_frames=1)

    def _count_work(self, calls: int) -> None:
        """Answered calls lower the abuse score: a proxy of many callers cancels many calls, but completes more."""
        if self._abuse_score:
            self._abuse_score = max(0, self._abuse_score - RESTORED_BY_CALL * calls)

    def _count_abuse(self, weight: int = 1) -> None:
        self._abuse_score += weight
        if self._abuse_score > self._limits.max_abuse_score:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring no work")
