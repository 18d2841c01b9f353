"""Writes messages as they were received, in the wrapped form, each before its records are published.

A full or failed disk never stops the caller. Messages that cannot be written are counted and logged once, and
the next header line in the archive states how many are missing.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from common.errors import InputError
from common.log import get_logger
from common.losses import DISK_FULL, count_not_stored
from pipeline.archive.entries import HEADER_FORMAT, Header
from pipeline.archive.paths import PLAIN_SUFFIX, ROLLED_SUFFIX
from pipeline.archive.upkeep import ArchivePolicy, Upkeep
from pipeline.feed.rfc3339 import NS_PER_S, format_ns
from pipeline.records import NOT_DECODED

RETRY_S = 1.0  # how long the writer waits after a failure before it touches the disk again
STORE = "archive"  # its name in volcast_not_stored_total


class _Product(msgspec.Struct):
    product_id: str = ""


class _Event(msgspec.Struct):
    tickers: list[_Product] = []


class _Events(msgspec.Struct):
    events: list[_Event] = []


_decode_events = msgspec.json.Decoder(_Events).decode


class ArchiveWriter:
    """Writes one line per message, at once, so that a kill loses no message that `write` took.

    Files are named by product and first time, and roll by size and time. They are never continued: a second
    file of the same second gets a number. A new connection begins with a header line.
    """

    def __init__(
        self,
        directory: Path,
        products: Iterable[str] = (),
        venue: str = "coinbase",
        policy: ArchivePolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_future_s: float = 0.0,
    ) -> None:
        """products: the subscribed ones; a single one gives files its name, else they are named "feed".
        max_future_s: the limit of the decoder that reads the same messages, so that a reader of the archive has it too.

        Raises InputError if the directory cannot be made for another reason than a full disk.
        """
        self._products = tuple(products)
        self._name = self._products[0] if len(self._products) == 1 else "feed"
        self._venue = venue
        self._policy = policy or ArchivePolicy()
        self._clock = clock
        self._max_future_s = max_future_s
        self._directory = directory
        self._path = directory
        self._fd: int | None = None
        self._size = 0
        self._period = -1
        self._connection: int | None = None  # when it began
        self._header_due = True
        self._lost_since_header = 0
        self._failing = False
        self._retry_at_s = 0.0
        self.lost_messages = 0
        count_not_stored(STORE, 0)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise InputError(f"archive {directory}: cannot be written: {error.strerror or error}") from None
        self._upkeep = Upkeep(directory, self._policy)
        self._upkeep.tidy()

    def begin_connection(self) -> None:
        """All later messages came over a new connection."""
        self._connection = None
        self._header_due = True

    def write(self, raw: bytes, ingest_time_ns: int) -> None:
        """Takes one message as received. Never raises OSError: a message that cannot be written is counted."""
        if self._failing and self._clock() < self._retry_at_s:
            self._count_lost()
            return
        try:
            self._roll_if_due(ingest_time_ns)
            line = _wrapped(raw, ingest_time_ns)
            if self._header_due:
                line = self._header(ingest_time_ns) + line
            self._append(line)
        except OSError as error:
            self._fail(error)
            return
        if self._header_due:
            self._header_due = False
            self._lost_since_header = 0
        if self._failing:
            self._failing = False
            get_logger().info("archive is written again", file=str(self._path), lost_messages=self.lost_messages)

    def write_batch(self, messages: Sequence[tuple[bytes, int]]) -> None:
        """Takes messages, each with its ingest time, in one call of the kernel: a call for each costs three times as
        much as its bytes. If the disk takes less than all of them, each message is written for itself.
        """
        if len(messages) > 1 and not self._failing and not self._header_due:
            try:
                self._roll_if_due(messages[0][1])
                if not self._header_due:
                    self._append(b"".join([_wrapped(raw, ingest_time_ns) for raw, ingest_time_ns in messages]))
                    return
            except OSError:
                pass  # the next attempt counts and logs the failure
        for raw, ingest_time_ns in messages:
            self.write(raw, ingest_time_ns)

    def flush(self) -> None:
        """Applies the fsync policy. Every line is already with the operating system."""
        if self._fd is not None:
            self._upkeep.sync(self._fd)

    def close(self) -> None:
        """Closes the current file, which stays plain, and finishes upkeep. Nothing is written afterwards."""
        self._hand_over(last=True)
        self._upkeep.close()

    def _header(self, ingest_time_ns: int) -> bytes:
        # Two connections never share a time: a writer sees one after the other.
        self._connection = self._connection or ingest_time_ns
        header = Header(
            volcast_archive=HEADER_FORMAT,
            venue=self._venue,
            products=self._products,
            connection=self._connection,
            lost_messages=self._lost_since_header,
            max_future_s=self._max_future_s,
        )
        return msgspec.json.encode(header) + b"\n"

    def _roll_if_due(self, ingest_time_ns: int) -> None:
        period = int(ingest_time_ns // (self._policy.roll_s * NS_PER_S))
        if self._fd is not None and (period != self._period or self._size >= self._policy.roll_bytes):
            self._hand_over()
        if self._fd is None:
            self._open(ingest_time_ns)
            self._period = period

    def _append(self, line: bytes) -> None:
        """Writes a line whole or not at all. Raises OSError."""
        assert self._fd is not None
        written = os.write(self._fd, line)
        if written < len(line):
            os.ftruncate(self._fd, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def _open(self, ingest_time_ns: int) -> None:
        start = datetime.fromtimestamp(ingest_time_ns // NS_PER_S, UTC).strftime("%Y%m%dT%H%M%SZ")
        self._directory.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            stem = f"{self._name}_{start}{'' if number == 1 else f'_{number:03d}'}"
            self._path = self._directory / f"{stem}{PLAIN_SUFFIX}"
            if (self._directory / f"{stem}{ROLLED_SUFFIX}").exists():
                continue
            try:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                continue
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            break
        self._size = 0
        self._header_due = True

    def _hand_over(self, *, last: bool = False) -> None:
        if self._fd is not None:
            self._upkeep.rolled(self._fd, last=last)
            self._fd = None

    def _fail(self, error: OSError) -> None:
        self._count_lost()
        self._header_due = True
        self._retry_at_s = self._clock() + RETRY_S
        if self._fd is not None and self._size == 0:  # otherwise each attempt leaves an empty file
            os.close(self._fd)
            self._fd = None
            self._path.unlink(missing_ok=True)
        elif error.errno not in DISK_FULL:
            self._hand_over()
        if not self._failing:
            self._failing = True
            get_logger().warning(
                "archive cannot be written, ingest goes on without it",
                file=str(self._path),
                error=error.strerror or str(error),
            )

    def _count_lost(self) -> None:
        self.lost_messages += 1
        self._lost_since_header += 1
        count_not_stored(STORE, 1)


def _wrapped(raw: bytes, ingest_time_ns: int) -> bytes:
    head = _head(ingest_time_ns)
    product = _product_of_line(raw)
    if product is not None:
        return b'%s%s,"payload":%s}\n' % (head, product, raw)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return b'%snull,"payload_base64":"%s"}\n' % (head, base64.b64encode(raw))
    return b'%snull,"payload":%s}\n' % (head, msgspec.json.encode(text))


@lru_cache(maxsize=1)
def _head(ingest_time_ns: int) -> bytes:
    """Cached, since the messages of a read of the socket share their time."""
    return b'{"ingest_time":"%s","product_id":' % format_ns(ingest_time_ns).encode()


def _product_of_line(raw: bytes) -> bytes | None:
    """The first product of a message, as JSON. None if the message cannot stand in a line as it is and be read back
    exactly.
    """
    if raw[:1] != b"{" or raw[-1:] != b"}" or b"\n" in raw:
        return None
    try:
        if not raw.isascii():
            raw.decode()
        events = _decode_events(raw).events  # reads all of it, so it checks the JSON as well
    except msgspec.ValidationError:
        return b"null" if _is_json(raw) else None
    except NOT_DECODED:
        return None
    for event in events:
        for ticker in event.tickers:
            return msgspec.json.encode(ticker.product_id) if ticker.product_id else b"null"
    return b"null"


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except NOT_DECODED:
        return False
    return True
