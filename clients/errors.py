"""Errors of grpcio as errors of common.errors."""

from __future__ import annotations

from typing import Any

import grpc

from common.errors import VolcastError
from common.rpc_status import DETAILS_KEY, from_status, parse_details


def translate(error: grpc.RpcError, target: str) -> VolcastError:
    """The VolcastError of a failed call of grpc or grpc.aio, with the invalid fields if the server named them."""
    trailers: Any = error.trailing_metadata() or ()  # pairs (key, value), in grpc and in grpc.aio
    details = next((value for key, value in trailers if key == DETAILS_KEY), None)
    code: int = error.code().value[0]
    status = parse_details(code, error.details() or "", details if isinstance(details, bytes) else None)
    return from_status(status, target)
