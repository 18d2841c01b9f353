# mypy: ignore-errors
"""For frameworks that listen on every interface and have no setting for it."""

from __future__ import annotations

from typing import Any

from scoring import HOST


def bind_grpc() -> None:
    """Makes every grpc.aio server of this process listen on loopback."""
    from grpc.aio import _server

    add = _server.Server.add_insecure_port

    def add_on_loopback(self: Any, address: str) -> int:
        port: int = add(self, address.replace("[::]", HOST))
        return port

    _server.Server.add_insecure_port = add_on_loopback
