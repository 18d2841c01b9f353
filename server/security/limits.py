"""How much one caller may take of a grpcio server, as gRPC core's channel arguments.

Each is held against a raw connection in tests/server/security/test_limits.py.
"""

from __future__ import annotations

from common.config import ServerConfig

MAX_PING_STRIKES = 2  # of pings that came too early, before the connection is told to calm down


def channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    """The options of grpc.aio.server()."""
    ping_ms = _ms(config.min_ping_interval_s)
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        # The first is a soft limit, between the two calls are refused at random: made one hard limit.
        ("grpc.max_metadata_size", config.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", config.max_metadata_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", ping_ms),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        # Without it an idle client that keeps its connection alive is held to one ping in two hours.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _ms(config.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(config.keepalive_timeout_s)),
        # What really ends the connection in gRPC 1.85: with the line above alone it was pinged and kept.
        ("grpc.http2.ping_timeout_ms", _ms(config.keepalive_timeout_s)),
        ("grpc.server_handshake_timeout_ms", _ms(config.handshake_timeout_s)),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        # Beyond these gRPC answers CANCELLED before our queue has seen the call, which says when to come back.
        ("grpc.server.max_pending_requests", 100_000),
        ("grpc.server.max_pending_requests_hard_limit", 200_000),
        # Off, or a second server on the same port would silently take half of the calls.
        ("grpc.so_reuseport", 0),
    ]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
