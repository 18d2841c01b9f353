"""Reads recordings of the exchange's messages: NDJSON, plain or gzipped, in two forms.

Bare:     the exchange's message as it came, one a line.
Wrapped:  {"ingest_time": RFC 3339, "product_id": ..., "payload": the message}. A message that is not JSON
          is kept too: as text in `payload`, or, where it is not even UTF-8, in `payload_base64`.

Reading never stops at damage: a line that is cut off or is no message becomes a dead letter, and the
lines before the damage in a truncated .gz are read. Whatever cannot be opened at all is an InputError.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from common.errors import InputError
from pipeline.archive.lines import read_lines
from pipeline.archive.paths import expand_name
from pipeline.feed.coinbase import CoinbaseDecoder
from pipeline.feed.rfc3339 import parse_ns
from pipeline.records import DeadLetter, Gap, LateTick, Tick

_PEEK_LINES = 1000  # how far into a file its first time is looked for
# A counter that falls by more than this inside a file is a new connection whose first line is damaged or
# lost. Old messages are smaller too, but come from nearby.
_MAX_OLD_BY = 1000


class Message(NamedTuple):
    """One line of a recording: what the exchange sent, and what the recording knows of it."""

    raw: bytes  # the exchange's message; of a damaged line, the line
    ingest_time_ns: int  # 0 where the recording does not say
    source: str  # "FILE:LINE"
    starts_connection: bool  # the first message of a connection
    sequence_num: int | None  # None where the message does not say
    damage: DeadLetter | None  # the recording itself is damaged here; raw is not a message


class _Line(msgspec.Struct):
    """Both forms at once; anything may stand in a field until it is looked at."""

    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload_base64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    ingest_time: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Head(msgspec.Struct):
    sequence_num: int | None = None
    timestamp: str = ""


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_head = msgspec.json.Decoder(_Head, strict=False).decode
_decode_text = msgspec.json.Decoder(str).decode
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_archive(paths: Iterable[Path]) -> Iterator[Tick | Gap | LateTick | DeadLetter]:
    """The records of recordings, in time order, with a gap (reason "reconnect") where one connection ends
    and the next begins.

    Raises InputError, at the call, for a path that cannot be read.
    """
    return _records(read_messages(paths))


def _records(messages: Iterator[Message]) -> Iterator[Tick | Gap | LateTick | DeadLetter]:
    decoder = CoinbaseDecoder()
    for message in messages:
        if message.starts_connection:
            decoder = decoder.reconnected()
        if message.damage is not None:
            yield message.damage
        else:
            yield from decoder.decode(message.raw, message.ingest_time_ns, message.source)


def read_messages(paths: Iterable[Path]) -> Iterator[Message]:
    """The messages of recordings as they were received, files in the order of their first message's time.

    A connection starts where a file does not go on exactly where the one before it ended, and where the
    counter falls inside a file, back to 0 or by more than _MAX_OLD_BY.

    Raises InputError, at the call, for a path that cannot be read.
    """
    return _messages([file for _, file in recordings_in_order(paths)])


def recordings_in_order(paths: Iterable[Path]) -> list[tuple[int, Path]]:
    """The files of recordings with their first message's time (2^63 where none has one), by time and name.

    Raises InputError for a path that cannot be read.
    """
    files = [file for path in paths for file in expand_name(str(path))]
    if not files:
        raise InputError("no recording was named")
    return sorted(((_first_time_ns(file), file) for file in files), key=lambda pair: (pair[0], pair[1].name))


def _messages(files: list[Path]) -> Iterator[Message]:
    last: int | None = None
    for file in files:
        at_start = True
        for message in _file_messages(file):
            sequence = message.sequence_num
            if sequence is None:
                yield message
                continue
            if last is None:
                starts = True
            elif at_start:
                starts = sequence != last + 1
            else:
                starts = sequence == 0 < last or last - sequence > _MAX_OLD_BY
            at_start = False
            last = sequence if starts or last is None else max(last, sequence)
            yield message._replace(starts_connection=True) if starts else message


def _first_time_ns(path: Path) -> int:
    """Event time of the first message that has one; a file without any comes last."""
    for count, message in enumerate(_file_messages(path)):
        if count >= _PEEK_LINES:
            break
        if message.damage is None:
            try:
                return parse_ns(_decode_head(message.raw).timestamp)
            except (*_NOT_DECODED, ValueError):
                continue
    return 2**63


def _file_messages(path: Path) -> Iterator[Message]:
    for number, line, error in read_lines(path):
        source = f"{path}:{number}"
        if error:
            yield Message(line, 0, source, False, None, DeadLetter.of("not_json", error, source, line))
        elif line.strip():
            yield _message(line, source)


def _message(line: bytes, source: str) -> Message:
    try:
        parts = _decode_line(line)
    except _NOT_DECODED:
        return Message(line, 0, source, False, None, None)  # the feed's decoder says what is wrong with it
    if parts.payload is msgspec.UNSET and parts.payload_base64 is msgspec.UNSET:
        return Message(line, 0, source, False, _sequence_num(line), None)
    try:
        raw = _payload(parts)
    except (*_NOT_DECODED, binascii.Error) as error:
        damage = DeadLetter.of("wrong_shape", f"payload: {error}", source, line)
        return Message(line, 0, source, False, None, damage)
    try:
        ingest_time_ns = 0 if parts.ingest_time is msgspec.UNSET else parse_ns(_decode_text(parts.ingest_time))
    except (*_NOT_DECODED, ValueError):
        got = bytes(parts.ingest_time)[:60].decode(errors="replace")  # type: ignore[arg-type]
        detail = f"ingest_time: expected an RFC 3339 time with its offset from UTC, got {got}"
        return Message(line, 0, source, False, _sequence_num(raw), DeadLetter.of("bad_time", detail, source, line))
    return Message(raw, ingest_time_ns, source, False, _sequence_num(raw), None)


def _payload(parts: _Line) -> bytes:
    if isinstance(parts.payload, msgspec.Raw):
        raw = bytes(parts.payload)
        return _decode_text(raw).encode() if raw[:1] == b'"' else raw
    assert isinstance(parts.payload_base64, msgspec.Raw)
    return base64.b64decode(_decode_text(parts.payload_base64), validate=True)


def _sequence_num(raw: bytes) -> int | None:
    try:
        return _decode_head(raw).sequence_num
    except _NOT_DECODED:
        return None
