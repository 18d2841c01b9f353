"""Writes messages as they were received, in the wrapped form."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from common.errors import InputError
from pipeline.feed.rfc3339 import NS_PER_S, format_ns

_HOUR_NS = 3600 * NS_PER_S
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Product(msgspec.Struct):
    product_id: str = ""


class _Event(msgspec.Struct):
    tickers: list[_Product] = []


class _Events(msgspec.Struct):
    events: list[_Event] = []


_decode_events = msgspec.json.Decoder(_Events).decode


class ArchiveWriter:
    """Writes messages in the wrapped form, one file a connection and hour, named by product and first time.

    Messages are kept until flush(), or until a good many have come; what reaches a file is complete
    lines in one write. Files are never continued: a second one of the same second gets a number.
    """

    _FLUSH_BYTES = 256 * 1024

    def __init__(self, directory: Path, products: Iterable[str] = ()) -> None:
        """products: those subscribed to; a single one gives files its name, else they are named "feed".

        Raises InputError where the directory cannot be made.
        """
        names = list(products)
        self._name = names[0] if len(names) == 1 else "feed"
        self._directory = directory
        self._fd: int | None = None
        self._path = directory
        self._hour = -1
        self._buffer = bytearray()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(directory, error) from None

    def begin_connection(self) -> None:
        """What is written from here on came over a new connection."""
        self.close()

    def write(self, raw: bytes, ingest_time_ns: int) -> None:
        """Takes one message as received. Raises InputError where the file cannot be written."""
        hour = ingest_time_ns // _HOUR_NS
        if hour != self._hour:
            self.close()
            self._hour = hour
        if self._fd is None:
            self._open(ingest_time_ns)
        self._buffer += _wrapped(raw, ingest_time_ns)
        if len(self._buffer) >= self._FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hands all that was taken to the operating system. Raises InputError where that fails."""
        if self._fd is None or not self._buffer:
            return
        try:
            written = os.write(self._fd, self._buffer)
            if written < len(self._buffer):  # the disk is full: no half a line
                os.ftruncate(self._fd, os.lseek(self._fd, 0, os.SEEK_CUR) - written)
                os.lseek(self._fd, 0, os.SEEK_END)
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise self._failed(self._path, error) from None
        self._buffer.clear()

    def close(self) -> None:
        """Flushes and closes; writing again opens a new file."""
        try:
            self.flush()
        finally:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            self._buffer.clear()

    def _open(self, ingest_time_ns: int) -> None:
        time = datetime.fromtimestamp(ingest_time_ns // NS_PER_S, UTC).strftime("%Y%m%dT%H%M%SZ")
        for attempt in range(1, 1000):
            number = "" if attempt == 1 else f"-{attempt}"
            self._path = self._directory / f"{self._name}_{time}{number}.ndjson"
            try:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                continue
            except OSError as error:
                raise self._failed(self._path, error) from None
            return
        raise InputError(f"archive {self._path}: a thousand recordings began in this second")

    @staticmethod
    def _failed(path: Path, error: OSError) -> InputError:
        return InputError(f"archive {path}: cannot be written: {error.strerror or error}")


def _wrapped(raw: bytes, ingest_time_ns: int) -> bytes:
    head = b'{"ingest_time":"%s","product_id":%s,' % (format_ns(ingest_time_ns).encode(), _product_json(raw))
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return head + b'"payload_base64":"%s"}\n' % base64.b64encode(raw)
    return head + b'"payload":%s}\n' % (raw if _is_line_of_json(raw) else msgspec.json.encode(text))


def _is_line_of_json(raw: bytes) -> bool:
    """Whether a message can stand in a line as it is, and is found again exactly so."""
    if raw[:1] != b"{" or raw[-1:] != b"}" or b"\n" in raw:
        return False
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except _NOT_DECODED:
        return False
    return True


def _product_json(raw: bytes) -> bytes:
    try:
        events = _decode_events(raw).events
    except _NOT_DECODED:
        return b"null"
    product = next((ticker.product_id for event in events for ticker in event.tickers), "")
    return msgspec.json.encode(product) if product else b"null"
