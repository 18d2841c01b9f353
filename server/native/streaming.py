"""Streams that need no model, such as a health watch: a task per call, which reads and writes its messages."""

from __future__ import annotations

import asyncio

from common.errors import DeadlineError
from server.http2.sending import framed
from server.http2.stream import Stream
from server.native.connection import ServerConnection
from server.rpc.methods import StreamMethod

MAX_UNSENT_BYTES = 256 * 1024  # of queued messages; above it `write` waits


class StreamingCall:
    """One call; also the context that its handler reads from and writes to."""

    def __init__(self, connection: ServerConnection, stream: Stream, method: StreamMethod) -> None:
        self._connection = connection
        self._stream = stream
        self._method = method
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def read(self) -> bytes | None:
        while True:
            self._readable.clear()
            messages = self._connection.h2.take_messages(self._stream, 1)
            self._connection.flush()
            if messages:
                return messages[0]
            if self._stream.closed or (self._stream.remote_closed and not self._stream.is_inflating):
                return None
            await self._readable.wait()

    async def write(self, message: bytes) -> None:
        self._connection.send(self._stream, framed(message))
        self._connection.flush()
        while self._stream.unsent > MAX_UNSENT_BYTES or self._connection.paused:
            self._writable.clear()
            await self._writable.wait()

    def on_data(self, *, alone: bool) -> None:
        self._readable.set()
        self._writable.set()

    @property
    def responses_due(self) -> bool:
        """Always False: a message of such a stream needs no response."""
        return False

    def cancel(self) -> None:
        self.task.cancel()

    async def _run(self) -> None:
        connection, stream, name = self._connection, self._stream, self._method.name
        try:
            deadline_ns = stream.deadline_ns
            timeout_s = None if deadline_ns is None else max(0, deadline_ns - connection.serving.now_ns()) * 1e-9
            async with asyncio.timeout(timeout_s):
                await self._method.run(self)
            connection.h2.finish(stream)
        except TimeoutError:
            connection.fail(stream, name, DeadlineError("the deadline of the stream has passed"))
        except Exception as error:
            connection.fail(stream, name, error)
        connection.flush()
