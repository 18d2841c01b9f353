"""Start and end of a process: free ports, and SIGINT and SIGTERM as an event."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from types import FrameType

from common.errors import UnavailableError


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set. Call this from the main thread, before work begins."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop


def require_free_port(host: str, port: int, option: str) -> int:
    """The port; a free port for 0.

    option: the option and the key that set the port, such as "--port or server.port". The key comes last.

    Raises UnavailableError if host:port is in use or not an address of this machine; the message names `option`.
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
    """The error of bind(2), or of resolving the host, for host:port. `option` as in require_free_port."""
    reason = getattr(error, "strerror", None) or str(error)
    # A host name that does not resolve or is malformed, or an address of another machine.
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
        key = option.split()[-1].removesuffix("port") + "host"
        return UnavailableError(f"host {host}: {reason}; set an address of this machine with {key}")
    return UnavailableError(f"port {port} on {host}: {reason}; choose another with {option}")
