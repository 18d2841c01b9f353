"""What one connection may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """max_message: bytes of one message. stream_window: bytes of one stream's receive window."""

    max_message: int = 16 * 1024 * 1024
    max_streams: int = 1024  # calls of one connection at a time
    max_header_bytes: int = 16 * 1024
    stream_window: int = 256 * 1024
    # Bytes of partial and unread messages of one connection. Above it, calls are refused.
    max_buffered: int = 64 * 1024 * 1024
    # Bytes of responses that wait for the peer's windows, per connection. Above it, calls fail.
    max_unsent: int = 16 * 1024 * 1024
    # Frames that need a reply or undo work, less answered calls: CVE-2023-44487 and similar attacks.
    max_abuse_score: int = 10_000
