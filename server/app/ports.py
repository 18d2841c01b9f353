"""The ports of a server process. They are bound first, before any other work."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Self

from common.config import ServerConfig
from common.ports import BoundPort, open_port

LOOPBACK = "127.0.0.1"
PORT_OPTION = "--port or server.port"
METRICS_OPTION = "--metrics-port or server.metrics_port"


@dataclass(frozen=True)
class ServerPorts:
    """calls: the port of the callers. metrics: a listening socket.

    own: a port of this process only, if several processes share `calls`; None otherwise.
    """

    calls: BoundPort
    metrics: socket.socket
    own: BoundPort | None = None

    @classmethod
    def bind(cls, config: ServerConfig) -> Self:
        """Raises UnavailableError if another process uses one of the ports.

        Every server binds in this order. So if two servers need the same ports, one of them gets both.
        """
        calls = BoundPort(config.host, config.port, PORT_OPTION)
        return cls(calls, open_port(config.metrics_host, config.metrics_port, METRICS_OPTION))

    @classmethod
    def bind_worker(cls, config: ServerConfig) -> Self:
        """Binds the ports of a worker. Its supervisor has claimed the port that all workers share."""
        calls = BoundPort(config.host, config.port, PORT_OPTION, shared=True, claimed=False)
        own = BoundPort(LOOPBACK, 0, PORT_OPTION, claimed=False)
        return cls(calls, open_port(config.metrics_host, config.metrics_port, METRICS_OPTION), own)
