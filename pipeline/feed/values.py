"""Checks of a quote's values, and the texts that explain a refused quote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

import msgspec

from pipeline.records import DeadReason

# What msgspec.convert raises for a value that is none of the type (UnicodeEncodeError: text with a lone surrogate).
NOT_CONVERTED = (msgspec.ValidationError, UnicodeEncodeError, RecursionError)

# JSON's number grammar, and the names of NaN and infinity, which get a reason of their own.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.ASCII | re.IGNORECASE)


def sound_quote(price: float, bid: float, ask: float, bid_quantity: float, ask_quantity: float) -> bool:
    """Whether all values are finite, prices positive, quantities not negative, and bid not above ask.

    One chain of comparisons, false for NaN.
    """
    return 0 < price < inf and 0 < bid <= ask < inf and 0 <= bid_quantity < inf and 0 <= ask_quantity < inf


def explain_quote(
    where: str, fields: Mapping[str, Any], prices: Sequence[str], quantities: Sequence[str], bid: str, ask: str
) -> tuple[DeadReason, str]:
    """Reason and detail for a quote that is not sound: the first faulty field, its value, what was expected.

    prices, quantities, bid, ask: names of fields.
    """
    numbers: dict[str, float] = {}
    for name in (*prices, *quantities):
        number = _number(fields.get(name))
        if number is None:
            return "wrong_shape", f"{where}.{name}: expected a number as text, got {shown(fields.get(name))}"
        numbers[name] = number
    for name, number in numbers.items():
        if not isfinite(number):
            return "not_finite", f"{where}.{name}: expected a finite number, got {shown(fields[name])}"
        if number < 0 or (number == 0 and name in prices):
            expected = "a price above 0" if name in prices else "a quantity of 0 or more"
            return "not_positive", f"{where}.{name}: expected {expected}, got {shown(fields[name])}"
    if numbers[bid] > numbers[ask]:
        detail = f"{where}.{bid}: expected at most the best ask {shown(fields[ask])}, got {shown(fields[bid])}"
        return "crossed_quote", detail
    return "wrong_shape", f"{where}: expected a quote, got {shown(dict(fields))}"


def shown(value: Any) -> str:
    """A value as text, cut to 80 characters. Its escapes keep it valid UTF-8, which lone surrogates of JSON are not."""
    try:
        text = repr(value)
    except RecursionError:  # repr takes a few more levels than the parser took
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else text[:79] + "…"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return inf
