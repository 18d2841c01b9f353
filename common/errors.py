"""Every error Volcast raises on purpose.

VolcastError
├── UsageError           options of a command contradict each other
├── ConfigError          a configuration value is invalid (key, value, expectation)
├── InputError           a file or record cannot be read (place, reason)
│   └── BundleError      a model bundle is missing, damaged or does not fit
├── TrainingError        a trained model must not be used: a leak, or an export that differs
│   └── GateError        a model did not pass the gate (all reasons)
├── UnavailableError     a service that this process needs cannot be reached, or a port is in use
│   ├── DeadlineError    the service did not answer in time
│   └── ClientLostError  a client is unusable; a new client may work
├── OutputError          standard output cannot be written
├── RequestError         a request is invalid (the invalid fields)
│   ├── SchemaMismatchError  the rows are packed for a different feature schema
│   └── NotFoundError        the request names a thing that does not exist
│       └── ModelNotFoundError  no such model, version or label
├── UnsupportedError     the request is valid, but this server does not support it
├── UnauthenticatedError the bearer token is missing or unknown
└── OverloadedError      the queue is full

A command prints the message as a single line and exits with `exit_code`. The gRPC and REST edges map the
kinds to their own codes, each in a single table. Any exception outside this tree is a bug, and its text never
reaches a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


class VolcastError(Exception):
    exit_code = 1


class UsageError(VolcastError):
    exit_code = 2


class ConfigError(VolcastError):
    exit_code = 2

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(f"config: {key}: expected {expected}, got {value!r}")
        self.key = key
        self.value = value
        self.expected = expected


class InputError(VolcastError):
    pass


class BundleError(InputError):
    pass


class TrainingError(VolcastError):
    pass


class GateError(TrainingError):
    exit_code = 3

    def __init__(self, model: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{model} is refused: {'; '.join(reasons)}")
        self.reasons = tuple(reasons)


class UnavailableError(VolcastError):
    pass


class DeadlineError(UnavailableError):
    pass


class ClientLostError(UnavailableError):
    pass


class OutputError(VolcastError):
    pass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """An invalid field: its path in the request, the fault and the expectation."""

    field: str
    description: str


class RequestError(VolcastError):
    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.description}" for fault in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> Self:
        return cls([FieldViolation(field, description)])


class SchemaMismatchError(RequestError):
    def __init__(self, got: str, expected: str) -> None:
        description = f"rows are packed for schema {got}, the model takes schema {expected}"
        super().__init__([FieldViolation("packed.schema_hash", description)])
        self.got = got
        self.expected = expected


class NotFoundError(RequestError):
    pass


class ModelNotFoundError(NotFoundError):
    pass


class UnsupportedError(VolcastError):
    pass


class UnauthenticatedError(VolcastError):
    pass


class OverloadedError(VolcastError):
    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
