"""What grpcio raises, turned into the errors of common.errors."""

from __future__ import annotations

from typing import Any

import grpc

from common.errors import VolcastError
from common.rpc_status import failed_call


def translate(error: grpc.RpcError, target: str) -> VolcastError:
    """The VolcastError for a failed call of grpc or grpc.aio, with the fields at fault where the server named them."""
    trailers: Any = error.trailing_metadata() or ()  # pairs, in both of grpcio's flavours
    code: int = error.code().value[0]
    return failed_call(code, error.details() or "", trailers, target)
