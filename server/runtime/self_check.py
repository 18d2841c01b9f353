"""A call over the socket before a server reports ready. It tests the front, not only the model."""

from __future__ import annotations

import asyncio
import ssl

from common.config import reachable
from common.errors import UnavailableError
from common.http2 import frames
from server.http2.headers import literal

CHECK_TIMEOUT_S = 5.0


async def handshake(host: str, port: int) -> None:
    """Completes a TLS handshake without verifying the certificate, which is its clients' task.

    Raises UnavailableError.
    """
    address = reachable(host, port)
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    unverified.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            _, writer = await asyncio.open_connection(*_split_address(address), ssl=unverified)
    except (OSError, TimeoutError) as error:
        raise UnavailableError(f"the front does not answer at {address}: {type(error).__name__}") from None
    writer.close()


async def call(host: str, port: int, path: str, message: bytes, authorization: str = "") -> None:
    """Makes a unary call on its own connection. Raises UnavailableError if there is no response message."""
    address = reachable(host, port)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            payload = await _response_message(address, path, message, authorization)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise UnavailableError(f"the front does not answer at {address}: {type(error).__name__}") from None
    if payload is None:
        raise UnavailableError(f"the front at {address} answers {path} with an error")


async def _response_message(address: str, path: str, message: bytes, authorization: str) -> bytes | None:
    """Returns the response message; None if the response has a status only."""
    reader, writer = await asyncio.open_connection(*_split_address(address))
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
    response = None
    try:
        while True:
            head, flags, stream_id = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
            payload = await reader.readexactly(head >> 8)
            kind = head & 0xFF
            if kind == frames.SETTINGS and not flags & frames.ACK:
                writer.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
            elif kind == frames.DATA and stream_id == 1:
                response = payload[frames.MESSAGE.size :]
            if stream_id == 1 and (kind == frames.RST_STREAM or flags & frames.END_STREAM):
                return response
    finally:
        writer.close()


def _split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
