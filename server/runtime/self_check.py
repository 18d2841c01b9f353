"""A call over the socket before a server says that it is ready: the front answers, not only the model."""

from __future__ import annotations

import asyncio
import ssl

from common.config import reachable
from common.errors import UnavailableError
from server.http2 import frames
from server.http2.headers import literal

TIMEOUT_S = 5.0


async def handshake(host: str, port: int) -> None:
    """TLS answers. Whom it speaks for is the caller's to check, not ours. Raises UnavailableError."""
    address = reachable(host, port)
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    unchecked.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(*_parts(address), ssl=unchecked)
    except (OSError, TimeoutError) as error:
        raise UnavailableError(f"the front does not answer at {address}: {type(error).__name__}") from None
    writer.close()


async def call(host: str, port: int, path: str, message: bytes, authorization: str = "") -> None:
    """One unary call on a connection of its own. Raises UnavailableError where it is not answered well."""
    address = reachable(host, port)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            payload = await _answer(address, path, message, authorization)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise UnavailableError(f"the front does not answer at {address}: {type(error).__name__}") from None
    if payload is None:
        raise UnavailableError(f"the front at {address} answers {path} with an error")


async def _answer(address: str, path: str, message: bytes, authorization: str) -> bytes | None:
    """The message that came back; None where only a status did."""
    reader, writer = await asyncio.open_connection(*_parts(address))
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    if authorization:
        headers["authorization"] = authorization
    block = b"".join(literal(name.encode(), value.encode()) for name, value in headers.items())
    body = frames.MESSAGE.pack(0, len(message)) + message
    writer.write(
        frames.PREFACE
        + frames.settings({})
        + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
        + frames.frame(frames.DATA, frames.END_STREAM, 1, body)
    )
    answer = None
    try:
        while True:
            head, flags, stream_id = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
            payload = await reader.readexactly(head >> 8)
            kind = head & 0xFF
            if kind == frames.SETTINGS and not flags & frames.ACK:
                writer.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
            elif kind == frames.DATA and stream_id == 1:
                answer = payload[frames.MESSAGE.size :]
            if stream_id == 1 and (kind == frames.RST_STREAM or flags & frames.END_STREAM):
                return answer
    finally:
        writer.close()


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
