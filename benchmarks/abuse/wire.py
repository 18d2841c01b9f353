"""HTTP/2 by hand, as fast as Python sends it."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic, sleep
from typing import Self

from hpack import Decoder, HPACKError

from benchmarks.abuse.corpus import STREAM, header_block
from common.http2 import frames
from volcast.v1 import StreamPredictResponse

GREETING = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**30}) + frames.window_update(0, 2**30)
NO_STATUS = -1  # a call that was reset, or whose connection was closed
ROUND = 32


class Wire:
    def __init__(self, address: str, timeout_s: float = 10.0, greeting: bytes = GREETING) -> None:
        host, _, port = address.rpartition(":")
        self.socket = _connected((host, int(port)), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = Decoder()
        self._rest = b""
        self._next_id = 1
        try:
            self.socket.sendall(greeting)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def calls(self, messages: Iterable[tuple[str, bytes]]) -> Counter[int]:
        """Sends calls at once, right but for their messages; how often each grpc-status came back."""
        waiting: dict[int, tuple[str, list[bytes]]] = {}
        data = []
        for path, raw in messages:
            body = frames.MESSAGE.pack(0, len(raw)) + raw
            data.append(frames.frame(frames.HEADERS, 4, self._next_id, header_block(path)))
            for at in range(0, len(body), 16_384):
                end = frames.END_STREAM if at + 16_384 >= len(body) else 0
                data.append(frames.frame(frames.DATA, end, self._next_id, body[at : at + 16_384]))
            waiting[self._next_id] = (path, [])
            self._next_id += 2
        statuses: Counter[int] = Counter()
        try:
            self.socket.sendall(b"".join(data))
        except OSError:  # the server hung up first
            statuses[NO_STATUS] += len(waiting)
            return statuses
        while waiting:
            frame = self.read()
            if frame is None:
                statuses[NO_STATUS] += len(waiting)
                return statuses
            self._take(*frame, waiting, statuses)
        return statuses

    def _take(
        self, kind: int, flags: int, stream: int, payload: bytes, waiting: dict[int, tuple[str, list[bytes]]],
        statuses: Counter[int],
    ) -> None:  # fmt: skip
        if kind == frames.HEADERS:
            fields = dict(self._decoder.decode(payload, raw=True))
            if flags & frames.END_STREAM and stream in waiting:
                path, bodies = waiting.pop(stream)
                statuses[int(fields.get(b"grpc-status", NO_STATUS))] += 1
                if path == STREAM:
                    statuses.update(_frame_codes(b"".join(bodies)))
        elif kind == frames.DATA and stream in waiting:
            waiting[stream][1].append(payload)
        elif kind == frames.RST_STREAM and stream in waiting:
            del waiting[stream]
            statuses[NO_STATUS] += 1

    def read(self) -> tuple[int, int, int, bytes] | None:
        """The next frame; None where the server has closed."""
        while True:
            if len(self._rest) >= 9:
                word, flags, stream = frames.HEADER.unpack_from(self._rest)
                until = 9 + (word >> 8)
                if len(self._rest) >= until:
                    payload, self._rest = self._rest[9:until], self._rest[until:]
                    kind = word & 0xFF
                    if kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
                        self._acknowledge(kind, payload if kind == frames.PING else b"")
                    return kind, flags, stream, payload
            try:
                more = self.socket.recv(1 << 18)
            except (ConnectionError, TimeoutError):
                more = b""
            if not more:
                return None
            self._rest += more

    def status(self, block: bytes) -> int:
        return int(dict(self._decoder.decode(block, raw=True)).get(b"grpc-status", NO_STATUS))

    def _acknowledge(self, kind: int, payload: bytes) -> None:
        with suppress(ConnectionError):  # our side may be closed
            self.socket.sendall(frames.frame(kind, frames.ACK, 0, payload))


def _connected(address: tuple[str, int], timeout_s: float) -> socket.socket:
    """The grpcio front may be listening anew at this moment (server.grpcio.front)."""
    until = monotonic() + 2
    while True:
        try:
            return socket.create_connection(address, timeout_s)
        except ConnectionRefusedError:
            if monotonic() > until:
                raise
            sleep(0.01)


def replay(address: str, sent: bytes) -> set[int]:
    """A connection that sends this, ends its side and reads to the end; the statuses that came, none is needed."""
    found: set[int] = set()
    with suppress(OSError), Wire(address, 5.0, frames.PREFACE + frames.settings({}) + sent) as wire:
        wire.socket.shutdown(socket.SHUT_WR)
        while (frame := wire.read()) is not None:
            if frame[0] == frames.HEADERS:
                with suppress(HPACKError):
                    found.add(wire.status(frame[3]))
    return found


def _frame_codes(body: bytes) -> Counter[int]:
    """Codes of the errors in a stream's answers."""
    codes: Counter[int] = Counter()
    at = 0
    while at + 5 <= len(body):
        until = at + 5 + int.from_bytes(body[at + 1 : at + 5], "big")
        answer = StreamPredictResponse.FromString(body[at + 5 : until])
        codes[answer.error.code if answer.HasField("error") else 0] += 1
        at = until
    return codes
