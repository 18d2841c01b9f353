"""The port that workers share.

SO_REUSEPORT lets sockets of one user listen on one port, and the kernel spreads connections over them. It
would as silently let a second server join the first, so the port is looked at without it before, and
claimed under a name for as long as no worker listens yet.
"""

from __future__ import annotations

import socket
import sys
from types import TracebackType
from typing import Self

from common.errors import UnavailableError
from common.lifecycle import require_free_port


class SharedPort:
    """Bound and never listening: the port stays ours while workers come and go, and no call waits here."""

    def __init__(self, host: str, port: int, option: str) -> None:
        """port: 0 takes a free one. option: what changes it. Raises UnavailableError where it is taken."""
        if port:
            require_free_port(host, port, option)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sockets = [socket.socket(family, socket.SOCK_STREAM)]
        try:
            self._bind(host, port)
        except OSError as error:
            self.close()
            raise UnavailableError(f"port {port} on {host}: {error.strerror}; choose another with {option}") from None

    def _bind(self, host: str, port: int) -> None:
        (bound,) = self._sockets
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
        self.port = int(bound.getsockname()[1])
        if sys.platform == "linux":
            # Two that start within the same second both find the port free, as neither has a worker that
            # listens. A name in the abstract namespace has one owner, and ends with its process.
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sockets.append(claim)
            claim.bind(f"\0volcast/serve/{host}/{self.port}")

    def close(self) -> None:
        for one in self._sockets:
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
