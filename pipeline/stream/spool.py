"""A queue of Kafka messages on disk: bounded, in order, whole after a kill.

Messages are appended to segment files and read from the oldest segment on. A position file states how far the
reader has come. A segment is removed once all of it is read. Each message carries a CRC-32, so the end of a
file that a kill or a full disk cut off is recognized.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from common.errors import UnavailableError

SEGMENT_BYTES = 16 * 1024 * 1024
FIRST_SEGMENT = 1_000_000  # room below it for messages that are put in front

_HEAD = struct.Struct("<IHHI")  # CRC-32 of the rest, lengths of topic, key and value
_SUFFIX = ".spool"


class SpooledMessage(NamedTuple):
    topic: str
    key: bytes
    value: bytes


class Spool:
    """The queue of one process. Raises UnavailableError if another process has the folder, or if it cannot be made."""

    def __init__(self, directory: Path, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnavailableError(
                f"backlog {directory}: cannot be used: {error.strerror}; set ingest.backlog_dir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UnavailableError(
                f"backlog {directory}: another ingest uses it; give each its own with ingest.backlog_dir"
            ) from None
        self._segments = sorted(int(path.stem) for path in directory.glob(f"*{_SUFFIX}"))
        self._bytes = sum(self._path(number).stat().st_size for number in self._segments)
        self._write_fd: int | None = None
        self._write_size = 0
        self._read_number, self._read_at = self._stored_position()
        self.messages = 0  # that wait
        whole_bytes = self._read_at
        for message, _ in self._peek():
            self.messages += 1
            whole_bytes += len(_encode(message))
        self.damaged_bytes = self._bytes - whole_bytes  # that a kill or a full disk cut off

    def append(self, message: SpooledMessage) -> None:
        """Raises OSError if the disk refuses or the bound is reached; the message is then not in the queue."""
        data = _encode(message)
        if self._bytes + len(data) > self._max_bytes:
            raise OSError(errno.ENOSPC, f"the backlog has {self._max_bytes:,} bytes (ingest.backlog_max_bytes)")
        if self._write_fd is None or self._write_size >= self._segment_bytes:
            self._open_segment()
        assert self._write_fd is not None
        written = os.write(self._write_fd, data)
        self._write_size += written
        self._bytes += written
        if written < len(data):
            # Nothing may follow the part of a message: a reader stops there.
            os.close(self._write_fd)
            self._write_fd = None
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.messages += 1

    def prepend(self, messages: Sequence[SpooledMessage]) -> None:
        """Puts messages in front of all others. Raises OSError; the queue is then as before."""
        if not messages:
            return
        number = (self._segments[0] if self._segments else self._read_number) - 1
        if self._read_number in self._segments and self._read_at:
            raise OSError(errno.EBUSY, "the oldest messages are being delivered")
        data = b"".join(map(_encode, messages))
        unfinished = self._directory / "prepended.unfinished"
        unfinished.write_bytes(data)
        unfinished.replace(self._path(number))
        self._segments.insert(0, number)
        self._bytes += len(data)
        self.messages += len(messages)
        self._read_number, self._read_at = number, 0
        self._store_position()

    def read(self, limit: int) -> tuple[list[SpooledMessage], tuple[int, int]]:
        """The oldest messages, and the position after them for `release`."""
        batch: list[SpooledMessage] = []
        position = self._read_number, self._read_at
        for message, after in self._peek():
            batch.append(message)
            position = after
            if len(batch) >= limit:
                break
        return batch, position

    def waiting(self) -> Iterator[SpooledMessage]:
        """All messages, oldest first."""
        return (message for message, _ in self._peek())

    def release(self, messages: int, position: tuple[int, int]) -> None:
        """Forgets the messages that `read` gave: they are delivered."""
        self._read_number, self._read_at = position
        self.messages -= messages
        for number in [number for number in self._segments if number < self._read_number or self.messages == 0]:
            if number == self._segments[-1] and self._write_fd is not None:
                os.close(self._write_fd)
                self._write_fd = None
            path = self._path(number)
            self._bytes -= path.stat().st_size
            path.unlink()
            self._segments.remove(number)
        if not self._segments:
            self._read_number, self._read_at = self._read_number + 1, 0
        self._store_position()

    def close(self) -> None:
        if self._write_fd is not None:
            os.close(self._write_fd)
            self._write_fd = None
        os.close(self._lock)

    def _open_segment(self) -> None:
        number = max([self._read_number, *(number + 1 for number in self._segments)])
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path(number), flags, 0o600)
        if self._write_fd is not None:
            os.close(self._write_fd)
        self._write_fd, self._write_size = descriptor, 0
        self._segments.append(number)

    def _peek(self) -> Iterator[tuple[SpooledMessage, tuple[int, int]]]:
        """Messages from the position on, each with the position after it."""
        for number in [number for number in self._segments if number >= self._read_number]:
            start = self._read_at if number == self._read_number else 0
            with self._path(number).open("rb") as file:
                file.seek(start)
                while (message := _read(file)) is not None:
                    start += len(_encode(message))
                    yield message, (number, start)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:09d}{_SUFFIX}"

    def _stored_position(self) -> tuple[int, int]:
        with contextlib.suppress(OSError, ValueError, IndexError):
            number, at = map(int, (self._directory / "position").read_text().split())
            # Segments that were read are removed before the position is stored. So an older segment was put in front
            # right before the process ended.
            if number == self._segments[0]:
                return number, at
        return (self._segments[0] if self._segments else FIRST_SEGMENT), 0

    def _store_position(self) -> None:
        """Best effort: without it, a restart delivers the messages of a segment again."""
        unfinished = self._directory / "position.unfinished"
        with contextlib.suppress(OSError):
            unfinished.write_text(f"{self._read_number} {self._read_at}")
            unfinished.replace(self._directory / "position")


def _encode(message: SpooledMessage) -> bytes:
    topic = message.topic.encode()
    lengths = struct.pack("<HHI", len(topic), len(message.key), len(message.value))
    rest = lengths + topic + message.key + message.value
    return struct.pack("<I", zlib.crc32(rest)) + rest


def _read(file: BinaryIO) -> SpooledMessage | None:
    """The next message; None at the end, and where the file is cut off or damaged."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    checksum, topic_bytes, key_bytes, value_bytes = _HEAD.unpack(head)
    body = file.read(topic_bytes + key_bytes + value_bytes)
    if zlib.crc32(head[4:] + body) != checksum:
        return None
    topic, key = body[:topic_bytes].decode(), body[topic_bytes : topic_bytes + key_bytes]
    return SpooledMessage(topic, key, body[topic_bytes + key_bytes :])
