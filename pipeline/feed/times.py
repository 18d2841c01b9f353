"""Times as recorders write them: RFC 3339, without a zone, or an epoch in any unit."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from pipeline.feed.rfc3339 import MAX_NS, NS_PER_S, parse_ns

_EPOCH = re.compile(r"\d{1,19}(\.\d{1,12})?([eE]\+?\d{1,2})?", re.ASCII)
_COMPACT = re.compile(
    r"((?:19[7-9]|20\d|21\d)\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(\d{6})?", re.ASCII
)  # YYYYMMDDhhmmss
_ZONE_NAME = re.compile(r" ?(UTC|GMT)$", re.IGNORECASE)
_LONG_FRACTION = re.compile(r"(\.\d{6})\d*")
# Upper bound of each unit of an epoch -> nanoseconds of the unit. In seconds, 10^11 is the year 5138.
_UNITS = ((10**11, NS_PER_S), (10**14, 1_000_000), (10**17, 1_000), (10**20, 1))


def parse_recorded_ns(text: str) -> int:
    """Nanoseconds since 1970 UTC. A time without a zone is UTC; an epoch's unit follows from its magnitude.

    Raises ValueError for a text that is no time of 1970 to 2262.
    """
    text = text.strip()
    try:
        return parse_ns(text)
    except ValueError:
        pass
    # As epochs, these digits are times of 1970 or after 2262.
    if compact := _COMPACT.fullmatch(text):
        return _iso_ns(f"{compact[1]}T{compact[2] or '00'}")
    if _EPOCH.fullmatch(text):
        return _epoch_ns(text)
    return _iso_ns(text)


def _epoch_ns(text: str) -> int:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no epoch") from None
    unit_ns = next((unit_ns for bound, unit_ns in _UNITS if value < bound), 0)
    ns = round(value * unit_ns) if unit_ns else MAX_NS + 1
    return _within(ns, text)


def _iso_ns(text: str) -> int:
    """Forms beyond RFC 3339: no zone, a named zone, a space for the T, 2026/01/05, an offset without colon, a date."""
    plain = _ZONE_NAME.sub("Z", text).replace("/", "-", 2)
    plain = re.sub(r" (?=[+-]\d)", "", plain)  # before an offset
    moment = datetime.fromisoformat(_LONG_FRACTION.sub(r"\1", plain))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    fraction = re.search(r"[.,](\d{1,9})", text)
    seconds = int(moment.replace(microsecond=0).timestamp())
    return _within(seconds * NS_PER_S + (int(fraction[1].ljust(9, "0")) if fraction else 0), text)


def _within(ns: int, text: str) -> int:
    if not 0 <= ns <= MAX_NS:
        raise ValueError(f"{text!r} is outside of 1970 to 2262")
    return ns
