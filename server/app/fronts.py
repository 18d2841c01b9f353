"""Selects and builds the front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.config import ServerConfig
from server.core.dataplane import DataPlane
from server.grpcio.front import GrpcioFront
from server.http2.connection import Limits
from server.native.connection import SocketLimits
from server.native.front import NativeFront
from server.rpc.methods import Methods
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import ServerMetrics
from server.runtime.state import ServerState
from server.security.limits import channel_options
from server.security.tls import Certificates
from server.security.tokens import Gate

Front = NativeFront | GrpcioFront


def chosen_front(config: ServerConfig, log: Any) -> str:
    """Returns the configured front; "auto" selects the faster front."""
    if config.front == "auto":
        log.info("front", front="native", why="the fastest")
        return "native"
    return config.front


@dataclass(frozen=True)
class FrontDependencies:
    """The objects that both fronts use."""

    table: Methods
    plane: DataPlane
    batches: BatchLoop
    state: ServerState
    metrics: ServerMetrics
    gate: Gate
    log: Any


def make_front(
    config: ServerConfig, needs: FrontDependencies, certificates: Certificates | None, *, reuse_port: bool
) -> Front:
    """reuse_port: other processes listen on the same port."""
    common = (needs.table, needs.plane, needs.batches, needs.state, needs.metrics, needs.gate, needs.log)
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
        return NativeFront(*common, limits, sockets, certificates.context() if certificates else None)
    options = [
        (key, int(reuse_port) if key == "grpc.so_reuseport" else value) for key, value in channel_options(config)
    ]
    return GrpcioFront(*common, options, certificates.credentials() if certificates else None)
