"""Seeded damage to messages: bytes, JSON and protobuf."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

# Numbers at and beyond the limits of int64, of doubles and of Python's own texts of integers.
_NUMBERS = (
    "0", "-0", "-1", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity", "9223372036854775807",
    "9223372036854775808", "-9223372036854775809", "1" * 40, "1" * 4301, "0" * 5000, "0.1e1", "1.", "01", "1_000", "+5",
    "0x10", "1e5", "١٢", "true",
)  # fmt: skip
_TEXTS = (
    "",
    " ",
    "\u0000",
    "\ud800",
    "BTC-USDC",
    "🚀-USD",
    "x" * 300,
    "[/red]",
    "2025-02-30T25:61:61Z",
    "nan",
    "١٢٣",
    "-",
)
_BYTES = (
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b'"',
    b"{",
    b"[",
    b"\\",
    b"\xf4\x90\x80\x80",
)


class Mutator:
    """others: messages of another kind, which replace a message now and then."""

    def __init__(self, seed: int, others: list[bytes]) -> None:
        self._random = random.Random(seed)
        self._others = others
        self._of_bytes: list[Callable[[bytes], bytes]] = [
            self._flip, self._flip, self._truncate, self._insert, self._repeat_part, self._remove_part,
            self._random_bytes, self._another,
        ]  # fmt: skip
        self._of_trees: list[Callable[[Any], Any]] = [
            self._swap_fields, self._wrong_type, self._huge_number, self._nest, self._drop_field, self._text,
            self._wrap, self._change_digits,
        ]  # fmt: skip

    def any(self, message: bytes) -> bytes:
        """A damaged form of a JSON message."""
        draw = self._random.random()
        if draw < 0.4:
            return self.raw(message)
        if draw < 0.45:
            return self._duplicate_key(message)
        mutated = self._as_json(message)
        return self.raw(mutated) if draw > 0.95 else mutated

    def raw(self, message: bytes) -> bytes:
        """One to three changes of bytes; of any kind of message."""
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            message = self._random.choice(self._of_bytes)(message)
        return message

    def protobuf(self, message: bytes) -> bytes:
        """A change of bytes, or a field of another number, wire type or length before, after or within the message."""
        draw = self._random
        if draw.random() < 0.5:
            return self.raw(message)
        number, wire_type = draw.choice((1, 2, 5, 8, 13, 15, 16, 100, 2**28)), draw.randrange(8)
        tag = _varint(number << 3 | wire_type)
        value = draw.choice(
            (b"", _varint(draw.getrandbits(64)), draw.randbytes(8), _varint(draw.getrandbits(20)) + b"abc")
        )
        at = draw.choice((0, len(message), draw.randrange(len(message) + 1)))
        return message[:at] + tag + value + message[at:]

    # Bytes.

    def _flip(self, message: bytes) -> bytes:
        if not message:
            return message
        changed = bytearray(message)
        for _ in range(self._random.choice((1, 1, 2, 8))):
            changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    def _truncate(self, message: bytes) -> bytes:
        return message[: self._random.randrange(len(message) + 1)]

    def _insert(self, message: bytes) -> bytes:
        at = self._random.randrange(len(message) + 1)
        return message[:at] + self._random.choice(_BYTES) + message[at:]

    def _part(self, message: bytes) -> tuple[int, int]:
        start = self._random.randrange(len(message) + 1)
        return start, min(len(message), start + self._random.randrange(40))

    def _repeat_part(self, message: bytes) -> bytes:
        start, end = self._part(message)
        return message[:end] + message[start:end] * self._random.choice((1, 2, 50)) + message[end:]

    def _remove_part(self, message: bytes) -> bytes:
        start, end = self._part(message)
        return message[:start] + message[end:]

    def _random_bytes(self, message: bytes) -> bytes:
        return self._random.randbytes(self._random.randrange(60))

    def _another(self, message: bytes) -> bytes:
        return self._random.choice(self._others)

    # JSON.

    def _as_json(self, message: bytes) -> bytes:
        try:
            tree = json.loads(message)
        except (ValueError, RecursionError):
            return self.raw(message)
        for _ in range(self._random.choice((1, 1, 2))):
            tree = self._random.choice(self._of_trees)(tree)
        text = json.dumps(tree, separators=(",", ":"), ensure_ascii=self._random.random() < 0.5)
        # Numbers that json cannot write stand in the text as marked strings.
        return text.replace('"\\u0001', "").replace('"\x01', "").replace('\\u0001"', "").replace('\x01"', "").encode(
            "utf-8", "surrogatepass"
        )  # fmt: skip

    def _place(self, tree: Any) -> tuple[Any, Any] | None:
        """A container anywhere in the tree and a key or index of it."""
        places: list[tuple[Any, Any]] = []
        stack = [tree]
        while stack:
            node = stack.pop()
            pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
            for key, value in pairs:
                places.append((node, key))
                if isinstance(value, dict | list):
                    stack.append(value)
        return self._random.choice(places) if places else None

    def _set(self, tree: Any, value: Any) -> Any:
        place = self._place(tree)
        if place is None:
            return value
        place[0][place[1]] = value
        return tree

    def _swap_fields(self, tree: Any) -> Any:
        places = [place for place in (self._place(tree), self._place(tree)) if place is not None]
        values = [node[key] for node, key in places]
        if len(values) == 2 and not any(isinstance(value, dict | list) for value in values):
            for (node, key), value in zip(places, reversed(values), strict=True):
                node[key] = value
        return tree

    def _wrong_type(self, tree: Any) -> Any:
        return self._set(tree, self._random.choice((None, True, False, [], {}, 0, -1, 1.5, "", [None], {"": None})))

    def _huge_number(self, tree: Any) -> Any:
        number = self._random.choice(_NUMBERS)
        return self._set(tree, number if self._random.random() < 0.5 else f"\x01{number}\x01")

    def _nest(self, tree: Any) -> Any:
        # About 1,000 levels are the limit of Python's parser, 512 or 1,024 those of others.
        depth = self._random.choice((3, 60, self._random.randrange(480, 540), self._random.randrange(940, 1000)))
        return self._set(tree, f"\x01{'[' * depth}null{']' * depth}\x01")

    def _drop_field(self, tree: Any) -> Any:
        place = self._place(tree)
        if place is not None:
            del place[0][place[1]]
        return tree

    def _text(self, tree: Any) -> Any:
        return self._set(tree, self._random.choice(_TEXTS))

    def _wrap(self, tree: Any) -> Any:
        return self._random.choice(
            ([tree], {"data": tree}, {"payload": tree}, {"stream": "x@trade", "data": tree}, [tree, tree])
        )

    def _change_digits(self, tree: Any) -> Any:
        place = self._place(tree)
        if place is None or not isinstance(place[0][place[1]], str | int | float):
            return tree
        value = place[0][place[1]]
        text = "".join(
            self._random.choice("0123456789") if c.isdigit() and self._random.random() < 0.3 else c for c in str(value)
        )
        place[0][place[1]] = text if isinstance(value, str) else f"\x01{text}\x01"
        return tree

    def _duplicate_key(self, message: bytes) -> bytes:
        colon = message.find(b'":')
        quote = message.rfind(b'"', 0, colon)
        if colon < 0 or quote < 0:
            return self.raw(message)
        value = self._random.choice((b"null", b"1", b'"x"', b"{}", b"[]"))
        return message[:quote] + message[quote : colon + 2] + value + b"," + message[quote:]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
