"""TCP ports that a process binds once and keeps.

A port that is only looked at before it is bound may be taken in between. So the socket that was bound is
the socket that listens. Of two processes that start at the same moment on one port exactly one wins, and
the other raises UnavailableError with a line that names the port and the setting.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from types import TracebackType
from typing import Self

from common.errors import UnavailableError

BACKLOG = 1024


def open_port(host: str, port: int, option: str, backlog: int = BACKLOG) -> socket.socket:
    """A socket that listens on host:port; 0 takes a free port.

    option: what changes the port; its last word is the key, as in "--port or server.port".

    Raises UnavailableError if host:port is taken, or if host is no address of this machine.
    """
    bound = _bind(host, port, option, shared=False)
    try:
        bound.listen(backlog)
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, option, error) from None
    return bound


class BoundPort:
    """A port that is bound at once and listens later; until then connections are refused.

    shared: other sockets of this user may listen on it too (SO_REUSEPORT), such as those of a server's
    workers. claimed: no other BoundPort that is claimed has it; workers of one server claim nothing.

    Raises UnavailableError as `open_port` does.
    """

    def __init__(self, host: str, port: int, option: str, *, shared: bool = False, claimed: bool = True) -> None:
        self._option = option
        self._claim: socket.socket | None = None
        if shared and claimed and port:
            # SO_REUSEPORT would let this process join an unrelated server in silence.
            _bind(host, port, option, shared=False).close()
        self._socket = _bind(host, port, option, shared=shared)
        self.host = host
        name = self._socket.getsockname()
        self.address, self.port = str(name[0]), int(name[1])  # of a host name: the address that it has
        if claimed:
            self._take_claim()

    def _take_claim(self) -> None:
        """Decides between processes that have bound the port, which SO_REUSEADDR allows while none of them listens.

        A name in the abstract namespace of Unix sockets has one owner and ends with its process. Elsewhere
        than on Linux the first that listens wins.
        """
        if sys.platform != "linux":
            return
        self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._claim.bind(f"\0volcast/port/{self.address}/{self.port}")
        except OSError as error:
            self.close()
            raise _cannot_listen(self.host, self.port, self._option, error) from None

    def listen(self, backlog: int = BACKLOG) -> socket.socket:
        """The socket, which listens now and is the caller's to close.

        Raises UnavailableError if another process was first.
        """
        try:
            self._socket.listen(backlog)
        except OSError as error:
            self.close()
            raise _cannot_listen(self.host, self.port, self._option, error) from None
        return self._socket

    def hand_over(self) -> None:
        """Lets another piece of software bind the port, such as gRPC; the claim stays until `close`."""
        self._socket.close()

    def close(self) -> None:
        """Gives the port up, but for a socket that listens."""
        self._socket.close()
        if self._claim is not None:
            self._claim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _bind(host: str, port: int, option: str, *, shared: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Connections of the last server may still linger on the port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except (OSError, UnicodeError) as error:
        bound.close()
        raise _cannot_listen(host, port, option, error) from None
    return bound


def _cannot_listen(host: str, port: int, option: str, error: OSError | UnicodeError) -> UnavailableError:
    """For an error of bind(2) or listen(2), or of looking up the host before."""
    # UnicodeError: a name that cannot be one. EADDRNOTAVAIL: an address of another machine.
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
        reason = getattr(error, "strerror", None) or str(error)
        key = option.split()[-1].removesuffix("port") + "host"
        return UnavailableError(f"host {host}: {reason}; set an address of this machine with {key}")
    # Not error.strerror, to which Python adds the address in some cases.
    reason = os.strerror(error.errno) if error.errno else str(error)
    return UnavailableError(f"port {port} on {host}: {reason}; choose another with {option}")
