"""HTTP/2 by hand, for what a well-behaved client would never send (RFC 9113, RFC 7541)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
ENHANCE_YOUR_CALM, REFUSED_STREAM = 11, 7

Frame = tuple[int, int, int, bytes]


class Raw:
    def __init__(self, address: str, timeout_s: float = 10.0) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greet(self) -> None:
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS)

    def send(self, kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> None:
        self.socket.sendall(struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload)

    def open_call(self, stream: int, path: str, extra: tuple[tuple[str, str], ...] = ()) -> None:
        fields: tuple[tuple[str, str], ...] = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
        )
        fields += (("content-type", "application/grpc"), ("te", "trailers"), *extra)
        block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)
        self.send(HEADERS, block[:16384], END_HEADERS if len(block) <= 16384 else 0, stream)
        for start in range(16384, len(block), 16384):
            self.send(9, block[start : start + 16384], END_HEADERS if start + 16384 >= len(block) else 0, stream)

    def frames(self) -> Iterator[Frame]:
        """Until the server closes; (kind, flags, stream, payload)."""
        while head := self._read(9):
            size_kind, flags, stream = struct.unpack(">IBI", head)
            yield size_kind & 0xFF, flags, stream, self._read(size_kind >> 8)

    def settings(self) -> dict[int, int]:
        payload = next(payload for kind, flags, _, payload in self.frames() if kind == SETTINGS and not flags & ACK)
        return dict(struct.iter_unpack(">HI", payload))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                chunk = self.socket.recv(size - len(data))
            except ConnectionResetError:
                return b""
            if not chunk:
                return b""
            data += chunk
        return data


def _text(value: str) -> bytes:
    """A string literal without Huffman coding; its length in seven bits and the continuation of RFC 7541 5.1."""
    size = len(value)
    if size < 127:
        return bytes([size]) + value.encode()
    head, size = bytearray([127]), size - 127
    while size >= 128:
        head.append(size % 128 + 128)
        size //= 128
    head.append(size)
    return bytes(head) + value.encode()
