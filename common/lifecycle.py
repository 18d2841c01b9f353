"""Orderly ends: SIGINT and SIGTERM become an event that loops wait on."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from types import FrameType

from common.errors import UnavailableError


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set. Call from the main thread, before work begins."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


def require_free_port(host: str, port: int, option: str) -> int:
    """The port, or a free one for 0.

    option: what changes the port; its last word is the key, as in "--port or server.port".

    Raises UnavailableError where host:port is taken or no address of this machine, naming what changes it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except (OSError, UnicodeError) as error:
            raise _cannot_listen(host, port, option, error) from None


def _cannot_listen(host: str, port: int, option: str, error: OSError | UnicodeError) -> UnavailableError:
    """What bind(2), or looking up the host before it, said of host:port; `option` as for require_free_port."""
    reason = getattr(error, "strerror", None) or str(error)
    # A name that no resolver knows (or that cannot be one at all), and an address of some other machine.
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
        key = option.split()[-1].removesuffix("port") + "host"
        return UnavailableError(f"host {host}: {reason}; set an address of this machine with {key}")
    return UnavailableError(f"port {port} on {host}: {reason}; choose another with {option}")
