"""Errors on the wire: VolcastError to google.rpc.Status and back, in a single table for every gRPC edge.

Details follow google/rpc/error_details.proto: BadRequest holds the invalid fields, RetryInfo the time after
which to retry, ErrorInfo the two hashes of a schema mismatch. gRPC sends the whole status in the trailer
`grpc-status-details-bin`; a stream sends it in StreamPredictResponse.error.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from common.errors import (
    DeadlineError,
    FieldViolation,
    ModelNotFoundError,
    NotFoundError,
    OverloadedError,
    RequestError,
    SchemaMismatchError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    VolcastError,
)
from common.proxies import explain

DETAILS_KEY = "grpc-status-details-bin"
INTERNAL_TEXT = "internal error"
_DOMAIN = "volcast"

# The first matching kind decides, so a subclass precedes its base.
CODES: tuple[tuple[type[VolcastError], int], ...] = (
    (SchemaMismatchError, code_pb2.FAILED_PRECONDITION),
    (NotFoundError, code_pb2.NOT_FOUND),
    (RequestError, code_pb2.INVALID_ARGUMENT),
    (UnauthenticatedError, code_pb2.UNAUTHENTICATED),
    (OverloadedError, code_pb2.RESOURCE_EXHAUSTED),
    (DeadlineError, code_pb2.DEADLINE_EXCEEDED),
    (UnavailableError, code_pb2.UNAVAILABLE),
    (UnsupportedError, code_pb2.UNIMPLEMENTED),
)


def to_status(error: Exception) -> status_pb2.Status:
    """The status for a caller. Any exception that is not in CODES becomes INTERNAL, without its text."""
    for kind, code in CODES:
        if isinstance(error, kind):
            status = status_pb2.Status(code=code, message=str(error))
            for detail in _details(error):
                status.details.add().Pack(detail)
            return status
    return status_pb2.Status(code=code_pb2.INTERNAL, message=INTERNAL_TEXT)


def _details(error: Exception) -> list[Message]:
    details: list[Message] = []
    if isinstance(error, RequestError):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        )
    if isinstance(error, SchemaMismatchError):
        hashes = {"got": error.got, "expected": error.expected}
        details.append(error_details_pb2.ErrorInfo(reason="SCHEMA_MISMATCH", domain=_DOMAIN, metadata=hashes))
    if isinstance(error, OverloadedError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    return details


def from_status(status: status_pb2.Status, server: str) -> VolcastError:
    """The error that a client raises for a status.

    server: the address that answered, for the message.
    """
    message: str = status.message
    violations, hashes, retry_after_s = _unpack(status)
    if status.code == code_pb2.FAILED_PRECONDITION and hashes is not None:
        return SchemaMismatchError(*hashes)
    if status.code in (code_pb2.INVALID_ARGUMENT, code_pb2.FAILED_PRECONDITION):
        return RequestError(violations or [FieldViolation("request", message)])
    if status.code == code_pb2.NOT_FOUND:
        return ModelNotFoundError(violations or [FieldViolation("model", message)])
    if status.code == code_pb2.RESOURCE_EXHAUSTED:
        return OverloadedError(message, retry_after_s)
    if status.code == code_pb2.UNAUTHENTICATED:
        return UnauthenticatedError(message)
    line = f"inference server at {server}: {code_pb2.Code.Name(status.code)}: {' '.join(message.split())}"
    if status.code == code_pb2.DEADLINE_EXCEEDED:
        return DeadlineError(line)
    if status.code in (code_pb2.UNAVAILABLE, code_pb2.CANCELLED):
        return UnavailableError(line)
    if status.code == code_pb2.UNIMPLEMENTED:
        return UnsupportedError(line)
    return VolcastError(line)


def failed_call(code: int, message: str, trailers: Iterable[tuple[str, str | bytes]], server: str) -> VolcastError:
    """The error a caller raises for a failed call to `server`; names the proxy that a lost connection went through."""
    details = next((value for key, value in trailers if key == DETAILS_KEY), None)
    status = parse_details(code, message, details if isinstance(details, bytes) else None)
    if code in (code_pb2.UNAVAILABLE, code_pb2.DEADLINE_EXCEEDED):
        status.message += explain(server)
    return from_status(status, server)


def parse_details(code: int, message: str, details: bytes | None) -> status_pb2.Status:
    """The status of a failed call.

    details: the trailer `grpc-status-details-bin`; None if the server sent none.
    """
    if details is not None:
        try:
            status = status_pb2.Status.FromString(details)
        except DecodeError:
            pass
        else:
            if status.code == code:
                return status
    return status_pb2.Status(code=code, message=message)


def _unpack(status: status_pb2.Status) -> tuple[list[FieldViolation], tuple[str, str] | None, float]:
    violations: list[FieldViolation] = []
    hashes: tuple[str, str] | None = None
    retry_after_s = 0.0
    bad, info, retry = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(bad):
            violations += [FieldViolation(violation.field, violation.description) for violation in bad.field_violations]
        elif detail.Unpack(info) and info.domain == _DOMAIN and {"got", "expected"} <= set(info.metadata):
            hashes = (info.metadata["got"], info.metadata["expected"])
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return violations, hashes, retry_after_s
