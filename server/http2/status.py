"""gRPC status codes that the connection itself ends calls with (numbers of google.rpc.Code, without its package)."""

from __future__ import annotations

INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAUTHENTICATED = 3, 8, 12, 13, 16


class MessageError(Exception):
    """A message that cannot be taken; `code` is the status its call ends with."""

    def __init__(self, text: str, code: int = INVALID_ARGUMENT) -> None:
        super().__init__(text)
        self.code = code
