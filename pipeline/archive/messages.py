"""Reads recordings of an exchange's messages: NDJSON, plain or gzipped, in the forms of `entries.py`.

Reading never stops at damage: a line that is cut off or is no message becomes a dead letter, and the
lines before the damage in a truncated .gz are read. A file that cannot be opened at all is an InputError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from common.errors import InputError
from pipeline.archive.entries import Entry, Header, read_entry
from pipeline.archive.lines import read_lines
from pipeline.archive.paths import expand_name
from pipeline.feed.protocol import Connections, Decoder, Feed, Position, Result
from pipeline.feed.rfc3339 import MAX_NS, NS_PER_S
from pipeline.feed.venues import FEEDS, recognized
from pipeline.records import DeadLetter

_PEEK_LINES = 1000  # how far into a file its first time and its exchange are searched for
NO_TIME_NS = 2**63  # sorts after every time


class Message(msgspec.Struct, frozen=True, gc=False):
    """A line of a recording: the exchange's message, and what the recording knows of it."""

    raw: bytes  # the exchange's message; of a damaged line, the line
    ingest_time_ns: int  # 0 if the recording does not say
    source: str  # "FILE:LINE"
    starts_connection: bool  # the first message of a connection
    sequence_num: int | None  # None if the message has none
    damage: DeadLetter | None  # the recording itself is damaged here; raw is not a message
    venue: str = "coinbase"
    max_future_ns: int = 0  # a message further ahead of its ingest time was refused live; 0: none was


class _Line(msgspec.Struct, frozen=True, gc=False):
    content: bytes
    entry: Entry
    source: str  # "FILE:LINE"
    damage: DeadLetter | None  # of a line that is cut off, or whose recorder's part cannot be read


class SurveyedFile(NamedTuple):
    path: Path
    feed: Feed
    first_time_ns: int  # event time of the first message with a time


def read_archive(paths: Iterable[Path], *, gap_after_ns: int = 0) -> Iterator[Result]:
    """The records of recordings, in time order, with a gap (reason "reconnect") where one connection ends
    and the next begins.

    gap_after_ns: if above 0, a product's silence of more than this is the gap, and sequence numbers are ignored
        (`ingest.gap_after_s`).

    Raises InputError, at the call, for a path that cannot be read.
    """
    return _records(read_messages(paths), gap_after_ns)


def _records(messages: Iterator[Message], gap_after_ns: int) -> Iterator[Result]:
    decoders: dict[str, Decoder] = {}  # by venue
    for message in messages:
        venue = message.venue
        decoder = decoders.get(venue)
        if decoder is None:
            decoder = FEEDS[venue].decoder(max_future_ns=message.max_future_ns, gap_after_ns=gap_after_ns)
            decoders[venue] = decoder
        elif message.starts_connection:
            decoder = decoders[venue] = decoder.reconnected(message.max_future_ns)
        if message.damage is not None:
            yield message.damage
        else:
            yield from decoder.decode(message.raw, message.ingest_time_ns, message.source)


def read_messages(paths: Iterable[Path]) -> Iterator[Message]:
    """The messages of recordings as they were received, files in the order of their first message's time.

    The exchange's own rule finds where connections start (`Feed.connections`), unless a header says.

    Raises InputError, at the call, for a path that cannot be read.
    """
    return _messages(recordings_in_order(paths))


def recordings_in_order(paths: Iterable[Path]) -> list[SurveyedFile]:
    """The files of recordings by the time of their first message, then by name.

    Raises InputError for a path that cannot be read.
    """
    files = [file for path in paths for file in expand_name(str(path))]
    if not files:
        raise InputError("no recording was named")
    return sorted(map(_survey, files), key=lambda file: (file.first_time_ns, file.path.name))


def _messages(files: list[SurveyedFile]) -> Iterator[Message]:
    places: dict[str, _Places] = {}  # by venue
    for file in files:
        venue = file.feed.venue
        place = places.setdefault(venue, _Places(file.feed))
        place.begin_file()
        for line in _lines(file.path):
            entry = line.entry
            if entry.header is not None:
                place.read_header(entry.header)
                continue
            at = place.next(entry.raw)
            raw = entry.raw if line.damage is None else line.content
            yield Message(
                raw,
                entry.ingest_time_ns,
                line.source,
                at.starts_connection,
                at.sequence_num,
                line.damage,
                venue,
                place.max_future_ns,
            )


class _Places:
    """Where each message of an exchange's recordings stands, file after file."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._finder: Connections = feed.connections()
        self._connection: int | None = None  # as the last header says
        self._first_of_file = True
        self._named = False  # a header of this file names the connection
        self.max_future_ns = 0  # as the header of this file says

    def begin_file(self) -> None:
        self._first_of_file = True
        self._named = False
        self.max_future_ns = 0

    def read_header(self, header: Header) -> None:
        known = header.connection is not None
        if known and header.connection == self._connection and not header.lost_messages:
            self._first_of_file = False
        elif header.lost_messages or (known and self._connection is not None):
            self._finder = self._feed.connections()
            self._first_of_file = True
        self._connection = header.connection
        self._named = known
        self.max_future_ns = _as_ns(header.max_future_s)

    def next(self, raw: bytes) -> Position:
        position = self._finder.place(raw, first_of_file=self._first_of_file)
        if self._named and not self._first_of_file:
            # The header names each connection. A guess from numbers and times could only differ from what ingest saw.
            return msgspec.structs.replace(position, starts_connection=False)
        if position.starts_connection or position.sequence_num is not None:
            self._first_of_file = False
        return position


def _as_ns(seconds: float) -> int:
    """0 for a time that is none, as of a damaged header."""
    return round(seconds * NS_PER_S) if 0 < seconds < MAX_NS / NS_PER_S else 0


def _survey(path: Path) -> SurveyedFile:
    """Finds exchange and first event time of a file. A file without any time comes last."""
    feed: Feed | None = None
    for count, line in enumerate(_lines(path)):
        entry = line.entry
        if count >= _PEEK_LINES:
            break
        if entry.header is not None:
            feed = _feed_of(entry.header, path)
        elif line.damage is None:
            feed = feed or recognized(entry.raw)
            time_ns = feed.event_time_ns(entry.raw, entry.ingest_time_ns) if feed else None
            if feed is not None and time_ns is not None:
                return SurveyedFile(path, feed, time_ns)
    return SurveyedFile(path, feed or FEEDS["coinbase"], NO_TIME_NS)


def _feed_of(header: Header, path: Path) -> Feed:
    try:
        return FEEDS[header.venue]
    except KeyError:
        known = ", ".join(FEEDS)
        raise InputError(f"recording {path}: venue: expected one of {known}, got {header.venue!r:.60}") from None


def _lines(path: Path) -> Iterator[_Line]:
    """The lines that are not empty."""
    name = f"{path}:"  # a path is slow to turn into text
    for line in read_lines(path):
        content, error, source = line.content, line.error, f"{name}{line.number}"
        if error:
            yield _Line(content, Entry(content), source, DeadLetter.of("not_json", error, source, content))
        elif content and not content.isspace():
            entry = read_entry(content)
            damage = DeadLetter.of(*entry.damage, source, content) if entry.damage else None
            yield _Line(content, entry, source, damage)
