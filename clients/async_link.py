"""A connection to an inference server on an event loop, shared by all calls of a client."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from clients.http2 import ClientCall, ClientConnection, Fields
from clients.opening import Route, connect, line_of, tls_context
from common.http2 import frames
from common.http2.frames import ProtocolError

if TYPE_CHECKING:
    import socket

# `send` waits while a call has more unsent bytes than this.
MAX_UNSENT_BYTES = 256 * 1024


class AsyncLink(asyncio.Protocol):
    """Opens at once, on the running loop; calls may be made meanwhile."""

    def __init__(self, route: Route) -> None:
        self._http2 = ClientConnection()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[ClientCall, asyncio.Future[None]] = {}  # for a message or the end
        self._queue: deque[asyncio.Future[None]] = deque()  # callers above the server's limit of calls
        self._writable = asyncio.Event()
        self._ended = asyncio.Event()  # the loop has released the socket
        self._paused = False
        self.is_opening = True
        self._task = asyncio.get_running_loop().create_task(self._open(route))

    @property
    def usable(self) -> bool:
        """Whether calls can be opened."""
        return not self._http2.closing

    async def room(self) -> None:
        """Waits while the server takes no more calls at the same time."""
        while self._http2.free_calls <= 0 and not self._http2.closing:
            future = asyncio.get_running_loop().create_future()
            self._queue.append(future)
            try:
                await future
            except asyncio.CancelledError:
                self._admit()  # the place may have been this caller's
                raise

    def open(self, fields: Fields) -> ClientCall:
        return self._http2.open(fields)

    def send(self, call: ClientCall, message: bytes, *, end: bool = False) -> None:
        self._http2.send(call, message, end=end)
        self._write()

    def finish(self, call: ClientCall) -> None:
        self._http2.finish(call)
        self._write()

    def cancel(self, call: ClientCall) -> None:
        self._http2.cancel(call)
        self._write()
        self._admit()
        self._close_if_retired()

    async def sent(self, call: ClientCall) -> None:
        """Waits until a call's messages are sent, as far as back-pressure is concerned, or the call has ended."""
        while call.status is None and (self._paused or len(call.unsent) > MAX_UNSENT_BYTES):
            self._writable.clear()
            await self._writable.wait()

    async def changed(self, call: ClientCall) -> None:
        """Waits until the call gets a message or ends."""
        future = self._waiting[call] = asyncio.get_running_loop().create_future()
        try:
            await future
        finally:
            self._waiting.pop(call, None)

    def retire(self) -> None:
        """Takes no further calls, and closes after the last of its calls."""
        self._http2.closing = True
        self._admit()
        self._close_if_retired()

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        is_open = self._transport is not None
        self._fail("closed by the caller")
        if is_open:
            await self._ended.wait()

    # The loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        http2 = self._http2
        try:
            http2.receive(data)
        except ProtocolError as error:
            if self._transport is not None:
                self._transport.write(frames.goaway(0, error.code))
            self._fail(f"the server breaks HTTP/2: {error.reason}")
            return
        self._write()
        for call in http2.changed:
            self._wake(call)
        self._writable.set()
        self._admit()
        if http2.closing:
            self._close_if_retired()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()
        self._fail(f"the connection broke: {line_of(exc)}" if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._writable.set()

    async def _open(self, route: Route) -> None:
        try:
            connected, host = await _connected(route)
            tls = tls_context(route.access) if route.access.tls else None
            name = host if tls else None
            await asyncio.get_running_loop().create_connection(
                lambda: self, sock=connected, ssl=tls, server_hostname=name
            )
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            self._fail(line_of(error))
        finally:
            self.is_opening = False
        self._write()

    def _write(self) -> None:
        if self._transport is not None and not self._ended.is_set() and (output := self._http2.output()):
            self._transport.write(output)

    def _wake(self, call: ClientCall) -> None:
        future = self._waiting.get(call)
        if future is not None and not future.done():
            future.set_result(None)

    def _admit(self) -> None:
        """Lets as many callers go on as calls are free; all of them once no call can be opened here."""
        free = len(self._queue) if self._http2.closing else self._http2.free_calls
        while self._queue and free > 0:
            future = self._queue.popleft()
            if not future.done():  # else its caller has gone
                future.set_result(None)
                free -= 1

    def _fail(self, message: str) -> None:
        self._http2.fail(message)
        for call in list(self._waiting):
            self._wake(call)
        self._writable.set()
        self._admit()
        if self._transport is not None:
            self._transport.abort()  # `close` could wait for the peer's end of TLS

    def _close_if_retired(self) -> None:
        if self._http2.closing and self._http2.idle and self._transport is not None:
            self._transport.abort()


async def _connected(route: Route) -> tuple[socket.socket, str]:
    """Calls `connect` in a new daemon thread; a result that comes after the loop has closed is dropped."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[tuple[socket.socket, str]] = loop.create_future()

    def hand_over(result: tuple[socket.socket, str] | Exception) -> None:
        if isinstance(result, Exception):
            if not opened.done():
                opened.set_exception(result)
        elif opened.done():
            result[0].close()
        else:
            result[0].setblocking(False)
            opened.set_result(result)

    def run() -> None:
        result: tuple[socket.socket, str] | Exception
        try:
            result = connect(route)
        except (OSError, ValueError) as error:
            result = error
        try:
            loop.call_soon_threadsafe(hand_over, result)
        except RuntimeError:  # the loop is closed
            if not isinstance(result, Exception):
                result[0].close()

    threading.Thread(target=run, name="volcast-connect", daemon=True).start()
    return await opened
