"""gRPC status codes that the connection itself sends (numbers of google.rpc.Code, without importing it)."""

from __future__ import annotations

INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAUTHENTICATED = 3, 8, 12, 13, 16


class MessageError(Exception):
    """An invalid message; `code` is the gRPC status of its call."""

    def __init__(self, text: str, code: int = INVALID_ARGUMENT) -> None:
        super().__init__(text)
        self.code = code
