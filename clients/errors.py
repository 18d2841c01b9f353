"""Errors of grpcio as errors of common.errors."""

from __future__ import annotations

from typing import Any

import grpc

from common.errors import VolcastError
from common.rpc_status import failed_call


def translate(error: grpc.RpcError, target: str) -> VolcastError:
    """The VolcastError of a failed call of grpc or grpc.aio, with the invalid fields if the server named them."""
    trailers: Any = error.trailing_metadata() or ()  # pairs (key, value), in grpc and in grpc.aio
    code: int = error.code().value[0]
    return failed_call(code, error.details() or "", trailers, target)
