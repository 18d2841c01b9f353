"""Output goes to a plaintext socket at once, and to the transport if the socket does not take it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from common.http2 import frames
from server.native.connection import ServerConnection
from server.native.front import NativeFront
from tests.server.native.conftest import Transport

LARGE = bytes(range(256)) * 40_000


class SocketTransport(Transport):
    """A transport with a real socket behind it, whose own writes are kept apart."""

    def __init__(self, sock: socket.socket, tls: object = None) -> None:
        super().__init__()
        self._extra = {"socket": sock, "sslcontext": tls}
        self.queued = 0

    def get_extra_info(self, name: str) -> Any:
        return self._extra[name]

    def get_write_buffer_size(self) -> int:
        return self.queued


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.settimeout(10)
    yield ours, theirs
    for sock in (ours, theirs, listener):
        sock.close()


def opened(front: NativeFront, transport: SocketTransport) -> ServerConnection:
    """A connection whose peer has sent its preface, and so gets the server's SETTINGS."""
    connection = front.connect()
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.data_received(frames.PREFACE + frames.settings({}))
    return connection


def read_all(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(65_536)
    return data


async def test_output_is_on_the_socket_before_the_loop_turns(
    front: NativeFront, pair: tuple[socket.socket, socket.socket]
) -> None:
    transport = SocketTransport(pair[0])
    connection = opened(front, transport)
    transport.written = b""
    connection.h2._out.append(b"abc")
    connection.flush_now()
    assert transport.written == b""
    assert pair[1].recv(1000) == b"abc"


async def test_what_the_socket_does_not_take_goes_to_the_transport_in_order(
    front: NativeFront, pair: tuple[socket.socket, socket.socket]
) -> None:
    transport = SocketTransport(pair[0])
    connection = opened(front, transport)
    transport.written = b""
    connection.h2._out.append(LARGE)
    connection.flush_now()
    assert 0 < len(transport.written) < len(LARGE)
    sent = read_all(pair[1], len(LARGE) - len(transport.written))
    assert sent + transport.written == LARGE


@pytest.mark.parametrize("why", ["bytes wait in the transport", "TLS", "closed"])
async def test_the_socket_is_not_written_to_beside_its_transport(
    front: NativeFront, pair: tuple[socket.socket, socket.socket], why: str
) -> None:
    transport = SocketTransport(pair[0], tls=object() if why == "TLS" else None)
    connection = opened(front, transport)
    transport.queued = int(why == "bytes wait in the transport")
    if why == "closed":
        connection.close()
    transport.written = b""
    connection.h2._out.append(b"abc")
    connection.flush_now()
    assert transport.written == b""
    connection.flush()
    assert transport.written == (b"" if why == "closed" else b"abc")  # behind the end of the write side nothing is sent


async def test_a_broken_socket_is_left_to_the_transport(
    front: NativeFront, pair: tuple[socket.socket, socket.socket]
) -> None:
    transport = SocketTransport(pair[0])
    connection = opened(front, transport)
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset at close
    pair[1].close()
    transport.written = b""
    connection.h2._out.append(b"abc")
    connection.flush_now()
    assert transport.written == b"abc"
