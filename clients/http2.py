"""The client's side of an HTTP/2 connection: RFC 9113 and gRPC over HTTP/2 as far as gRPC calls need them.

Sans-I/O: `receive` takes bytes of the socket, `output` gives bytes for it. A violation of the protocol by the server
raises ProtocolError; the connection is then of no further use. A repeated header block of a request is some ten bytes
of indices, the same bytes each time, so a server may recognize it.
"""

from __future__ import annotations

import struct
from base64 import b64decode
from binascii import Error as Base64Error
from collections import deque
from collections.abc import Iterable
from urllib.parse import unquote

from google.rpc import code_pb2
from hpack import Decoder, Encoder, HeaderTuple, HPACKError, NeverIndexedHeaderTuple

from common.http2 import frames
from common.http2.frames import ErrorCode, ProtocolError

# A window holds several of the largest usual responses, so that the server never waits for one of our updates.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 1 << 24
MAX_HEADER_BYTES = 64 * 1024
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_STREAM_ID = 2**31 - 1
MAX_INDEXED_BYTES = 500
Fields = tuple[HeaderTuple, ...]
_PREFIX = frames.MESSAGE.size
_OK = code_pb2.OK
_CODES = frozenset(code_pb2.Code.values())
_unpack = frames.HEADER.unpack_from
_pack = frames.HEADER.pack
_word = struct.Struct(">I").pack

# gRPC over HTTP/2, "HTTP2 Transport Mapping": RST_STREAM codes, else INTERNAL.
_CODES_OF_RESETS: dict[int, int] = {
    ErrorCode.REFUSED_STREAM: code_pb2.UNAVAILABLE,
    ErrorCode.CANCEL: code_pb2.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: code_pb2.RESOURCE_EXHAUSTED,
}
# gRPC's http-grpc-status-mapping.md, else UNKNOWN.
_CODES_OF_HTTP = {
    b"400": code_pb2.INTERNAL,
    b"401": code_pb2.UNAUTHENTICATED,
    b"403": code_pb2.PERMISSION_DENIED,
    b"404": code_pb2.UNIMPLEMENTED,
    b"429": code_pb2.UNAVAILABLE,
    b"502": code_pb2.UNAVAILABLE,
    b"503": code_pb2.UNAVAILABLE,
    b"504": code_pb2.UNAVAILABLE,
}


def call_fields(path: str, authority: str, scheme: str, metadata: Iterable[tuple[str, str]] = ()) -> Fields:
    """The header fields of a gRPC call. A long value, such as a token, is not to push all others out of the table."""
    pseudo = ((":method", "POST"), (":scheme", scheme), (":path", path), (":authority", authority))
    grpc = (("te", "trailers"), ("content-type", "application/grpc"))
    return tuple(
        (NeverIndexedHeaderTuple if len(value) > MAX_INDEXED_BYTES else HeaderTuple)(name, value)
        for name, value in (*pseudo, *grpc, *metadata)
    )


class Status:
    """How a call ended. unprocessed: the server has certainly not worked on it, so that a repetition is safe."""

    __slots__ = ("code", "details", "message", "unprocessed")

    def __init__(
        self, code: int, message: str = "", details: bytes | None = None, *, unprocessed: bool = False
    ) -> None:
        self.code = code
        self.message = message
        self.details = details  # google.rpc.Status, from the trailers
        self.unprocessed = unprocessed


class ClientCall:
    """A call of a connection: `messages` arrive until `status` is set."""

    __slots__ = ("_partial", "_unacked", "answered", "ended", "id", "messages", "send_window", "status", "unsent")

    def __init__(self, stream_id: int, send_window: int) -> None:
        self.id = stream_id
        self.messages: deque[bytes] = deque()
        self.status: Status | None = None
        self.send_window = send_window
        self.unsent = bytearray()  # framed messages that do not fit into the windows
        self.ended = False  # no more messages will be sent
        self.answered = False  # the headers of the response have arrived
        self._partial = bytearray()
        self._unacked = 0

    def single_message(self) -> bytes | Status:
        """The response of a unary call that has ended, or its failure."""
        assert self.status is not None
        if self.status.code != _OK:
            return self.status
        if len(self.messages) != 1:
            return Status(code_pb2.INTERNAL, f"{len(self.messages)} messages in the response, expected 1")
        return self.messages[0]


class ClientConnection:
    def __init__(self) -> None:
        self.closing = False  # no further call may be opened
        self.changed: list[ClientCall] = []  # calls that got a message or a status by the last `receive`
        self._calls: dict[int, ClientCall] = {}  # open ones
        self._next_id = 1
        self._initial_window = frames.DEFAULT_WINDOW
        self._window = frames.DEFAULT_WINDOW  # for what we send
        self._frame_size = frames.FRAME_SIZE
        self._unacked = 0
        self._rest = b""
        self._block: tuple[int, int, bytearray] | None = None  # stream id, flags, bytes of an open header block
        self._decoder = Decoder(max_header_list_size=MAX_HEADER_BYTES)
        self._encoder = Encoder()
        self._blocks: dict[Fields, bytes] = {}  # encoded with the current dynamic table
        self._settled = False  # the SETTINGS of the server have arrived
        self._max_calls = MAX_STREAM_ID
        values = {
            frames.ENABLE_PUSH: 0,
            frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            frames.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
        }
        credit = frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        self._out = [frames.PREFACE, frames.settings(values), credit]

    @property
    def idle(self) -> bool:
        return not self._calls

    @property
    def free_calls(self) -> int:
        """How many more calls the server takes at the same time; it refuses those beyond."""
        return self._max_calls - len(self._calls)

    def open(self, fields: Fields) -> ClientCall:
        """Opens a call. fields: of `call_fields`."""
        call = ClientCall(self._next_id, self._initial_window)
        self._next_id += 2
        if self._next_id > MAX_STREAM_ID:
            self.closing = True
        self._calls[call.id] = call
        kind, rest = frames.HEADERS, self._blocks.get(fields) or self._encoded(fields)
        while True:  # a block above the frame size, such as one with a long token, continues in further frames
            part, rest = rest[: self._frame_size], rest[self._frame_size :]
            self._out.append(frames.frame(kind, 0 if rest else frames.END_HEADERS, call.id, part))
            kind = frames.CONTINUATION
            if not rest:
                return call

    def _encoded(self, fields: Fields) -> bytes:
        entries = self._encoder.header_table.dynamic_entries
        before = len(entries)
        block: bytes = self._encoder.encode(fields)
        if len(entries) == before:
            self._blocks[fields] = block
        else:  # the next block of these fields is shorter, and indices have moved
            self._blocks.clear()
        return block

    def send(self, call: ClientCall, message: bytes, *, end: bool = False) -> None:
        """Queues a message, without limit: the windows decide when its bytes are output. Nothing after the end."""
        if call.status is not None:
            return
        call.ended = end
        size = len(message) + _PREFIX
        if not call.unsent and size <= min(call.send_window, self._window, self._frame_size):
            call.send_window -= size
            self._window -= size
            head = _pack(size << 8 | frames.DATA, frames.END_STREAM if end else 0, call.id)
            self._out.append(b"".join((head, frames.MESSAGE.pack(0, len(message)), message)))
            return
        call.unsent += frames.MESSAGE.pack(0, len(message))
        call.unsent += message
        self._send_rest(call)

    def finish(self, call: ClientCall) -> None:
        """No more messages of a call will be sent."""
        if call.status is None and not call.ended:
            call.ended = True
            if not call.unsent:
                self._out.append(frames.frame(frames.DATA, frames.END_STREAM, call.id))

    def cancel(self, call: ClientCall) -> None:
        """Ends a call early. Late answers to it are dropped."""
        if call.status is None:
            self._out.append(frames.rst_stream(call.id, ErrorCode.CANCEL))
            self._end(call, Status(code_pb2.CANCELLED, "cancelled by the caller"))

    def fail(self, message: str) -> None:
        """Ends all calls: the connection is lost."""
        self.closing = True
        for call in list(self._calls.values()):
            self._end(call, Status(code_pb2.UNAVAILABLE, message))

    def output(self) -> bytes:
        """Bytes for the socket since the last call."""
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> None:
        """Takes bytes of the socket. Raises ProtocolError."""
        self.changed.clear()
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 9:
            word, flags, stream_id = _unpack(data, at)
            length = word >> 8
            if length > frames.FRAME_SIZE:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            until = at + 9 + length
            if until > end:
                break
            self._on_frame(word & 0xFF, flags, stream_id & frames.MAX_WINDOW, data[at + 9 : until])
            at = until
        self._rest = data[at:]
        if self._unacked >= CONNECTION_WINDOW // 2:
            self._out.append(frames.window_update(0, self._unacked))
            self._unacked = 0

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._settled and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS; is this a gRPC server?")
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block[0]):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        on_frame = _ON_FRAME.get(kind)
        if on_frame is not None:  # RFC 9113, section 5.5: unknown frames are ignored
            on_frame(self, flags, stream_id, payload)

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        call = self._call(stream_id)
        self._unacked += len(payload)
        if call is None:
            return
        call._unacked += len(payload)
        if not call.answered:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS")
        self._take_messages(call, unpadded(flags, payload))
        if flags & frames.END_STREAM:
            self._end(call, Status(code_pb2.INTERNAL, "the response ended without a status"))
        elif call.status is None and call._unacked >= STREAM_WINDOW // 2:
            self._out.append(frames.window_update(stream_id, call._unacked))
            call._unacked = 0

    def _take_messages(self, call: ClientCall, data: bytes) -> None:
        """Splits the bytes of a response into messages. The bytes of a partial message are not copied by each frame."""
        partial = call._partial
        received: bytes | bytearray = data
        if partial:
            partial += data
            received = partial
        at, end = 0, len(received)
        while end - at >= _PREFIX:
            compressed, length = frames.MESSAGE.unpack_from(received, at)
            if compressed or length > MAX_MESSAGE_BYTES:
                what = "is compressed" if compressed else f"has {length} bytes; at most {MAX_MESSAGE_BYTES} are taken"
                self._reset(call, code_pb2.INTERNAL if compressed else code_pb2.RESOURCE_EXHAUSTED, f"a message {what}")
                return
            if end - at - _PREFIX < length:
                break
            at += _PREFIX + length
            call.messages.append(bytes(received[at - length : at]))
            self.changed.append(call)
        if received is partial:
            del partial[:at]
        else:
            partial += data[at:]

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        payload = unpadded(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            payload = payload[5:]
        self._call(stream_id)
        self._block = (stream_id, flags, bytearray(payload))
        if flags & frames.END_HEADERS:
            self._on_block()

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of no header block")
        self._block[2].extend(payload)
        if len(self._block[2]) > MAX_HEADER_BYTES:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & frames.END_HEADERS:
            self._on_block()

    def _on_block(self) -> None:
        assert self._block is not None
        (stream_id, flags, block), self._block = self._block, None
        try:  # also for a call that has ended: a block changes the decoder's table
            fields = dict(self._decoder.decode(bytes(block), raw=True))
        except HPACKError:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "the header block is not HPACK") from None
        call = self._calls.get(stream_id)
        if call is None:
            return
        if flags & frames.END_STREAM:
            self._end(call, _status_of(fields))
        elif call.answered:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "trailers that do not end the response")
        elif not fields.get(b":status", b"").startswith(b"1"):
            call.answered = True
            if (failure := _not_grpc(fields)) is not None:
                self._reset(call, failure.code, failure.message)

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        code = frames.word(_sized(payload, 4))
        call = self._call(stream_id)
        if call is not None:
            name = next((known.name for known in ErrorCode if known == code), f"code {code}")
            text = f"the server reset the call ({name})"
            unprocessed = code == ErrorCode.REFUSED_STREAM
            self._end(call, Status(_CODES_OF_RESETS.get(code, code_pb2.INTERNAL), text, unprocessed=unprocessed))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            _sized(payload, 0)
            return
        if len(payload) % 6:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
        self._settled = True
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        for key, value in frames.parse_settings(payload):
            if key == frames.INITIAL_WINDOW_SIZE:
                self._set_initial_window(value)
            elif key == frames.HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, frames.HEADER_TABLE)
                self._blocks.clear()
            elif key == frames.MAX_CONCURRENT_STREAMS:
                self._max_calls = value
            elif key == frames.MAX_FRAME_SIZE:
                if not frames.FRAME_SIZE <= value < 2**24:
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"a frame size of {value}")
                self._frame_size = min(value, 65_536)

    def _set_initial_window(self, value: int) -> None:
        if value > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value}")
        grows, self._initial_window = value - self._initial_window, value
        for call in list(self._calls.values()):
            self._credit(call, grows)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _sized(payload, 8)
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) < 8:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a malformed GOAWAY")
        self.closing = True
        last_id, code = frames.word(payload[:4]), frames.word(payload[4:8])
        text = payload[8:200].decode("ascii", "backslashreplace")
        why = "the server closes the connection" + (f" ({text})" if code and text else "")
        for call in [call for call in self._calls.values() if call.id > last_id]:
            self._end(call, Status(code_pb2.UNAVAILABLE, why, unprocessed=True))

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        increment = frames.word(_sized(payload, 4))
        if stream_id:
            call = self._call(stream_id)
            if call is not None:
                if not increment:
                    self._reset(call, code_pb2.INTERNAL, "a window grows by 0")
                    return
                self._credit(call, increment)
            return
        self._window += increment
        if not increment or self._window > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"the connection's window grows by {increment}")
        for call in list(self._calls.values()):
            self._send_rest(call)

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which is disabled")

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        _sized(payload, 5)

    def _credit(self, call: ClientCall, increment: int) -> None:
        call.send_window += increment
        if call.send_window > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window beyond its limit")
        self._send_rest(call)

    def _send_rest(self, call: ClientCall) -> None:
        """Outputs as much of the unsent bytes as the windows allow."""
        unsent, at = call.unsent, 0
        while at < len(unsent):
            size = min(len(unsent) - at, call.send_window, self._window, self._frame_size)
            if size <= 0:
                break
            last = call.ended and at + size == len(unsent)
            flags = frames.END_STREAM if last else 0
            self._out.append(frames.frame(frames.DATA, flags, call.id, bytes(unsent[at : at + size])))
            call.send_window -= size
            self._window -= size
            at += size
        del unsent[:at]

    def _call(self, stream_id: int) -> ClientCall | None:
        """The open call of a frame; None if the call has ended."""
        if not stream_id & 1 or stream_id >= self._next_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"a frame on stream {stream_id}, which is idle")
        return self._calls.get(stream_id)

    def _reset(self, call: ClientCall, code: int, message: str) -> None:
        self._out.append(frames.rst_stream(call.id, ErrorCode.CANCEL))
        self._end(call, Status(code, message))

    def _end(self, call: ClientCall, status: Status) -> None:
        if not call.ended and status.code == _OK:
            status = Status(code_pb2.UNAVAILABLE, "the server closed the stream")
        if call._partial and status.code == _OK:
            status = Status(code_pb2.INTERNAL, "the response ended within a message")
        call.status = status
        call.unsent.clear()
        del self._calls[call.id]
        self.changed.append(call)


_ON_FRAME = {
    frames.DATA: ClientConnection._on_data,
    frames.HEADERS: ClientConnection._on_headers,
    frames.PRIORITY: ClientConnection._on_priority,
    frames.RST_STREAM: ClientConnection._on_reset,
    frames.SETTINGS: ClientConnection._on_settings,
    frames.PUSH_PROMISE: ClientConnection._on_push_promise,
    frames.PING: ClientConnection._on_ping,
    frames.GOAWAY: ClientConnection._on_goaway,
    frames.WINDOW_UPDATE: ClientConnection._on_window_update,
    frames.CONTINUATION: ClientConnection._on_continuation,
}


def unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _sized(payload: bytes, size: int) -> bytes:
    if len(payload) != size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {len(payload)} bytes, expected {size}")
    return payload


def _not_grpc(fields: dict[bytes, bytes]) -> Status | None:
    """The failure that the headers of a response show; None: a gRPC response."""
    status = fields.get(b":status", b"")
    if status != b"200":
        text = f"HTTP status {status.decode('ascii', 'backslashreplace') or 'missing'}"
        return Status(_CODES_OF_HTTP.get(status, code_pb2.UNKNOWN), text)
    content_type = fields.get(b"content-type", b"")
    if not content_type.startswith(b"application/grpc"):
        return Status(code_pb2.UNKNOWN, f"content-type {content_type[:100]!r}, expected application/grpc")
    return None


def _status_of(fields: dict[bytes, bytes]) -> Status:
    """The status in the headers that end a response."""
    value = fields.get(b"grpc-status")
    if value is None:
        return (_not_grpc(fields) if b":status" in fields else None) or Status(code_pb2.UNKNOWN, "no grpc-status")
    code = int(value) if value.isdigit() and len(value) < 4 else code_pb2.UNKNOWN
    if code not in _CODES:
        code = code_pb2.UNKNOWN
    message = unquote(fields.get(b"grpc-message", b"").decode("ascii", "replace"), errors="replace")
    details = fields.get(b"grpc-status-details-bin")
    if details is not None:
        try:
            details = b64decode(details + b"=" * (-len(details) % 4))
        except Base64Error:
            details = None
    return Status(code, message, details)
