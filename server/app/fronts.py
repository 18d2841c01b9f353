"""Selects and builds the front."""

from __future__ import annotations

from typing import Any

from common.config import ServerConfig
from server.grpcio.front import GrpcioFront
from server.http2.connection import Limits
from server.native.connection import SocketLimits
from server.native.front import NativeFront
from server.rpc.dependencies import FrontDependencies
from server.security.limits import channel_options
from server.security.tls import Certificates

Front = NativeFront | GrpcioFront


def chosen_front(config: ServerConfig, log: Any) -> str:
    """Returns the configured front; "auto" selects the faster front."""
    if config.front == "auto":
        log.info("front", front="native", why="the fastest")
        return "native"
    return config.front


def make_front(
    config: ServerConfig, needs: FrontDependencies, certificates: Certificates | None, *, reuse_port: bool
) -> Front:
    """reuse_port: other processes listen on the same port."""
    if needs.state.front == "native":
        limits = Limits(
            max_message=config.max_message_bytes,
            max_streams=config.max_concurrent_streams,
            max_header_bytes=config.max_metadata_bytes,
        )
        sockets = SocketLimits(
            spin_us=config.spin_us,
            max_connections=config.max_connections,
            partial_s=config.handshake_timeout_s,
            keepalive_s=config.keepalive_s,
            keepalive_timeout_s=config.keepalive_timeout_s,
        )
        return NativeFront(needs, limits, sockets, certificates.context() if certificates else None)
    options = [
        (key, int(reuse_port) if key == "grpc.so_reuseport" else value) for key, value in channel_options(config)
    ]
    return GrpcioFront(needs, options, certificates.credentials() if certificates else None)
