"""The stream of one call: received bytes of its messages, and queued output."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.http2.frames import MESSAGE
from server.http2.headers import NO_TIMEOUT, Head
from server.http2.inflating import WINDOW_BITS, InflateBudget, Inflation
from server.http2.status import INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED, MessageError

PREFIX = MESSAGE.size
LARGE = 4096  # messages of at least so many bytes are copied only once
FRAME_WEIGHT = 64  # memory of a queued chunk beside its bytes
MAX_SMALL_CHUNKS = 64  # queued chunks; more are joined
MIN_CHUNK_BYTES = 4096  # average size from which chunks are not joined


def join_small_chunks(chunks: list[bytes | memoryview], size: int) -> None:
    """Joins the newest of many small chunks; size: bytes of all chunks.

    A join takes the last chunks, and earlier chunks while they are no larger than the result. So each byte is copied
    O(log n) times, and the work for a chunk does not grow with the number of queued chunks.
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
    """A partly received message of known length, with its prefix."""

    __slots__ = ("chunks", "copied", "size", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.size = 0
        self.chunks: list[bytes | memoryview] = []
        self.copied = 0  # chunks that are not views of the current read

    @property
    def weight(self) -> int:
        """As Stream.weight."""
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
        self.buffer = b""  # received, not taken by the application
        self.unread: list[bytes | memoryview] = []  # received after `buffer`, in chunks
        self.size = 0  # bytes in `buffer` and `unread`
        self.received = 0  # bytes of all DATA frames, to compare with the content-length
        self.fast_path = False  # for DATA frames: streaming, remote side open, no content-length
        self.remote_closed = False  # the peer has ended its side
        self.closed = False  # both sides have ended
        self.data_event_pending = False  # a DATA event is queued
        self.headers_sent = False  # response headers were sent
        self.out: deque[bytes | memoryview] = deque()  # payloads of DATA that wait for the peer's windows
        self.unsent = 0  # bytes in `out`
        self.notify_when_drained = False  # add an event once `out` is sent
        # The block that ends the call after `out` is sent; empty: the last DATA of `out` ends the call.
        self.trailers: bytes | None = None
        self._inflation: Inflation | None = None  # of the first compressed message in `buffer`
        self.call: Any = None  # the application's object for this call

    @property
    def deadline_ns(self) -> int | None:
        timeout_ns = self.head.timeout_ns
        return None if timeout_ns == NO_TIMEOUT else self.arrived_ns + timeout_ns

    @property
    def weight(self) -> int:
        """Memory of the unread messages, in bytes."""
        return self.size + FRAME_WEIGHT * len(self.unread)

    def append(self, body: bytes) -> None:
        self.unread.append(body)
        self.size += len(body)
        if len(self.unread) > MAX_SMALL_CHUNKS:
            join_small_chunks(self.unread, self.size)

    def resume(self, parts: PartialMessage) -> None:
        """Continues a message that began on the fast path."""
        self.unread = [bytes(chunk) for chunk in parts.chunks]
        self.size = parts.size
        self.received += parts.size
        self.receive_window -= parts.size

    def take_messages(self, limit: int, budget: InflateBudget) -> list[bytes]:
        """Up to `limit` whole messages, in order; fewer once they hold more than `max_message` bytes.

        Ends before a compressed message that the budget does not cover. Raises MessageError if the next message is
        invalid.
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
            if not compressed and length <= most and until <= size:  # the usual case
                messages.append(buffer[at + PREFIX : until])
                taken += length
                at = until
                continue
            try:
                message, until = self._message(at, budget)
            except MessageError:
                if messages:
                    break  # earlier messages are answered first
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

    def peek_rows(self, limit: int, min_rows: int) -> NDArray[np.uint8] | None:
        """A view of the unread bytes as rows of the first message's length with its prefix, at most `limit` rows.

        Only the first message is checked. None if there are fewer than `min_rows` whole rows. Raises MessageError if
        the first message is invalid.
        """
        if self.size < min_rows * PREFIX or self.missing:
            return None
        compressed, length = MESSAGE.unpack_from(self.buffer)
        period = PREFIX + length
        if compressed or length > LARGE or self.size < min_rows * period:
            return None
        self._gather()
        count = min(limit, self.size // period)
        return np.frombuffer(self.buffer, np.uint8, count * period).reshape(count, period)

    def consume(self, size: int) -> None:
        """Takes the first `size` bytes, which `peek_rows` returned."""
        self._set_buffer(self.buffer[size:])

    def _take_large(self, limit: int) -> list[bytes]:
        """As take_messages, for large uncompressed messages: each is joined once, from its frames."""
        chunks: deque[bytes | memoryview] = deque((self.buffer, *self.unread))
        self.unread.clear()
        left, at = self.size, 0  # bytes in all chunks; offset in the first chunk
        messages: list[bytes] = []
        while len(messages) < limit and self.size - left <= self.max_message and left >= PREFIX:
            while len(chunks[0]) - at < PREFIX:
                first = chunks.popleft()[at:]
                chunks[0], at = b"".join((first, chunks[0])), 0
            compressed, length = MESSAGE.unpack_from(chunks[0], at)
            if compressed or length < LARGE or length > self.max_message or left < PREFIX + length:
                break  # the next `take_messages` handles it
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
        """The message at an offset, and the offset of its end; None if it is incomplete or not inflated."""
        compressed, length = MESSAGE.unpack_from(self.buffer, at)
        self._require_size(length)
        until = at + PREFIX + length
        if until > self.size:
            return None, at
        message = self.buffer[at + PREFIX : until]
        return (message if compressed == 0 else self._inflated(compressed, message, budget)), until

    def put_back(self, messages: list[bytes]) -> None:
        """Puts taken messages back to the front, without compression."""
        self._gather()
        head = b"".join([part for message in messages for part in (MESSAGE.pack(0, len(message)), message)])
        self._set_buffer(head + self.buffer)

    @property
    def missing(self) -> int:
        """Bytes until the next message is whole; 0 if it is whole or has not begun. Raises MessageError."""
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
        """Inflates the next compressed message; returns whether it is whole."""
        return self._inflation is None or self._inflation.run(budget)
