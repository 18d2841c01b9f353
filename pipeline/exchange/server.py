"""The WebSocket server around the protocol: sockets, pacing, back-pressure.

The feed has a single position. It starts with the first subscriber of the ticker, and all subscribers get the same
messages. Without a subscriber the feed waits. The slowest subscriber sets the pace; none is dropped for being slow.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from pipeline.exchange.faults import SLOW_S, STORM_CONNECTIONS, Fault, Faults, FaultyLine
from pipeline.exchange.items import Item, Restart
from pipeline.exchange.pacer import Pacer
from pipeline.exchange.protocol import Session, refusal

SUBSCRIBE_TIMEOUT_S = 5.0  # as the exchange's: subscribe by then or be cut off
HEARTBEAT_S = 1.0
RETURN_TIMEOUT_S = 5.0  # after a restart: how long the first client to return waits for the rest

_BATCH_ITEMS = 256
_CLOSE_TIMEOUT_S = 60.0  # a client may have much to read before it comes to the end
_STOP_TIMEOUT_S = 1.0
_POLL_S = 0.05


@dataclass
class Counts:
    """What happened so far."""

    position: int = 0  # messages of the feed that were sent to any client
    sent: int = 0  # messages sent, over all clients, heartbeats and acknowledgements included
    connections: int = 0
    restarts: int = 0


class ExchangeServer:
    """Sends a feed to all subscribers, then closes with code 1000 and `end_reason`."""

    def __init__(
        self,
        feed: Iterable[Item | Restart],
        *,
        products: Iterable[str] | None,
        speed: float,
        end_reason: str,
        fast_forward_s: float = 0.0,
        faults: Faults | None = None,
        subscribe_timeout_s: float = SUBSCRIBE_TIMEOUT_S,
        return_timeout_s: float = RETURN_TIMEOUT_S,
    ) -> None:
        """products: names that clients may subscribe to; None: any name. speed: of event time; infinity: at once.

        fast_forward_s: so much event time from the start on is sent at once.
        faults: what to inject into the feed; None: nothing.
        """
        self.counts = Counts()
        self._products = None if products is None else tuple(products)
        self._pacer = Pacer(speed, fast_forward_s)
        self._end_reason = end_reason
        self._subscribe_timeout_s = subscribe_timeout_s
        self._return_timeout_s = return_timeout_s
        self._faults = faults
        self._lines: dict[ServerConnection, FaultyLine] = {}  # of each client, if there are faults
        self._turned_away: deque[Fault] = deque()  # the fate of the connections to come
        self._silent = False
        self._clients: dict[ServerConnection, Session] = {}
        self._changed = asyncio.Condition()
        self._ended = False
        self._feed, self._now_ns = _with_first_time(iter(feed))

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def now_ns(self) -> int:
        """The market's time: that of the last message."""
        return self._now_ns

    async def run(
        self,
        listener: socket.socket,
        *,
        on_ready: Callable[[int], None],
        stopped: Callable[[], bool] = lambda: False,
        duration_s: float | None = None,
    ) -> str:
        """Serves until the feed has ended, `stopped()` is true, or the duration is over; says which.

        listener: a socket that listens. on_ready: called with its port once connections are accepted.
        """
        quiet = logging.getLogger("volcast.exchange.websockets")
        quiet.setLevel(logging.CRITICAL)  # a client that vanishes is not worth a log line
        async with serve(
            self._handle, sock=listener, compression=None, close_timeout=_CLOSE_TIMEOUT_S, max_size=2**20, logger=quiet
        ) as server:
            tasks = [asyncio.create_task(self._pump()), asyncio.create_task(self._beat())]
            on_ready(next(iter(server.sockets)).getsockname()[1])
            deadline = None if duration_s is None else time.monotonic() + duration_s
            try:
                while not (tasks[0].done() or stopped() or (deadline is not None and time.monotonic() >= deadline)):
                    await asyncio.wait(tasks[:1], timeout=_POLL_S)
            finally:
                self._ended = True
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            failure = next((result for result in results if isinstance(result, Exception)), None)
            if failure is not None:
                await self._farewell(CloseCode.INTERNAL_ERROR, "the exchange failed", stopped)
                raise failure
            if stopped():
                await self._farewell(CloseCode.GOING_AWAY, "the exchange was stopped", stopped)
                return "stopped"
            reason = self._end_reason if tasks[0].done() and not tasks[0].cancelled() else "end of the duration"
            await self._farewell(CloseCode.NORMAL_CLOSURE, reason, stopped)
            return reason

    async def _farewell(self, code: CloseCode, reason: str, stopped: Callable[[], bool]) -> None:
        """Closes all connections. Clients may read messages in flight first, unless the server is stopped."""
        closing = asyncio.create_task(self._close_all(code, reason))
        while not closing.done() and not stopped():
            await asyncio.wait([closing], timeout=_POLL_S)
        await asyncio.wait([closing], timeout=_STOP_TIMEOUT_S)
        for connection in list(self._clients):
            connection.transport.abort()
        await closing

    async def _handle(self, connection: ServerConnection) -> None:
        session = Session(self._products)
        self._clients[connection] = session
        self.counts.connections += 1
        if self._faults is not None:
            self._lines[connection] = FaultyLine(self._faults, self.counts.connections)
        try:
            with suppress(ConnectionClosed):
                await self._converse(connection, session)
        finally:
            del self._clients[connection]
            self._lines.pop(connection, None)
            async with self._changed:
                self._changed.notify_all()

    async def _converse(self, connection: ServerConnection, session: Session) -> None:
        if self._ended:
            await connection.close(CloseCode.NORMAL_CLOSURE, self._end_reason)
            return
        try:
            async with asyncio.timeout(self._subscribe_timeout_s):
                while not session.subscribed:
                    request = await connection.recv()
                    if self._turned_away:
                        await self._turn_away(connection, session, request, self._turned_away.popleft())
                        return
                    await self._answer(connection, session, request)
        except TimeoutError:
            reason = f"no subscription within {self._subscribe_timeout_s:g} s"
            await connection.close(CloseCode.POLICY_VIOLATION, reason)
            return
        async for request in connection:
            await self._answer(connection, session, request)

    async def _answer(self, connection: ServerConnection, session: Session, request: str | bytes) -> None:
        reply = session.receive(request, self._now_ns)
        self.counts.sent += 1
        await connection.send(reply, text=True)
        async with self._changed:
            self._changed.notify_all()

    async def _pump(self) -> None:
        await self._subscribers(1)
        batch: list[Item] = []
        for item in self._feed:
            if isinstance(item, Restart):
                await self._send(batch)
                batch = []
                await self._restart()
                continue
            if self._pacer.delay_s(item.event_time_ns, time.monotonic()) > 0:
                await self._send(batch)
                batch = []
                await self._until_due(item)
            fault = self._faults.due() if self._faults else None
            if fault or any(line.holds_messages for line in self._lines.values()):
                await self._send(batch)
                batch = []
                await self._send_through(item, fault)
                continue
            batch.append(item)
            if len(batch) >= _BATCH_ITEMS:
                await self._send(batch)
                batch = []
        await self._send(batch)
        await self._release()

    async def _until_due(self, item: Item) -> None:
        """Waits until a message is due. Without a subscriber the clock stands still."""
        await self._subscriber()
        await asyncio.sleep(max(self._pacer.delay_s(item.event_time_ns, time.monotonic()), 0))

    async def _subscriber(self) -> None:
        if not self._targets():
            await self._subscribers(1)
            self._pacer.reset()

    async def _subscribers(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._targets()) >= count)

    def _targets(self) -> list[tuple[ServerConnection, Session]]:
        return [(connection, session) for connection, session in self._clients.items() if session.wants_tickers]

    async def _send(self, batch: list[Item]) -> None:
        if not batch:
            return
        await self._subscriber()
        await asyncio.gather(*(self._send_to(connection, session, batch) for connection, session in self._targets()))
        self.counts.position += len(batch)
        self._now_ns = batch[-1].event_time_ns or self._now_ns
        await asyncio.sleep(0)  # at full speed too: let requests and heartbeats in

    async def _send_to(self, connection: ServerConnection, session: Session, batch: list[Item]) -> None:
        """One write for a whole batch: 3 times the throughput of a send() for each message."""
        with suppress(ConnectionClosed):
            async with connection.send_context():
                protocol = connection.protocol
                for item in batch:
                    message = session.message(item)
                    if message is None:
                        continue
                    if item.numbered or _is_text(message):
                        protocol.send_text(message)
                    else:
                        protocol.send_binary(message)
                    self.counts.sent += 1
                connection.transport.write(b"".join(protocol.data_to_send()))

    async def _restart(self) -> None:
        """Closes all connections with code 1012, as the exchange does, and waits for the clients to return."""
        before = len(self._targets())
        self.counts.restarts += 1
        await self._release()
        await self._close_all(CloseCode.SERVICE_RESTART, "the recording goes on with a new connection")
        await self._returned(before)

    async def _returned(self, before: int) -> None:
        """Waits for clients that were sent away. `before` is their number."""
        await self._subscribers(1)
        with suppress(TimeoutError):  # a client that returns later misses the messages until then
            async with asyncio.timeout(self._return_timeout_s):
                await self._subscribers(before)
        self._pacer.reset()

    async def _close_all(self, code: CloseCode, reason: str) -> None:
        """Closes every connection after the messages that were sent on it."""
        await asyncio.gather(*(connection.close(code, reason) for connection in list(self._clients)))

    async def _send_through(self, item: Item, fault: Fault | None) -> None:
        """Sends one message with a fault, or while messages are held back by an earlier fault."""
        assert self._faults is not None
        await self._subscriber()
        if fault in (Fault.SLOW, Fault.SILENCE):
            await self._pause(fault)
        before = self._targets()
        distorted = self._faults.distorted(item, fault)
        for connection, session in before:
            await self._send_faulty(connection, session, distorted, item, fault)
        self.counts.position += 1
        self._now_ns = item.event_time_ns or self._now_ns
        if fault in (Fault.CUT, Fault.RECONNECT_STORM, Fault.REFUSED_SUBSCRIPTION):
            await self._send_away(fault, len(before))

    async def _pause(self, fault: Fault) -> None:
        assert self._faults is not None
        self._silent = fault is Fault.SILENCE
        await asyncio.sleep(self._faults.silence_s if self._silent else SLOW_S)
        self._silent = False
        self._pacer.reset()
        await self._subscriber()  # a client may have left a silent feed

    async def _send_faulty(
        self, connection: ServerConnection, session: Session, distorted: Item, item: Item, fault: Fault | None
    ) -> None:
        assert self._faults is not None
        message, line = session.message(distorted), self._lines[connection]
        if message is None:
            return
        if fault is not None:
            self._faults.record(fault, line.connection, item, session.last_number if item.numbered else None)
        with suppress(ConnectionClosed):
            async with connection.send_context():
                if fault is Fault.CUT:
                    _write_half(connection, message)
                    return
                for sent in line.pass_on(message, fault):
                    _write(connection, sent, fragments=3 if fault is Fault.SPLIT else 1)
                    self.counts.sent += 1
                connection.transport.write(b"".join(connection.protocol.data_to_send()))

    async def _send_away(self, fault: Fault, before: int) -> None:
        """Ends all connections as the fault demands, and waits for the clients to come back."""
        gone = list(self._clients)
        if fault is Fault.CUT:
            for connection in gone:
                connection.transport.close()
        else:
            storm = fault is Fault.RECONNECT_STORM
            self._turned_away.extend([fault] * (STORM_CONNECTIONS if storm else 1) * before)
            await self._release()
            await self._close_all(CloseCode.POLICY_VIOLATION, "too many connections")
        await asyncio.gather(*(connection.wait_closed() for connection in gone))
        async with self._changed:
            await self._changed.wait_for(lambda: not any(connection in self._clients for connection in gone))
        await self._returned(before)

    async def _turn_away(
        self, connection: ServerConnection, session: Session, request: str | bytes, fault: Fault
    ) -> None:
        """Ends a connection at its first request: acknowledged in a reconnect storm, else refused."""
        storm = fault is Fault.RECONNECT_STORM
        reply = session.receive(request, self._now_ns) if storm else refusal("rate limit exceeded")
        self.counts.sent += 1
        await connection.send(reply, text=True)
        await connection.close(CloseCode.POLICY_VIOLATION, "too many connections")

    async def _release(self) -> None:
        """Sends the messages that faults still hold back."""
        for connection, line in list(self._lines.items()):
            for message in line.release():
                with suppress(ConnectionClosed):
                    async with connection.send_context():
                        _write(connection, message)
                        connection.transport.write(b"".join(connection.protocol.data_to_send()))
                        self.counts.sent += 1

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self._silent:
                continue
            for connection, session in list(self._clients.items()):
                beat = session.heartbeat(self._now_ns)
                if beat is not None:
                    self.counts.sent += 1
                    await self._send_beat(connection, beat)

    @staticmethod
    async def _send_beat(connection: ServerConnection, beat: bytes) -> None:
        with suppress(ConnectionClosed):
            await connection.send(beat, text=True)


def _write(connection: ServerConnection, message: bytes, fragments: int = 1) -> None:
    """Queues a message, in up to `fragments` frames (RFC 6455, section 5.4)."""
    protocol = connection.protocol
    size = -(-len(message) // fragments)
    parts = [message[start : start + size] for start in range(0, len(message), size)] or [b""]
    start = protocol.send_text if _is_text(message) else protocol.send_binary
    start(parts[0], fin=len(parts) == 1)
    for number, part in enumerate(parts[1:], 2):
        protocol.send_continuation(part, fin=number == len(parts))


def _write_half(connection: ServerConnection, message: bytes) -> None:
    """Sends the first half of a message's frame and closes the connection, without a closing handshake."""
    _write(connection, message)
    frame = b"".join(connection.protocol.data_to_send())
    connection.transport.write(frame[: len(frame) // 2])
    connection.transport.close()


def _is_text(raw: bytes) -> bool:
    """WebSocket text is UTF-8 (RFC 6455, section 5.6); all other messages are binary."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _with_first_time(feed: Iterator[Item | Restart]) -> tuple[Iterator[Item | Restart], int]:
    """The feed, and the event time it begins with: the exchange's clock before the first message."""
    skipped: list[Item | Restart] = []
    for item in feed:
        skipped.append(item)
        if isinstance(item, Item) and item.event_time_ns is not None:
            return chain(skipped, feed), item.event_time_ns
    return iter(skipped), 0
