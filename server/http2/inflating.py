"""Decompression of messages in slices, so that a message that inflates to many bytes does not block the event loop.

`InflateBudget` bounds the inflated bytes of a turn of the event loop, over all connections. `Inflation` is a message in
progress. The ratio bounds the cost of few received bytes, as in Envoy's decompressor.
"""

from __future__ import annotations

import zlib

from server.http2.status import RESOURCE_EXHAUSTED, MessageError

TURN_BYTES = 256 * 1024  # of all messages in one turn: up to 1 ms of work
MAX_RATIO = 100  # of inflated to compressed bytes, for messages above MIN_RATIO_BYTES
MIN_RATIO_BYTES = 1024 * 1024
MEMBER_BYTES = 4096  # cost of beginning a member of a gzip stream, as bytes of the budget
_INPUT_BYTES = 64 * 1024  # given to zlib at once: zlib copies its unused input
_GZIP_BITS = 31
WINDOW_BITS = {b"gzip": _GZIP_BITS, b"deflate": 15}


class InflateBudget:
    """Bytes that may still be inflated in this turn of the event loop."""

    def __init__(self, per_turn: int = TURN_BYTES) -> None:
        self._per_turn = per_turn
        self.left = per_turn

    def refill(self) -> None:
        self.left = self._per_turn


class Inflation:
    """A compressed message in progress, with the content that is inflated so far."""

    def __init__(self, compressed: memoryview, bits: int, max_message: int) -> None:
        self._input = compressed
        self._bits = bits
        self._max_message = max_message
        self._max_bytes = min(max_message, max(MIN_RATIO_BYTES, MAX_RATIO * len(compressed)))
        self._inflate = zlib.decompressobj(bits)
        self._pending = b""  # input that zlib did not use
        self._at = 0
        self._output: list[bytes] = []
        self._size = 0
        self._error: MessageError | None = None
        self._done = False

    def run(self, budget: InflateBudget) -> bool:
        """Inflates until the budget is spent; returns whether `result` is ready."""
        try:
            while not self._done and budget.left > 0:
                self._step(budget)
        except zlib.error:
            self._error = MessageError("a message that cannot be decompressed")
        except MessageError as error:
            self._error = error
        self._done = self._done or self._error is not None
        return self._done

    def result(self) -> bytes:
        """The message. Raises MessageError."""
        if self._error is not None:
            raise self._error
        return b"".join(self._output)

    def _step(self, budget: InflateBudget) -> None:
        given = self._pending
        if not given:
            given = bytes(self._input[self._at : self._at + _INPUT_BYTES])
            self._at += len(given)
        output = self._inflate.decompress(given, min(budget.left, self._max_bytes + 1 - self._size))
        self._pending = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
        budget.left -= len(output) + len(given) - len(self._pending)
        self._size += len(output)
        self._output.append(output)
        if self._size > self._max_bytes:
            self._refuse()
        left = bool(self._pending) or self._at < len(self._input)
        if not self._inflate.eof:
            if not left and not output:
                raise MessageError("a message that cannot be decompressed")
        elif not left:
            self._done = True
        elif self._bits == _GZIP_BITS:  # RFC 1952, section 2.2: a file is a series of members
            self._inflate = zlib.decompressobj(self._bits)
            budget.left -= MEMBER_BYTES
        else:
            raise MessageError("a message that cannot be decompressed")

    def _refuse(self) -> None:
        limit, note = self._max_bytes, ""
        if limit < self._max_message:
            note = f", {MAX_RATIO} times its {len(self._input)} compressed bytes or {MIN_RATIO_BYTES}"
        text = f"a message of more than {limit} bytes when decompressed; at most {limit} are taken{note}"
        raise MessageError(text, RESOURCE_EXHAUSTED)
