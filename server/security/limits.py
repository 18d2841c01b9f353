"""Limits of a grpcio server per connection, as gRPC core's channel arguments.

tests/server/security/test_limits.py tests each limit with a raw connection.
"""

from __future__ import annotations

from common.config import ServerConfig

MIN_PENDING_CALLS = 8192  # about two seconds of work for grpc.aio
MAX_PING_STRIKES = 2  # early pings of a connection before the server sends ENHANCE_YOUR_CALM


def channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    """Returns the options for grpc.aio.server()."""
    ping_ms = _ms(config.min_ping_interval_s)
    pending = max(MIN_PENDING_CALLS, 2 * config.max_queue)
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        # max_metadata_size is a soft limit: between both limits gRPC refuses calls at random. Equal values make it
        # a hard limit.
        ("grpc.max_metadata_size", config.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", config.max_metadata_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", ping_ms),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        # Without this option an idle client may send only one ping in two hours.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _ms(config.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(config.keepalive_timeout_s)),
        # gRPC 1.85 ends the connection after this time. With keepalive_timeout_ms alone it kept the connection.
        ("grpc.http2.ping_timeout_ms", _ms(config.keepalive_timeout_s)),
        ("grpc.server_handshake_timeout_ms", _ms(config.handshake_timeout_s)),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        # Calls that gRPC has read and Python has not. Beyond these limits gRPC responds with CANCELLED, at random
        # between them. They are above the size of our own queue, which refuses a call with a retry hint. With a limit
        # of 100,000, floods of reset calls delayed all other callers by 10 s and more, and took 2 GB.
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", 2 * pending),
        # If SO_REUSEPORT were on, a second server on this port would silently receive half of the calls.
        ("grpc.so_reuseport", 0),
    ]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
