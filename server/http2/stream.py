"""One call's stream: what has come of its messages, and what waits to go out."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.http2.frames import MESSAGE
from server.http2.headers import NO_TIMEOUT, Head
from server.http2.inflating import WINDOW_BITS, InflateBudget, Inflation
from server.http2.status import INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED, MessageError

PREFIX = MESSAGE.size
LARGE = 4096  # a message of so many bytes is not copied once more than it must be
FRAME_WEIGHT = 64  # what a chunk that waits costs beside its bytes
MAX_SMALL_CHUNKS = 64  # that wait before they are joined
MIN_CHUNK_BYTES = 4096  # of chunks on average: such chunks are not joined


def join_small_chunks(chunks: list[bytes | memoryview], size: int) -> None:
    """Joins the newest of many small chunks; size: bytes of all chunks.

    A join takes the last chunks and all before them that are no larger than the result, so each byte is copied
    O(log n) times, and the work for a chunk does not grow with the chunks that wait.
    """
    if len(chunks) <= MAX_SMALL_CHUNKS or size >= MIN_CHUNK_BYTES * len(chunks):
        return
    begin = len(chunks) - MAX_SMALL_CHUNKS
    joined_size = sum(map(len, chunks[begin:]))
    while begin and len(chunks[begin - 1]) <= joined_size:
        begin -= 1
        joined_size += len(chunks[begin])
    chunks[begin:] = [b"".join(chunks[begin:])]


class PartialMessage:
    """A message of known length that has come in part, with its prefix."""

    __slots__ = ("chunks", "copied", "size", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.size = 0
        self.chunks: list[bytes | memoryview] = []
        self.copied = 0  # chunks that are no views of the read in hand

    @property
    def weight(self) -> int:
        """As of a stream."""
        return self.size + FRAME_WEIGHT * len(self.chunks)

    def copy_views(self) -> None:
        """Replaces the views of a read by one copy; otherwise the whole read stays in memory."""
        self.chunks[self.copied :] = [b"".join(self.chunks[self.copied :])]
        join_small_chunks(self.chunks, self.size)
        self.copied = len(self.chunks)

    def message(self) -> bytes:
        """The message without its prefix, which the first chunk holds."""
        self.chunks[0] = memoryview(self.chunks[0])[PREFIX:]
        return b"".join(self.chunks)


class Stream:
    """Internal to server.http2. Only `call` belongs to the application."""

    __slots__ = (
        "_inflation", "arrived_ns", "buffer", "call", "closed", "data_event_pending", "fast_path", "head",
        "headers_sent", "id", "max_message", "notify_when_drained", "out", "receive_window", "received",
        "remote_closed", "send_window", "size", "trailers", "unary", "unread", "unsent",
    )  # fmt: skip

    def __init__(
        self, stream_id: int, head: Head, send_window: int, receive_window: int, max_message: int, arrived_ns: int
    ) -> None:
        self.id = stream_id
        self.head = head
        self.unary = True
        self.send_window = send_window  # bytes that we may send
        self.receive_window = receive_window  # bytes that the peer may send
        self.max_message = max_message
        self.arrived_ns = arrived_ns
        self.buffer = b""  # received and not taken
        self.unread: list[bytes | memoryview] = []  # the same, newer
        self.size = 0  # bytes of both
        self.received = 0  # bytes of all frames' bodies, where they are compared with the content-length
        self.fast_path = False  # streaming, open on the peer's side, of no announced length: frames take the fast path
        self.remote_closed = False  # the peer has ended its side
        self.closed = False  # both sides have ended
        self.data_event_pending = False  # an event says that there is more to take
        self.headers_sent = False  # response headers are out
        self.out: deque[bytes | memoryview] = deque()  # frames' payloads that the peer's windows hold up
        self.unsent = 0  # bytes of them
        self.notify_when_drained = False  # an event follows once they are sent
        # The block that ends the call, where it waits behind `out`; an empty one: `out` itself ends the call.
        self.trailers: bytes | None = None
        self._inflation: Inflation | None = None  # of the first compressed message in `buffer`
        self.call: Any = None  # the application's object for this call

    @property
    def deadline_ns(self) -> int | None:
        timeout_ns = self.head.timeout_ns
        return None if timeout_ns == NO_TIMEOUT else self.arrived_ns + timeout_ns

    @property
    def weight(self) -> int:
        """What the untaken messages cost, in bytes."""
        return self.size + FRAME_WEIGHT * len(self.unread)

    def append(self, body: bytes) -> None:
        self.unread.append(body)
        self.size += len(body)
        if len(self.unread) > MAX_SMALL_CHUNKS:
            join_small_chunks(self.unread, self.size)

    def resume(self, parts: PartialMessage) -> None:
        """Goes on with a message that began on the fast path."""
        self.unread = [bytes(chunk) for chunk in parts.chunks]
        self.size = parts.size
        self.received += parts.size
        self.receive_window -= parts.size

    def take_messages(self, limit: int, budget: InflateBudget) -> list[bytes]:
        """Up to `limit` whole messages, in order, and little more at once than one may hold.

        Ends before a compressed message for which the budget has no room.

        Raises MessageError where the next is none.
        """
        if self.size < PREFIX or self.missing:
            return []
        compressed, length = MESSAGE.unpack_from(self.buffer)
        if not compressed and length >= LARGE:
            return self._take_large(limit)
        self._gather()
        at = taken = 0
        messages: list[bytes] = []
        buffer, size, most = self.buffer, self.size, self.max_message
        while len(messages) < limit and taken <= most and size - at >= PREFIX:
            compressed, length = MESSAGE.unpack_from(buffer, at)
            until = at + PREFIX + length
            if not compressed and length <= most and until <= size:  # as nearly all are
                messages.append(buffer[at + PREFIX : until])
                taken += length
                at = until
                continue
            try:
                message, until = self._message(at, budget)
            except MessageError:
                if messages:
                    break  # those before it are answered first
                raise
            if message is None:
                break
            messages.append(message)
            taken += len(message)
            at = until
        if at:
            self._set_buffer(self.buffer[at:])
        return messages

    @property
    def has_whole_message(self) -> bool:
        """Whether the next message has arrived as a whole."""
        if self.size < PREFIX:
            return False
        if len(self.buffer) < PREFIX:
            self._gather()
        length: int = MESSAGE.unpack_from(self.buffer)[1]
        return PREFIX + length <= self.size

    @property
    def has_plain_message(self) -> bool:
        """Whether the next message is whole, not compressed and not too large."""
        if not self.has_whole_message:
            return False
        compressed, length = MESSAGE.unpack_from(self.buffer)
        return not compressed and length <= self.max_message

    def peek_rows(self, limit: int, least: int) -> NDArray[np.uint8] | None:
        """What lies there in rows as long as the first message with its prefix, up to `limit`; the others are unread.

        None where fewer than `least` are whole. Raises MessageError where the first is no message.
        """
        if self.size < least * PREFIX or self.missing:
            return None
        compressed, length = MESSAGE.unpack_from(self.buffer)
        period = PREFIX + length
        if compressed or length > LARGE or self.size < least * period:
            return None
        self._gather()
        count = min(limit, self.size // period)
        return np.frombuffer(self.buffer, np.uint8, count * period).reshape(count, period)

    def consume(self, size: int) -> None:
        """Bytes that were peeked at are taken."""
        self._set_buffer(self.buffer[size:])

    def _take_large(self, limit: int) -> list[bytes]:
        """The same for messages that fill frames: each is put together once, of the frames it came in."""
        chunks: deque[bytes | memoryview] = deque((self.buffer, *self.unread))
        self.unread.clear()
        left, at = self.size, 0  # bytes in all chunks; where the first one goes on
        messages: list[bytes] = []
        while len(messages) < limit and self.size - left <= self.max_message and left >= PREFIX:
            while len(chunks[0]) - at < PREFIX:
                first = chunks.popleft()[at:]
                chunks[0], at = b"".join((first, chunks[0])), 0
            compressed, length = MESSAGE.unpack_from(chunks[0], at)
            if compressed or length < LARGE or length > self.max_message or left < PREFIX + length:
                break  # the next turn sees to it
            left -= PREFIX + length
            at += PREFIX
            parts: list[bytes | memoryview] = []
            while at + length > len(chunks[0]):
                parts.append(memoryview(chunks[0])[at:])
                length -= len(chunks.popleft()) - at
                at = 0
            parts.append(memoryview(chunks[0])[at : at + length])
            at += length
            messages.append(b"".join(parts))
        if len(chunks) > 1 and at == len(chunks[0]):
            chunks.popleft()
            at = 0
        self.buffer = bytes(chunks.popleft()[at:])
        self.unread.extend(chunks)
        self.size = left
        return messages

    def _message(self, at: int, budget: InflateBudget) -> tuple[bytes | None, int]:
        """The message at an offset, and where it ends; None while it is not whole, or not inflated."""
        compressed, length = MESSAGE.unpack_from(self.buffer, at)
        self._require_size(length)
        until = at + PREFIX + length
        if until > self.size:
            return None, at
        message = self.buffer[at + PREFIX : until]
        return (message if compressed == 0 else self._inflated(compressed, message, budget)), until

    def put_back(self, messages: list[bytes]) -> None:
        """Puts messages back that were taken too early; they are not compressed any more."""
        self._gather()
        head = b"".join([part for message in messages for part in (MESSAGE.pack(0, len(message)), message)])
        self._set_buffer(head + self.buffer)

    @property
    def missing(self) -> int:
        """Bytes still to come until the message that has begun is whole; 0 where none has. Raises MessageError."""
        if self.size < PREFIX:
            return 0
        if len(self.buffer) < PREFIX:
            self._gather()
        length: int = MESSAGE.unpack_from(self.buffer)[1]
        self._require_size(length)
        return max(0, PREFIX + length - self.size)

    def clear(self) -> None:
        self._set_buffer(b"")
        self._inflation = None
        self.unread.clear()
        self.out.clear()
        self.unsent = 0

    def _gather(self) -> None:
        if self.unread:
            self.buffer = b"".join((self.buffer, *self.unread))
            self.unread.clear()

    def _set_buffer(self, buffer: bytes) -> None:
        self.buffer = buffer
        self.size = len(buffer)

    def _require_size(self, length: int) -> None:
        if length > self.max_message:
            text = f"a message of {length} bytes; at most {self.max_message} are taken"
            raise MessageError(text, RESOURCE_EXHAUSTED)

    def _inflated(self, compressed: int, message: bytes, budget: InflateBudget) -> bytes | None:
        """The content of the next compressed message; None while it waits for the budget."""
        if self._inflation is None:
            encoding = self.head.encoding
            bits = WINDOW_BITS.get(encoding)
            if compressed != 1 or bits is None:
                if compressed == 1 and encoding == b"identity":  # gRPC's compression document, "Test Cases"
                    raise MessageError("a compressed message without grpc-encoding", INTERNAL)
                name = encoding.decode("ascii", "backslashreplace")[:40]
                text = f"a message compressed by {name!a}; identity, deflate and gzip are taken"
                raise MessageError(text, UNIMPLEMENTED)
            self._inflation = Inflation(memoryview(message), bits, self.max_message)
        if not self._inflation.run(budget):
            return None
        inflation, self._inflation = self._inflation, None
        return inflation.result()

    @property
    def is_inflating(self) -> bool:
        """Whether the next compressed message waits for the budget."""
        return self._inflation is not None

    def inflate(self, budget: InflateBudget) -> bool:
        """Goes on with it; returns whether it can be taken."""
        return self._inflation is None or self._inflation.run(budget)
