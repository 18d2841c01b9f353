"""Exchange to Kafka: one WebSocket connection, made anew after each break.

The exchange's rules (subscription, decoding, sequence numbers, limits) are in pipeline/feed; this edge
receives, stamps, archives and publishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI
from websockets.frames import CloseCode
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from common.config import IngestConfig
from common.errors import UnavailableError
from common.log import get_logger
from common.proxies import describe, is_local
from pipeline.archive import ArchiveWriter
from pipeline.feed.protocol import Feed
from pipeline.feed.venues import check_products, feed_of
from pipeline.records import DeadLetter
from pipeline.stream.metrics import labelled
from pipeline.stream.publish import Publisher
from pipeline.stream.reconnect import LASTED_S, Backoff, RequestBudget
from pipeline.stream.websocket import BatchConnection, Received

MAX_TOO_LARGE = 3  # connections in a row that end by a message above the limit before any tick
NO_TICK_S = 60.0  # a product without a tick for so long after its subscription is logged

_TOO_MANY_REQUESTS = (418, 429)  # HTTP; Binance answers 418 to an address that went on after 429
# Errors that pass. Every other error before the first tick means that the subscription is refused.
_PASSING = re.compile(
    r"rate.?limit|too many|try again|temporar|time.?out|timed out|unavailable|overload", re.IGNORECASE
)


@dataclass(slots=True)
class ConnectionState:
    """The connection, for /metrics and the live table."""

    connected: bool = False
    reconnects: int = 0
    messages: int = 0
    last_message_unix_s: float = 0.0
    subscribed_unix_s: float = 0.0
    ended: bool = False  # the exchange closed the feed for good
    unacknowledged: tuple[str, ...] = ()  # products that the exchange left out of its acknowledgement


class Ingest:
    """Receives one feed until it is cancelled, or until the exchange closes the feed if that is the end.

    Raises ConfigError for an unknown exchange, or a product that cannot be one of it.
    """

    def __init__(
        self, config: IngestConfig, publisher: Publisher, archive: ArchiveWriter | None, *, until_closed: bool
    ) -> None:
        self._feed: Feed = feed_of(config.venue)
        check_products(self._feed, config.products)
        self._config = config
        self.url = config.url or self._feed.url
        self._wanted = frozenset(map(self._feed.canonical, config.products))
        self._publisher = publisher
        self._archive = archive
        self._until_closed = until_closed
        self._decoder = self._feed.decoder(
            max_future_ns=int(config.max_future_s * 1e9), gap_after_ns=int(config.gap_after_s * 1e9)
        )
        self._connection: BatchConnection | None = None
        self._proxy: str | None = None
        self._backoff = Backoff()
        self._budget = RequestBudget(self._feed.allowances)
        self._too_large = 0  # connections in a row
        self._without_tick: frozenset[str] = frozenset()  # as last logged
        self.state = ConnectionState()

    async def run(self) -> None:
        """Raises UnavailableError if the exchange cannot be reached at first; later it is tried for ever."""
        while not self.state.ended:
            try:
                await self._wait_for_allowance()
                connection = await self._connect()
            except (OSError, InvalidHandshake, TimeoutError) as error:
                if self.state.messages == 0 and not _asks_to_wait(error):
                    raise self._away(error) from None
                get_logger().warning("exchange cannot be reached", url=self.url, error=str(error))
                await asyncio.sleep(self._backoff.next_s())
                continue
            began_s, ticks_before = time.monotonic(), self._ticks()
            fault = False
            try:
                fault = await self._receive(connection, ticks_before)
            finally:
                self._end_connection()
                with contextlib.suppress(OSError, ConnectionClosed):
                    await connection.close()
            if self.state.ended:
                break
            # A connection that only acknowledges and closes is not good: without back-off it comes 5 times a second.
            good = self._ticks() > ticks_before or time.monotonic() - began_s >= LASTED_S
            if good and not fault:
                self._backoff.reset()
            self.state.reconnects += 1
            self._decoder = self._decoder.reconnected()
            await asyncio.sleep(self._backoff.next_s())

    def check_silence(self) -> None:
        """Closes a connection without any message for too long, even a heartbeat. Call it now and then."""
        if self._connection is None or not self.state.connected:
            return
        now_s = time.time()
        silent_s = now_s - self.state.last_message_unix_s
        # Without heartbeats silence means nothing; the WebSocket's own pings find a broken line.
        if self._feed.heartbeats and silent_s > self._config.silence_s:
            get_logger().warning("silent feed, reconnecting", silent_s=round(silent_s, 1))
            self._connection.transport.abort()
        if now_s - self.state.subscribed_unix_s > NO_TICK_S:
            self._report_products_without_tick()

    def flush(self) -> None:
        if self._archive is not None:
            self._archive.flush()

    def _ticks(self) -> int:
        return self._publisher.counts.ticks.total()

    async def _wait_for_allowance(self) -> None:
        delay_s = self._budget.reserve_s(time.monotonic())
        if delay_s > 0:
            await asyncio.sleep(delay_s)

    async def _connect(self) -> BatchConnection:
        try:
            self._proxy = None if is_local(self.url) else get_proxy(parse_uri(self.url))
            connection = await connect(
                self.url,
                proxy=self._proxy,
                max_size=self._config.max_message_bytes,
                create_connection=BatchConnection,
                compression=None,  # deflate costs more time than the bytes it saves on a good line
                open_timeout=self._config.connect_timeout_s,
                close_timeout=1,
            )
        except (InvalidProxy, ImportError) as error:  # ImportError: SOCKS needs another package
            raise self._away(error) from None
        except (InvalidURI, ValueError) as error:  # ValueError: a port that is none
            raise UnavailableError(
                f"exchange: {self.url}: {error}; set ingest.url to a ws:// or wss:// address"
            ) from None
        assert isinstance(connection, BatchConnection)
        self._connection = connection
        self.state.connected = True
        self.state.last_message_unix_s = self.state.subscribed_unix_s = time.time()
        if self._archive is not None:
            self._archive.begin_connection()
        return connection

    async def _receive(self, connection: BatchConnection, ticks_before: int) -> bool:
        """Receives until the connection ends. True if the exchange asked to wait, or sent too large a message."""
        number = self.state.reconnects + 1
        await self._subscribe(connection)
        try:
            while True:
                errors = self._take(await connection.receive(), f"connection {number} message ")
                if errors and self._must_wait(errors, ticks_before):
                    return True
        except ConnectionClosed as closed:
            return self._on_closed(closed, f"connection {number} message {self.state.messages + 1}", ticks_before)

    def _take(self, batch: Sequence[Received], source: str) -> list[DeadLetter]:
        """Archives, decodes and publishes a batch of messages. Returns the errors of the exchange among them.

        The whole batch is in the archive before the first of its records is published, and it is published whole
        before an error among its messages ends the connection: archive and topic hold the same messages.
        """
        state, decode, publish = self.state, self._decoder.decode, self._publisher.publish
        acknowledged = self._decoder.acknowledged
        if self._archive is not None:
            self._archive.write_batch(batch)
        errors: list[DeadLetter] = []
        for raw, time_ns in batch:
            state.messages += 1
            records = decode(raw, time_ns, f"{source}{state.messages}")
            if records:
                publish(records)
                if type(records[0]) is DeadLetter:
                    errors += filter(_is_error, records)
        state.last_message_unix_s = batch[-1][1] / 1e9
        if self._decoder.acknowledged is not acknowledged:
            self._check_acknowledgement(self._decoder.acknowledged)
        return errors

    def _on_closed(self, closed: ConnectionClosed, source: str, ticks_before: int) -> bool:
        if closed.rcvd is None and closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
            self._on_too_large(source, ticks_before)
            return True
        code = closed.rcvd.code if closed.rcvd else None
        reason = closed.rcvd.reason if closed.rcvd else "connection lost"
        self.state.ended = self._until_closed and code == CloseCode.NORMAL_CLOSURE
        get_logger().info("connection closed", code=code, reason=reason, messages=self.state.messages)
        self._too_large = 0
        return False

    def _on_too_large(self, source: str, ticks_before: int) -> None:
        """Counts a message above the limit, whose bytes are not read. Raises UnavailableError if it always comes."""
        limit = self._config.max_message_bytes
        self._publisher.publish([DeadLetter("too_large", f"more than {limit} bytes", source, "")])
        get_logger().error("message too large, reconnecting", limit_bytes=limit, key="ingest.max_message_bytes")
        self._too_large = self._too_large + 1 if self._ticks() == ticks_before else 0
        if self._too_large >= MAX_TOO_LARGE:
            raise UnavailableError(
                f"exchange: {self.url} sends a message of more than {limit} bytes at the start of each connection; "
                "raise ingest.max_message_bytes"
            )

    async def _subscribe(self, connection: BatchConnection) -> None:
        # If the exchange has closed already, its last messages are read all the same.
        with contextlib.suppress(ConnectionClosed):
            for request in self._feed.subscriptions(self._config.products):
                await self._wait_for_allowance()
                await connection.send(request)
            get_logger().info("subscribed", url=self.url, products=list(self._config.products))

    def _check_acknowledgement(self, acknowledged: frozenset[str] | None) -> None:
        """Logs products that the exchange left out. Raises UnavailableError if it left out all and none ever came."""
        missing = tuple(sorted(self._wanted - (acknowledged or frozenset())))
        if missing and missing != self.state.unacknowledged:
            get_logger().warning("exchange did not acknowledge products", products=list(missing))
        self.state.unacknowledged = missing
        if len(missing) == len(self._wanted) and not self._publisher.counts.ticks:
            raise UnavailableError(
                f"exchange: {self.url} acknowledges none of {', '.join(missing)}; correct ingest.products"
            )

    def _report_products_without_tick(self) -> None:
        without = self._wanted - self._publisher.counts.ticks.keys()
        if without and without != self._without_tick:
            get_logger().warning("no tick so far", products=sorted(without))
        self._without_tick = without

    def _must_wait(self, errors: Sequence[DeadLetter], ticks_before: int) -> bool:
        """Logs the exchange's errors. True if one asks to try later, and this connection has had no tick.

        Raises UnavailableError if the exchange refuses the subscription.
        """
        for error in errors:
            passing = _PASSING.search(error.detail) is not None
            if not passing and not self._publisher.counts.ticks:
                raise UnavailableError(f"exchange: {self.url} refuses the subscription: {error.detail}")
            get_logger().warning("exchange reports an error", detail=error.detail)
            if passing and self._ticks() == ticks_before:
                return True
        return False

    def _end_connection(self) -> None:
        self.state.connected = False
        self._connection = None
        self.flush()

    def _away(self, error: Exception) -> UnavailableError:
        reason = str(error) or f"no answer within {self._config.connect_timeout_s:g} s"
        if self._proxy is not None:
            reason += describe(self.url, "from the environment", self._proxy)
        return UnavailableError(
            f"exchange: {self.url} cannot be reached: {reason}; set ingest.url, or start one with "
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
            "volcast_ingest_unacknowledged_products",
            "Products that the exchange left out of its last acknowledgement.",
            value=len(state.unacknowledged),
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
            "unacknowledged": list(self.state.unacknowledged),
            "holes": self._publisher.holes,
        }


def _is_error(record: object) -> TypeGuard[DeadLetter]:
    return isinstance(record, DeadLetter) and record.reason == "exchange_error"


def _asks_to_wait(error: Exception) -> bool:
    return isinstance(error, InvalidStatus) and error.response.status_code in _TOO_MANY_REQUESTS
