"""What a connection sends: answers, as far as the peer's windows go, and the ends of calls and of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from server.http2 import frames
from server.http2.blocks import Bytes
from server.http2.frames import MESSAGE, ErrorCode, ProtocolError
from server.http2.headers import NO_TABLE, NOT_GRPC, NOT_GRPC_TEXT, RESPONSE, Head, failure, fitted
from server.http2.inflating import InflateBudget
from server.http2.status import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, MessageError
from server.http2.stream import FRAME_WEIGHT, PREFIX, PartialMessage, Stream

MAX_LOCAL_RESETS = 1024
RESTORED_BY_CALL = 4  # of the abuse score: cancelled calls that one answered call outweighs
MAX_LIST_OVERHEAD = 256  # bytes by which a header list counts more than its block: 6 fields, names of the static table
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
    RESET = 4  # the call is over before its end: the peer gave it up, or broke it
    DRAINED = 5  # the peer has more room for what a call sends
    EXPIRED = 6  # the deadline of a unary call has passed before its message was whole


@dataclass(frozen=True)
class Limits:
    """max_message: bytes of one message. stream_window: bytes of a stream that the application has not taken."""

    max_message: int = 16 * 1024 * 1024
    max_streams: int = 1024  # calls of one connection at a time
    max_header_bytes: int = 16 * 1024
    stream_window: int = 256 * 1024
    # What partial and untaken messages of one connection may hold: above it, calls are refused.
    max_buffered: int = 64 * 1024 * 1024
    # What answers of one connection may hold that its peer makes no room for: above it, calls fail.
    max_unsent: int = 16 * 1024 * 1024
    # Frames that ask for an answer or undo work, over frames that bring work: CVE-2023-44487 and its kin.
    max_abuse_score: int = 10_000


class Sending:
    """State of one connection, and its way out.

    A call is in one of these states. A fast-path call is a dict entry only; everything unusual promotes it to a Stream.

    | state | where | left when |
    |---|---|---|
    | headers received | _headers_received | the message is whole, or promote() |
    | body received in part | also _partial_bodies | the same |
    | awaiting response | _awaiting_response | answered or failed: closed; or promote() |
    | open | streams, not remote_closed | the peer ends its side |
    | half closed (remote) | streams, remote_closed | trailers are sent |
    | locally reset | _locally_reset | the peer's late frames are ignored; the oldest entries are forgotten |
    | closed | nowhere, id <= _last_id | - |

    promote() moves a call from the first two states to open, and from the third to half closed. RST_STREAM of the peer
    moves every state to closed. Beside these, _extra_credit holds by how much the window of a fast-path call has grown,
    _deadlines the deadline of a unary call whose message was not whole at the end of a read, and inflating_calls the
    streams whose next message waits for the budget of decompression.
    """

    def __init__(self, limits: Limits, budget: InflateBudget) -> None:
        self.events: list[tuple[Event, Stream, bytes]] = []
        self.streams: dict[int, Stream] = {}
        self.closing = False  # GOAWAY is out and no call may begin
        self._headers_received: dict[int, Head] = {}  # on the fast path: the headers are here
        self._partial_bodies: dict[int, PartialMessage] = {}  # of those, whose message is here in part
        self._awaiting_response: dict[int, Head] = {}  # on the fast path: the message is here, the answer is not
        self._extra_credit: dict[int, int] = {}  # by how much the windows of those have grown
        self._limits = limits
        self._deadlines: dict[int, int] = {}  # of unary calls whose message was not whole at the end of a read
        self._budget = budget
        self.resets = 0  # RST_STREAM frames of the peer
        self.inflating_calls: dict[int, Stream] = {}  # wait for the budget, in order; the first has begun
        self._out: list[bytes] = []
        self._last_id = -1
        self._locally_reset: dict[int, None] = {}  # ended by us before the peer had: what it still sent is no fault
        # Of those, the calls that the peer holds open: RST_STREAM follows at the next but one `reset_held_open`.
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
        self._blocked_on_connection_window: dict[int, Stream] = {}  # their output waits for it, in order
        self._buffered = 0  # weight of all streams
        self._unsent = 0  # bytes that wait in all streams
        self._abuse_score = 0
        self._drain_pinged = False
        self._is_http1 = False  # the peer speaks HTTP/1: it was answered in its own protocol
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
            stream.resume(parts)  # its weight is in `_buffered` as it was
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

    # What the application calls.

    def respond(self, stream: Stream, message: bytes) -> None:
        """Answers a unary call, with success; with RESOURCE_EXHAUSTED where the peer leaves too much unread."""
        if self._unsent + len(message) > self._limits.max_unsent:
            self.finish(stream, RESOURCE_EXHAUSTED, f"this connection leaves {self._unsent} bytes of answers unread")
            return
        if self._abuse_score:
            self._count_work(1)
        self.send(stream, framed(message))
        self.finish(stream)

    def send(self, stream: Stream, messages: bytes) -> None:
        """Sends messages, each with its prefix, as far as the peer has room; the rest waits in the stream."""
        if stream.closed:
            return
        if not stream.headers_sent:
            self._send_headers(stream.id, RESPONSE)
            stream.headers_sent = True
        self._queue(stream, messages)
        self._pump(stream)

    def finish(self, stream: Stream, code: int = 0, message: str = "", details: bytes = b"") -> None:
        """Ends a call with a status, behind what it still has to send."""
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
        """Up to `limit` messages of a streaming call. One that cannot be taken ends the call; [] then."""
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
        """The next message of a streaming call, if one frame brought it whole and it is all there is.

        None, with nothing taken, if `take_messages` must look.
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
        """Inflates one message after another, so that one is in part inflated. Raises MessageError."""
        messages = stream.take_messages(limit, _SPENT if self.inflating_calls else self._budget)
        if stream.is_inflating:
            self.inflating_calls.setdefault(stream.id, stream)
        return messages

    @property
    def is_inflating(self) -> bool:
        """Whether a message waits for the budget of the next turn."""
        return bool(self.inflating_calls)

    def inflate(self) -> None:
        """Goes on with the messages that wait, as far as the budget goes; those that are whole become events."""
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
        """The peer's side of a unary call has ended: it must have sent exactly one message."""
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

    def peek_rows(self, stream: Stream, limit: int, least: int) -> Bytes | None:
        """Stream.peek_rows; None also where the next is no message, which `take` tells its caller."""
        before = stream.weight
        try:
            return stream.peek_rows(limit, least)
        except MessageError:
            return None
        finally:
            self._buffered += stream.weight - before

    def consume(self, stream: Stream, size: int) -> None:
        """Takes what was peeked at."""
        before = stream.weight
        stream.data_event_pending = False
        stream.consume(size)
        self._buffered += stream.weight - before
        self.open_window(stream)

    def put_back(self, stream: Stream, messages: list[bytes]) -> None:
        """Messages that were taken too early."""
        before = stream.weight
        stream.put_back(messages)
        self._buffered += stream.weight - before

    def open_window(self, stream: Stream) -> None:
        """Lets the peer send on: what the window holds beside untaken messages, and a begun message to its end."""
        if stream.remote_closed or stream.closed:
            return
        before = stream.weight
        try:
            missing = stream.missing
        except MessageError as error:
            self._buffered += stream.weight - before
            if stream.unary:
                self._fail_call(stream, error.code, str(error))
            return  # a streaming call ends when the message is taken, behind the responses to those before it
        self._buffered += stream.weight - before
        window = self._limits.stream_window
        room = max(window - stream.size, missing)
        if room - stream.receive_window >= window // 2 or missing > stream.receive_window:
            self._out.append(frames.window_update(stream.id, room - stream.receive_window))
            stream.receive_window = room

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Begins the orderly end (RFC 9113, section 6.8): a warning first, the last stream's id once it was read."""
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
        """Called once in a while: what is spread over time is no flood."""
        self._abuse_score = 0

    @property
    def is_done(self) -> bool:
        """Whether GOAWAY has been read, no call is open, and the peer has closed its side of every call."""
        return self.closing and not (self.open_calls or self._held_open or self._to_reset)

    def reset_held_open(self) -> bool:
        """Called once a second: asks the peer to close its side of calls that ended a second ago or earlier."""
        some = bool(self._to_reset)
        for stream_id in self._to_reset:
            self._out.append(frames.rst_stream(stream_id, ErrorCode.NO_ERROR))
        self._to_reset, self._held_open = self._held_open, {}
        return some

    # Ends of calls.

    def _fail_call(self, stream: Stream, code: int, text: str) -> None:
        """Ends a call for a fault in its messages, and tells the application by an event."""
        self.finish(stream, code, text)
        self.events.append((Event.RESET, stream, b""))

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        """Ends a call without an answer, for a fault of the peer's."""
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

        A peer closes its side when it reads the end; RFC 9113, section 8.1, lets us ask for it by RST_STREAM. That
        waits a second: HAProxy discards a status that it reads together with RST_STREAM.
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
        """The peer has closed its side of a call that we had ended."""
        self._held_open.pop(stream_id, None)
        self._to_reset.pop(stream_id, None)

    def _not_grpc(self, stream: Stream) -> None:
        """Answers with HTTP status 415, as gRPC over HTTP/2 asks, and a line of text."""
        self._send_headers(stream.id, NOT_GRPC)
        stream.trailers = b""
        self._queue(stream, NOT_GRPC_TEXT)
        self._pump(stream)

    def _send_headers(self, stream_id: int, block: bytes, flags: int = 0) -> None:
        """A header block as the peer's SETTINGS ask for it; the fast path writes blocks that need none of this."""
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
        """Whether the list of a block is surely within the peer's limit: its few fields count 32 bytes more each."""
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
        """Sends what waits in a stream as far as both windows go; at most so many frames, if it is not negative."""
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
        """After the connection's window grew: the streams that wait for it send a frame each in turn."""
        blocked = self._blocked_on_connection_window
        while self._send_window > 0 and blocked:
            stream = blocked.pop(next(iter(blocked)))
            self._pump(stream, max_frames=1)

    def _count_work(self, calls: int) -> None:
        """Answered calls restore the budget: a proxy cancels for thousands of callers, and works for more of them."""
        if self._abuse_score:
            self._abuse_score = max(0, self._abuse_score - RESTORED_BY_CALL * calls)

    def _count_abuse(self, weight: int = 1) -> None:
        self._abuse_score += weight
        if self._abuse_score > self._limits.max_abuse_score:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring no work")
