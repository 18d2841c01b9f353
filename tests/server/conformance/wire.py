"""A client that does with its connection what it likes: no flow control of its own, no cancelling, no reading."""

from __future__ import annotations

import struct
from typing import Any

from hpack import Decoder

from tests.server.security.raw import ACK, DATA, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, Frame, Raw

WINDOW_UPDATE = 8
CANCEL = 8


class Wire(Raw):
    def __init__(self, address: str, timeout_s: float = 20.0) -> None:
        super().__init__(address, timeout_s)
        self._decoder = Decoder()
        self._fields: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytes] = {}
        self._ended: set[int] = set()
        self.greet()
        # Limits count from here on: a server may be harder on who exceeds them without knowing.
        while self.read()[0] != SETTINGS:
            pass

    def message(self, stream: int, raw: bytes, *, end: bool = True) -> None:
        """One message in one frame of at most 16 KiB."""
        self.send(DATA, struct.pack(">BI", 0, len(raw)) + raw, END_STREAM if end else 0, stream)

    def request(self, stream: int, path: str, raw: bytes, extra: tuple[tuple[str, str], ...] = ()) -> None:
        self.open_call(stream, path, extra)
        self.message(stream, raw)

    def reset(self, stream: int) -> None:
        self.send(RST_STREAM, struct.pack(">I", CANCEL), 0, stream)

    def read(self) -> Frame:
        """Returns the next frame; fails the test if the server has closed the connection."""
        frame = self.next()
        assert frame is not None, "the server closed the connection"
        return frame

    def next(self) -> Frame | None:
        """Returns the next frame, after acknowledging SETTINGS and PING; None if the server has closed."""
        for kind, flags, stream, payload in self.frames():
            if kind == SETTINGS and not flags & ACK:
                self.send(SETTINGS, flags=ACK)
            elif kind == PING and not flags & ACK:
                self.send(PING, payload, ACK)
            return kind, flags, stream, payload
        return None

    def answer(self, stream: int) -> tuple[dict[str, str], list[bytes]]:
        """Headers and trailers of a call, and its messages; `reset` is the code of a call that was reset."""
        while stream not in self._ended:
            kind, flags, of, payload = self.read()
            fields = self._fields.setdefault(of, {})
            if kind == HEADERS:
                pairs: Any = self._decoder.decode(payload)
                fields |= dict(pairs)
            elif kind == DATA:
                self._bodies[of] = self._bodies.get(of, b"") + payload
            elif kind == RST_STREAM:
                fields.setdefault("reset", str(int.from_bytes(payload, "big")))
                self._ended.add(of)
            if flags & END_STREAM and kind in (HEADERS, DATA):
                self._ended.add(of)
        return self._fields[stream], messages_of(self._bodies.get(stream, b""))


def messages_of(body: bytes) -> list[bytes]:
    messages, at = [], 0
    while at < len(body):
        (size,) = struct.unpack_from(">xI", body, at)
        messages.append(body[at + 5 : at + 5 + size])
        at += 5 + size
    return messages
