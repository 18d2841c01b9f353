"""From a target to an open socket: addresses, proxy, TLS."""

from __future__ import annotations

import socket
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from common.access import Access
from common.proxies import addresses, proxy_for

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT_S = 20.0  # of an opening as a whole, as in gRPC's clients
DEFAULT_PORT = "443"  # as in gRPC's clients
MAX_PROXY_ANSWER_BYTES = 16 * 1024


@dataclass(frozen=True)
class Route:
    """A target with the credentials for it."""

    target: str
    access: Access

    @property
    def scheme(self) -> str:
        return "https" if self.access.tls else "http"

    @property
    def authority(self) -> str:
        if _unix_path(self.target) is not None:
            return "localhost"
        return addresses(self.target)[0] if addresses(self.target) else self.target


def open_socket(route: Route) -> socket.socket:
    """A connected, non-blocking socket, after TLS if the route has it. Raises OSError, ValueError."""
    connected, host = connect(route)
    try:
        if route.access.tls:
            connected = tls_context(route.access).wrap_socket(connected, server_hostname=host)
        connected.setblocking(False)
    except BaseException:
        connected.close()
        raise
    return connected


def connect(route: Route) -> tuple[socket.socket, str]:
    """The socket before TLS, and the server's name for TLS. Raises OSError, ValueError."""
    target, deadline_s = route.target, monotonic() + CONNECT_TIMEOUT_S
    path = _unix_path(target)
    if path is not None:
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(_left_s(deadline_s))
        try:
            connected.connect(path)
        except BaseException:
            connected.close()
            raise
        return connected, "localhost"
    failure = OSError(f"{target!r} is not an address")
    proxy = proxy_for(target)
    for host, port in _hosts(target):
        try:
            if proxy is None:
                return _tcp(host, port, deadline_s), host
            return _through_proxy(proxy[1], host, port, deadline_s), host
        except OSError as error:
            failure = error
    raise failure


def _tcp(host: str, port: str, deadline_s: float) -> socket.socket:
    connected = socket.create_connection((host, int(port)), _left_s(deadline_s))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connected


def _through_proxy(proxy: str, host: str, port: str, deadline_s: float) -> socket.socket:
    """A tunnel (CONNECT, RFC 9110 section 9.3.6)."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise OSError(f"a proxy of scheme {parts.scheme!r}, expected http")
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    request = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n"
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request += f"Proxy-Authorization: Basic {b64encode(login.encode()).decode()}\r\n"
    connected = _tcp(parts.hostname, str(parts.port or 80), deadline_s)
    try:
        connected.sendall(f"{request}\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            connected.settimeout(_left_s(deadline_s))
            # Byte by byte: all after the blank line is the server's.
            part = connected.recv(1)
            if not part or len(answer) > MAX_PROXY_ANSWER_BYTES:
                raise OSError("the proxy closed the connection")
            answer += part
        line = answer.split(b"\r\n", 1)[0].decode("ascii", "backslashreplace")
        if line.split()[1:2] != ["200"]:
            raise OSError(f"the proxy answers {line[:100]!r}")
    except BaseException:
        connected.close()
        raise
    return connected


def tls_context(access: Access) -> ssl.SSLContext:
    import ssl  # 10 ms, which clients in plaintext need not pay

    context = ssl.create_default_context(cadata=access.ca.decode("ascii", "replace") if access.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if access.cert is not None and access.key is not None:
        # OpenSSL reads certificates from files only. The file is readable by its owner alone.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(access.cert + b"\n" + access.key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def line_of(error: Exception) -> str:
    """One line for a message. A failure of TLS gives OpenSSL's reason."""
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None)
    text = f"TLS: {reason}" if reason else getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _unix_path(target: str) -> str | None:
    """The path of `unix:path`, `unix:///path` or `unix-abstract:name`; None for other targets."""
    scheme, separator, rest = target.partition(":")
    if not separator or scheme not in ("unix", "unix-abstract"):
        return None
    rest = rest.removeprefix("//")
    return rest if scheme == "unix" else f"\0{rest}"


def _hosts(target: str) -> Iterator[tuple[str, str]]:
    for address in addresses(target):
        if address.startswith("["):
            host, _, port = address[1:].partition("]")
            yield host, port.removeprefix(":") or DEFAULT_PORT
        else:
            host, colon, port = address.rpartition(":")
            # Several colons without brackets: an IPv6 address without a port.
            yield (host, port or DEFAULT_PORT) if colon and ":" not in host else (address, DEFAULT_PORT)


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - monotonic()
    if left_s <= 0:
        raise TimeoutError("no connection in time")
    return left_s
