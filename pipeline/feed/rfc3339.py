"""RFC 3339 timestamps as int64 nanoseconds UTC, exactly. (datetime stops at microseconds.)"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

NS_PER_S = 1_000_000_000
MAX_NS = 2**63 - 1  # 2262-04-11

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SCALE: tuple[int, ...] = tuple(int(10 ** (9 - digits)) for digits in range(10))
_SECONDS = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)", re.ASCII)
_REST = re.compile(r"(?:\.(\d{1,9}))?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII)


def parse_ns(text: str) -> int:
    """Nanoseconds since 1970 UTC of a timestamp with up to nine fractional digits and any offset.

    Raises ValueError for any other text, for leap seconds, which have no place on this
    scale, and outside of 1970 to 2262, where int64 ends.
    """
    digits = text[20:-1]
    if text[-1:] == "Z" and text[19:20] == "." and len(digits) <= 9 and digits.isdigit() and digits.isascii():
        ns = _epoch_s(text[:19]) * NS_PER_S + int(digits) * _SCALE[len(digits)]
    else:
        ns = _parse_any(text)
    if not 0 <= ns <= MAX_NS:
        raise ValueError(f"{text!r} is outside of 1970 to 2262")
    return ns


def format_ns(ns: int) -> str:
    """The timestamp as the exchange writes it: UTC with a Z, no trailing zeros in the fraction."""
    seconds, fraction = divmod(ns, NS_PER_S)
    text = _second_text(seconds)
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


@lru_cache(maxsize=128)
def _epoch_s(text: str) -> int:
    """Seconds since 1970 of a date and time. Cached, since the ticks of one second share it."""
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no date and time such as 2026-04-05T22:35:13")
    year, month, day, hour, minute, second = map(int, match.groups())
    since = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - _EPOCH
    return since.days * 86_400 + since.seconds


def _parse_any(text: str) -> int:
    rest = _REST.fullmatch(text, 19)
    if rest is None:
        raise ValueError(f"{text!r} is no RFC 3339 timestamp with up to nine fractional digits")
    fraction, sign, hours, minutes = rest.groups()
    ns = _epoch_s(text[:19]) * NS_PER_S
    if fraction:
        ns += int(fraction) * _SCALE[len(fraction)]
    if sign:
        offset_ns = (int(hours) * 3600 + int(minutes) * 60) * NS_PER_S
        ns += offset_ns if sign == "-" else -offset_ns
    return ns


@lru_cache(maxsize=128)
def _second_text(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
