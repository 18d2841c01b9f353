"""The client's own cutting of frames, beside the library's parser as the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri
from websockets.utils import accept_key

from pipeline.stream.websocket import MAX_WAITING, BatchConnection

LIMIT_BYTES = 70_000


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def opened() -> BatchConnection:
    """A connection whose handshake is done."""
    connection = BatchConnection(ClientProtocol(parse_uri("ws://localhost"), max_size=LIMIT_BYTES, state=State.OPEN))
    connection.response = Response(101, "Switching Protocols", Headers())
    connection.connection_made(Transport())
    return connection


async def received(connection: BatchConnection) -> list[bytes]:
    """All messages until the connection has ended."""
    raws: list[bytes] = []
    while True:
        try:
            raws += [raw for raw, _ in await connection.receive()]
        except ConnectionClosed:
            return raws


def expected(data: bytes) -> tuple[list[bytes], int | None]:
    """What the library alone makes of the bytes: messages, and the code of the closing frame that it sends."""
    protocol = ClientProtocol(parse_uri("ws://localhost"), max_size=LIMIT_BYTES, state=State.OPEN)
    protocol.receive_data(data)
    messages: list[bytes] = []
    parts: list[bytes] = []
    for frame in protocol.events_received():
        if isinstance(frame, Frame) and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            parts.append(bytes(frame.data))
            if frame.fin:
                messages.append(b"".join(parts))
                parts = []
    return messages, protocol.close_sent.code if protocol.close_sent else None


sizes = st.sampled_from([0, 1, 124, 125, 126, 127, 128, 65_535, 65_536, LIMIT_BYTES, LIMIT_BYTES + 1]) | st.integers(
    0, 300
)


def encoded(opcode: int, size: int, fin: bool, masked: bool, reserved: bool) -> bytes:
    """A frame of zeros, which may break the protocol."""
    first, mask = opcode | fin << 7 | reserved << 6, masked << 7
    if size < 126:
        head = bytes([first, mask | size])
    elif size < 65_536:
        head = bytes([first, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, mask | 127]) + size.to_bytes(8, "big")
    return head + bytes(4 * masked + size)


rarely = st.sampled_from([False] * 12 + [True])
opcodes = st.sampled_from([Opcode.TEXT] * 3 + [Opcode.BINARY, Opcode.CONT, Opcode.PING, Opcode.PONG, 3])
frames = st.builds(encoded, opcodes, sizes, st.sampled_from([True, True, True, False]), rarely, rarely)
closing = Frame(Opcode.CLOSE, Close(CloseCode.NORMAL_CLOSURE, "the end").serialize()).serialize(mask=False)
closing_without_code = Frame(Opcode.CLOSE, b"").serialize(mask=False)


@given(
    st.lists(frames, max_size=8),
    st.sampled_from([b"", closing, closing_without_code]),
    st.lists(st.integers(1, 70_000), max_size=12),
)
def test_messages_and_the_end_are_those_of_the_library_however_the_bytes_arrive(
    parts: list[bytes], end: bytes, cuts: list[int]
) -> None:
    data = b"".join(parts) + end

    async def run() -> tuple[list[bytes], int | None]:
        connection = opened()
        rest = data
        for cut in cuts:
            connection.data_received(rest[:cut])
            rest = rest[cut:]
        connection.data_received(rest)
        sent = connection.protocol.close_sent
        connection.connection_lost(None)
        return await received(connection), sent.code if sent else None

    assert asyncio.run(run()) == expected(data)


async def test_a_ping_is_answered_between_messages() -> None:
    connection = opened()
    text = Frame(Opcode.TEXT, b"a").serialize(mask=False)
    connection.data_received(text + Frame(Opcode.PING, b"here?").serialize(mask=False) + text)
    assert [raw for raw, _ in await connection.receive()] == [b"a", b"a"]
    assert isinstance(connection.transport, Transport)
    assert connection.transport.written[0] == 0x80 | Opcode.PONG


async def test_all_messages_of_a_read_are_a_batch_with_one_time() -> None:
    connection = opened()
    connection.data_received(b"".join(Frame(Opcode.TEXT, b"%d" % n).serialize(mask=False) for n in range(3)))
    batch = await connection.receive()
    assert [raw for raw, _ in batch] == [b"0", b"1", b"2"]
    assert len({time_ns for _, time_ns in batch}) == 1


@pytest.mark.parametrize(("messages", "reading"), [(MAX_WAITING, True), (MAX_WAITING + 1, False)])
async def test_the_socket_is_not_read_while_too_many_messages_wait(messages: int, reading: bool) -> None:
    connection = opened()
    connection.data_received(Frame(Opcode.TEXT, b"a").serialize(mask=False) * messages)
    assert isinstance(connection.transport, Transport)
    assert connection.transport.reading is reading
    assert len(await connection.receive()) == messages
    assert connection.transport.reading


async def test_messages_that_arrive_while_receive_waits_wake_it() -> None:
    connection = opened()
    waiting = asyncio.create_task(connection.receive())
    await asyncio.sleep(0)
    connection.data_received(Frame(Opcode.TEXT, b"a").serialize(mask=False))
    assert [raw for raw, _ in await waiting] == [b"a"]


RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)


@asynccontextmanager
async def raw_server(*, first_bytes: int) -> AsyncIterator[str]:
    """Answers the handshake and sends a message with it; so many bytes come first, then the rest."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
        message = Frame(Opcode.TEXT, b"with the handshake").serialize(mask=False)
        data = RESPONSE % accept_key(key).encode() + message + closing
        writer.write(data[:first_bytes])
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(data[first_bytes:])
        await reader.read(1)  # the answer to the closing frame
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("first_bytes", [1, 127, 128, 129, 130, 131, 10_000])
async def test_a_message_that_comes_with_the_handshake_is_received(first_bytes: int) -> None:
    async with raw_server(first_bytes=first_bytes) as url:
        connection = await connect(url, create_connection=BatchConnection, compression=None, proxy=None)
        assert isinstance(connection, BatchConnection)
        assert await received(connection) == [b"with the handshake"]
        assert connection.close_code == CloseCode.NORMAL_CLOSURE
