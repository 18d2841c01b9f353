from __future__ import annotations

import pytest
from google.rpc import code_pb2, status_pb2

from common.errors import (
    BundleError,
    DeadlineError,
    FieldViolation,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
    SchemaMismatchError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    VolcastError,
)
from common.rpc_status import from_status, parse_details, to_status

VIOLATIONS = [FieldViolation("packed.values", "too short"), FieldViolation("packed.row_count", "0")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError(VIOLATIONS), code_pb2.INVALID_ARGUMENT),
        (ModelNotFoundError(VIOLATIONS[:1]), code_pb2.NOT_FOUND),
        (SchemaMismatchError("beef", "cafe"), code_pb2.FAILED_PRECONDITION),
        (OverloadedError("too much work is waiting", 0.25), code_pb2.RESOURCE_EXHAUSTED),
        (UnauthenticatedError("no token"), code_pb2.UNAUTHENTICATED),
        (DeadlineError("late"), code_pb2.DEADLINE_EXCEEDED),
        (UnavailableError("draining"), code_pb2.UNAVAILABLE),
        (UnsupportedError("not here"), code_pb2.UNIMPLEMENTED),
    ],
)
def test_every_error_arrives_as_it_was_sent(error: VolcastError, code: int) -> None:
    sent = to_status(error)
    assert sent.code == code
    received = from_status(parse_details(code, str(error), sent.SerializeToString()), "here:1")
    assert type(received) is type(error)
    assert str(error) in str(received)
    for attribute in ("violations", "got", "expected", "retry_after_s"):
        assert getattr(received, attribute, None) == getattr(error, attribute, None)


@pytest.mark.parametrize("error", [ValueError("secret"), BundleError("/secret/path")])
def test_what_is_not_for_callers_is_internal_without_its_text(error: Exception) -> None:
    assert to_status(error) == status_pb2.Status(code=code_pb2.INTERNAL, message="internal error")


def test_a_failure_without_details_still_says_what_it_says() -> None:
    for code, kind in (
        (code_pb2.INVALID_ARGUMENT, RequestError),
        (code_pb2.NOT_FOUND, ModelNotFoundError),
        (code_pb2.FAILED_PRECONDITION, RequestError),
        (code_pb2.RESOURCE_EXHAUSTED, OverloadedError),
        (code_pb2.CANCELLED, UnavailableError),
        (code_pb2.INTERNAL, VolcastError),
    ):
        error = from_status(parse_details(code, "two\nlines", None), "here:1")
        assert type(error) is kind
        assert "two" in str(error)


@pytest.mark.parametrize("details", [b"\xff", status_pb2.Status(code=1, message="another").SerializeToString()])
def test_details_that_are_damaged_or_of_another_failure_are_not_believed(details: bytes) -> None:
    assert parse_details(code_pb2.UNAVAILABLE, "away", details) == status_pb2.Status(
        code=code_pb2.UNAVAILABLE, message="away"
    )


def test_an_error_of_the_connection_names_the_server() -> None:
    error = from_status(status_pb2.Status(code=code_pb2.UNAVAILABLE, message="no\n route"), "10.0.0.1:50051")
    assert str(error) == "inference server at 10.0.0.1:50051: UNAVAILABLE: no route"
