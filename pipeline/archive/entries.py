"""The lines of a recording, in each of their forms.

Bare:     the exchange's message as it came.
Wrapped:  {"ingest_time": ..., "product_id": ..., "payload": the message}. A message that is not JSON is kept
          too: as text in `payload`, or, if it is not even UTF-8, in `payload_base64`.
Stamped:  the time of receipt as an epoch, a space, the message.
Header:   {"volcast_archive": 1, "venue": ..., "connection": ..., "lost_messages": ...}; it holds no message.

A time of receipt may be missing, null, RFC 3339, without a zone (then UTC) or an epoch.
"""

from __future__ import annotations

import base64
import binascii
import re

import msgspec

from pipeline.archive.lines import BYTE_ORDER_MARK
from pipeline.feed.rfc3339 import MAX_NS, parse_ns
from pipeline.feed.times import parse_recorded_ns
from pipeline.records import NOT_DECODED, DeadReason

HEADER_FORMAT = 1
HEADER_START = b'{"volcast_archive":'  # of each archive file


class Header(msgspec.Struct):
    """Facts about the lines after it."""

    volcast_archive: int  # version of the form
    venue: str = "coinbase"
    connection: int | None = None  # when the connection began, ns since the epoch: files of one connection share it
    lost_messages: int = 0  # messages before this line that are missing, as after a full disk
    products: tuple[str, ...] = ()  # those of the subscription
    max_future_s: float = 0.0  # ingest refused messages further ahead of its clock (ingest.max_future_s); 0: none


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A line: the exchange's message, and what the recorder added."""

    raw: bytes  # the exchange's message; of a damaged line, the line
    ingest_time_ns: int = 0  # 0 if the recording does not say
    damage: tuple[DeadReason, str] | None = None  # what is wrong with the line itself
    header: Header | None = None


class _Wrapper(msgspec.Struct, gc=False):
    """All forms at once. A field may hold any value until it is read."""

    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload_base64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    ingest_time: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    volcast_archive: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_wrapper = msgspec.json.Decoder(_Wrapper).decode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_text = msgspec.json.Decoder(str).decode

_STAMPED = re.compile(rb"(\d[\d.]{8,30})[ \t]+(?=[{\[])")


def read_entry(line: bytes) -> Entry:
    """Never raises."""
    if line.startswith(BYTE_ORDER_MARK):  # of a file that was appended to another one
        line = line.removeprefix(BYTE_ORDER_MARK)
    if line[:1].isdigit():
        return _stamped(line)
    try:
        parts = _decode_wrapper(line)
    except NOT_DECODED:
        return Entry(line)  # the feed's decoder explains the fault
    if parts.payload is msgspec.UNSET and parts.payload_base64 is msgspec.UNSET:
        return Entry(line) if parts.volcast_archive is msgspec.UNSET else _header(line)
    try:
        raw = _payload(parts)
    except (*NOT_DECODED, binascii.Error) as error:
        return Entry(line, damage=("wrong_shape", f"payload: {error}"))
    try:
        return Entry(raw, _ingest_time_ns(parts.ingest_time))
    except (*NOT_DECODED, ValueError):
        got = bytes(parts.ingest_time)[:60].decode(errors="replace")  # type: ignore[arg-type]
        return Entry(raw, damage=("bad_time", f"ingest_time: expected an RFC 3339 time or an epoch, got {got}"))


def _stamped(line: bytes) -> Entry:
    match = _STAMPED.match(line)
    if match is None:
        return Entry(line)  # the feed's decoder explains the fault
    raw = line[match.end() :]
    stamp = match[1]
    try:
        in_ns = len(stamp) == 19 and stamp.isdigit()  # the usual form, in a sixth of the time
        return Entry(raw, int(stamp) if in_ns and int(stamp) <= MAX_NS else parse_recorded_ns(stamp.decode()))
    except ValueError:
        return Entry(raw, damage=("bad_time", f"time of receipt: expected an epoch, got {stamp.decode()}"))


def _header(line: bytes) -> Entry:
    try:
        return Entry(line, header=_decode_header(line))
    except NOT_DECODED as error:
        return Entry(line, damage=("wrong_shape", f"header: {error}"))


def _ingest_time_ns(value: msgspec.Raw | msgspec.UnsetType) -> int:
    if value is msgspec.UNSET or bytes(value) in (b"null", b'""'):
        return 0
    if bytes(value)[:1] != b'"':
        return parse_recorded_ns(bytes(value).decode())
    text = _decode_text(value)
    try:
        return parse_ns(text)  # the form that Volcast writes
    except ValueError:
        return parse_recorded_ns(text)


def _payload(parts: _Wrapper) -> bytes:
    if isinstance(parts.payload, msgspec.Raw):
        raw = bytes(parts.payload)
        return _decode_text(raw).encode() if raw[:1] == b'"' else raw
    assert isinstance(parts.payload_base64, msgspec.Raw)
    return base64.b64decode(_decode_text(parts.payload_base64), validate=True)
