"""Exchange to Kafka: one WebSocket connection, made anew whenever it breaks.

The feed's rules (subscribe within 5 s, heartbeats, sequence numbers per connection) are in
pipeline/feed; this edge receives, stamps, archives and publishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidURI
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from common.config import IngestConfig
from common.errors import UnavailableError
from common.log import get_logger
from common.proxies import describe, is_local
from pipeline.archive import ArchiveWriter
from pipeline.feed.coinbase import CoinbaseDecoder, subscribe_messages
from pipeline.records import DeadLetter
from pipeline.stream.metrics import labelled
from pipeline.stream.publish import Publisher

# The first level2 snapshot can be several MB; the library's own limit is 1 MiB.
MAX_MESSAGE_BYTES = 10 * 1024 * 1024
NORMAL_CLOSURE = 1000  # RFC 6455, section 7.4.1

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 30.0


def backoff_s() -> Iterator[float]:
    """Waits between attempts: doubling, capped, and spread so that clients do not come back in step."""
    wait_s = FIRST_BACKOFF_S
    while True:
        yield wait_s * random.uniform(0.5, 1.0)
        wait_s = min(wait_s * 2, MAX_BACKOFF_S)


@dataclass(slots=True)
class ConnectionState:
    """What /metrics and the live table say of the connection."""

    connected: bool = False
    reconnects: int = 0
    messages: int = 0
    last_message_unix_s: float = 0.0
    ended: bool = False  # the exchange closed the feed for good


class Ingest:
    """Receives one feed until told to stop, or until the exchange closes it where that is the end."""

    def __init__(
        self, config: IngestConfig, publisher: Publisher, archive: ArchiveWriter | None, *, until_closed: bool
    ) -> None:
        self._config = config
        self._publisher = publisher
        self._archive = archive
        self._until_closed = until_closed
        self._decoder = CoinbaseDecoder(max_future_ns=int(config.max_future_s * 1e9))
        self._connection: ClientConnection | None = None
        self._proxy: str | None = None
        self.state = ConnectionState()

    async def run(self) -> None:
        """Raises UnavailableError where the exchange cannot be reached at first; later it is tried for ever."""
        waits = backoff_s()
        while not self.state.ended:
            try:
                connection = await self._connect()
            except (OSError, InvalidHandshake, TimeoutError) as error:
                if self.state.messages == 0:
                    raise self._away(error) from None
                get_logger().warning("exchange is away", url=self._config.url, error=str(error))
                await asyncio.sleep(next(waits))
                continue
            before = self.state.messages
            try:
                await self._receive(connection)
            finally:
                self._end_connection()
                with contextlib.suppress(OSError, ConnectionClosed):
                    await connection.close()
            if self.state.ended:
                break
            if self.state.messages > before:
                waits = backoff_s()
            self.state.reconnects += 1
            self._decoder = self._decoder.reconnected()
            await asyncio.sleep(next(waits))

    def check_silence(self) -> None:
        """Closes a connection on which not even a heartbeat has come for too long. Call now and then."""
        silent_s = time.time() - self.state.last_message_unix_s
        if self._connection is not None and self.state.connected and silent_s > self._config.silence_s:
            get_logger().warning("silent feed, reconnecting", silent_s=round(silent_s, 1))
            self._connection.transport.abort()

    def flush(self) -> None:
        if self._archive is not None:
            self._archive.flush()

    async def _connect(self) -> ClientConnection:
        try:
            self._proxy = None if is_local(self._config.url) else get_proxy(parse_uri(self._config.url))
            connection = await connect(
                self._config.url,
                proxy=self._proxy,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=4096,
                compression=None,  # deflate costs more time than the bytes it saves on a good line
                open_timeout=self._config.connect_timeout_s,
                close_timeout=1,
            )
        except (InvalidProxy, ImportError) as error:  # ImportError: SOCKS needs another package
            raise self._away(error) from None
        except (InvalidURI, ValueError) as error:  # ValueError: a port that is none
            raise UnavailableError(
                f"exchange: {self._config.url}: {error}; set ingest.url to a ws:// or wss:// address"
            ) from None
        self._connection = connection
        self.state.connected = True
        self.state.last_message_unix_s = time.time()
        if self._archive is not None:
            self._archive.begin_connection()
        return connection

    async def _receive(self, connection: ClientConnection) -> None:
        state, archive, publish = self.state, self._archive, self._publisher.publish
        number = state.reconnects + 1
        await self._subscribe(connection)
        try:
            while True:
                raw = await connection.recv(decode=False)
                now_ns = time.time_ns()
                state.messages += 1
                state.last_message_unix_s = now_ns / 1e9
                if archive is not None:
                    archive.write(raw, now_ns)
                records = self._decoder.decode(raw, now_ns, f"connection {number} message {state.messages}")
                publish(records)
                if records and type(records[0]) is DeadLetter:
                    self._on_dead_letters(records)
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            reason = closed.rcvd.reason if closed.rcvd else "connection lost"
            state.ended = self._until_closed and code == NORMAL_CLOSURE
            get_logger().info("connection closed", code=code, reason=reason, messages=state.messages)

    async def _subscribe(self, connection: ClientConnection) -> None:
        # Where the exchange has closed already, what it said before is read all the same.
        with contextlib.suppress(ConnectionClosed):
            for request in subscribe_messages(self._config.products):
                await connection.send(request)
            get_logger().info("subscribed", url=self._config.url, products=list(self._config.products))

    def _on_dead_letters(self, records: Sequence[object]) -> None:
        errors = [one for one in records if isinstance(one, DeadLetter) and one.reason == "exchange_error"]
        for error in errors:
            if not self._publisher.counts.ticks:
                raise UnavailableError(f"exchange: {self._config.url} refuses the subscription: {error.detail}")
            get_logger().warning("exchange reports an error", detail=error.detail)

    def _end_connection(self) -> None:
        self.state.connected = False
        self._connection = None
        self.flush()

    def _away(self, error: Exception) -> UnavailableError:
        reason = str(error) or f"no answer within {self._config.connect_timeout_s:g} s"
        if self._proxy is not None:
            reason += describe(self._config.url, "from the environment", self._proxy)
        return UnavailableError(
            f"exchange: {self._config.url} cannot be reached: {reason}; set ingest.url, or start one with "
            "`volcast exchange --simulate`"
        )

    def metrics(self) -> Iterable[Metric]:
        counts, state = self._publisher.counts, self.state
        yield labelled("volcast_ingest_ticks_total", "Ticks published.", "product", counts.ticks)
        yield labelled("volcast_ingest_gaps_total", "Gaps in the feed.", "reason", counts.gaps)
        yield labelled("volcast_ingest_late_total", "Late or repeated ticks.", "reason", counts.late)
        yield labelled("volcast_ingest_dead_total", "Messages that are no ticks.", "reason", counts.dead)
        yield CounterMetricFamily(
            "volcast_ingest_reconnects_total", "Connections made anew after the first.", value=state.reconnects
        )
        yield GaugeMetricFamily(
            "volcast_ingest_connected", "1 while connected to the exchange.", value=float(state.connected)
        )
        yield GaugeMetricFamily(
            "volcast_ingest_last_message_timestamp_seconds",
            "When the last message came, seconds since the epoch.",
            value=state.last_message_unix_s,
        )

    def stats(self) -> dict[str, Any]:
        return {
            **self._publisher.counts.as_json(),
            "published": self._publisher.published,
            "messages": self.state.messages,
            "connected": self.state.connected,
            "reconnects": self.state.reconnects,
            "ended": self.state.ended,
            "holes": self._publisher.holes,
        }
