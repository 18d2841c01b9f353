"""Text of a caller, as messages and logs show it."""

from __future__ import annotations

from collections.abc import Iterable

MAX_SHOWN = 40  # characters
MAX_LISTED = 16  # names


def shown(text: str, max_chars: int = MAX_SHOWN) -> str:
    """The text cut to length. A character that is not printable is escaped: it could control a terminal.

    >>> shown("größe\\x1b[31m")
    'größe\\\\x1b[31m'
    """
    short = text if len(text) <= max_chars else text[:max_chars] + "..."
    if short.isprintable():
        return short
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in short)


def listed(names: Iterable[str], max_names: int = MAX_LISTED) -> str:
    """The first names, separated by commas.

    >>> listed(["price", "midprice", "spread"], 2)
    'price, midprice, ...'
    """
    parts = [shown(name) for name in names]
    return ", ".join([*parts[:max_names], "..."] if len(parts) > max_names else parts)
