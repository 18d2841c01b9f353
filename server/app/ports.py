"""The ports of one server process, bound before anything else is done."""

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
    """calls: where callers connect. metrics: listens already.

    own: reaches this process alone, where others share `calls`; None: no other does.
    """

    calls: BoundPort
    metrics: socket.socket
    own: BoundPort | None = None

    @classmethod
    def bind(cls, config: ServerConfig) -> Self:
        """Raises UnavailableError if another process has one of them.

        Every server binds them in this order. So of two that want the same ports one gets both.
        """
        calls = BoundPort(config.host, config.port, PORT_OPTION)
        return cls(calls, open_port(config.metrics_host, config.metrics_port, METRICS_OPTION))

    @classmethod
    def bind_worker(cls, config: ServerConfig) -> Self:
        """For one of several processes that share the port, which their supervisor has claimed."""
        calls = BoundPort(config.host, config.port, PORT_OPTION, shared=True, claimed=False)
        own = BoundPort(LOOPBACK, 0, PORT_OPTION, claimed=False)
        return cls(calls, open_port(config.metrics_host, config.metrics_port, METRICS_OPTION), own)
