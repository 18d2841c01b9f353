"""A WebSocket client that hands out messages in batches: all that a read of the socket has brought.

The library parses frames with generators and wakes the caller for each message. Nearly every frame of an exchange is a
whole message without a mask, so this connection cuts such frames itself. It passes all other frames to the library,
each as a whole: control frames, parts of messages, and frames that break the protocol.

Source: RFC 6455, section 5.2 (frames).
"""

from __future__ import annotations

import asyncio
import time

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

MAX_WAITING = 4096  # messages; above, the socket is not read

_WHOLE_MESSAGE = (0x80 | Opcode.TEXT, 0x80 | Opcode.BINARY)  # first byte of a message in a single frame
_TWO_BYTES, _EIGHT_BYTES = 126, 127  # in place of a length, which then follows in so many bytes
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_END_OF_HANDSHAKE = b"\r\n\r\n"


Received = tuple[bytes, int]  # a message, and when it was read from the socket, ns since the epoch


class BatchConnection(ClientConnection):
    """For `create_connection` of websockets.connect. `receive` replaces `recv`; all messages are bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._handshake = b""  # its last bytes so far
        self._rest: list[bytes] = []  # of a frame that is incomplete
        self._rest_bytes = 0
        self._needed_bytes = 0  # of the rest, before it is looked at again
        self._parts: list[bytes] = []  # of a message in several frames
        self._messages: list[Received] = []
        self._now_ns = 0
        self._reading_paused = False
        self._waiter: asyncio.Future[None] | None = None

    async def receive(self) -> list[Received]:
        """The messages that have arrived, in order; waits for the first. Raises ConnectionClosed after the last."""
        while not self._messages:
            if self.connection_lost_waiter.done():
                raise self.close_exc
            self._waiter = self.loop.create_future()
            await self._waiter
        messages, self._messages = self._messages, []
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()
        return messages

    def data_received(self, data: bytes) -> None:
        self._now_ns = time.time_ns()
        if self.protocol.state is State.CONNECTING:
            data = self._end_handshake(data)
        self._rest.append(data)
        self._rest_bytes += len(data)
        if self._rest_bytes >= self._needed_bytes:
            data = b"".join(self._rest)
            rest = data[self._cut(data) :]
            self._rest, self._rest_bytes = [rest], len(rest)
        if len(self._messages) > MAX_WAITING and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wake()

    def process_event(self, event: Event) -> None:
        """Takes a frame from the library."""
        if not isinstance(event, Frame) or event.opcode not in _DATA:
            super().process_event(event)
            return
        self._parts.append(bytes(event.data))
        if event.fin:
            self._messages.append((b"".join(self._parts), self._now_ns))
            self._parts.clear()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end_handshake(self, data: bytes) -> bytes:
        """Passes the response of the handshake to the library, and returns what follows it."""
        seen = self._handshake + data
        end = seen.find(_END_OF_HANDSHAKE)
        length = len(data) if end < 0 else end + len(_END_OF_HANDSHAKE) - len(self._handshake)
        self._handshake = seen[1 - len(_END_OF_HANDSHAKE) :]
        super().data_received(data[:length])
        return data[length:]

    def _cut(self, data: bytes) -> int:
        """Takes the whole frames at the start of data. Returns where the incomplete frame after them begins."""
        protocol, limit, now_ns, end = self.protocol, self.protocol.max_message_size, self._now_ns, len(data)
        start = 0
        while protocol.state is State.OPEN:
            body = start + 2
            if body > end:
                return self._incomplete(start, body)
            length = data[start + 1]
            if length >= _TWO_BYTES:
                if length > _EIGHT_BYTES:
                    break  # a mask, which a server must not use
                body += 2 if length == _TWO_BYTES else 8
                if body > end:
                    return self._incomplete(start, body)
                length = int.from_bytes(data[start + 2 : body], "big")
            if limit is not None and length > limit:
                break
            stop = body + length
            if stop > end:
                return self._incomplete(start, stop)
            if data[start] in _WHOLE_MESSAGE and not self._parts:
                self._messages.append((data[body:stop], now_ns))
            else:
                super().data_received(data[start:stop])
            start = stop
        # The library judges the frame and ends the connection, or has ended it.
        self._needed_bytes = 0
        if start < end:
            super().data_received(data[start:])
        return end

    def _incomplete(self, start: int, stop: int) -> int:
        self._needed_bytes = stop - start
        return start
