"""Every error Volcast raises on purpose.

VolcastError
├── UsageError           a command was given options it cannot take
├── ConfigError          a configuration value is wrong (key, value, what was expected)
├── InputError           a file or record cannot be read (where, why)
│   └── BundleError      a model bundle is missing, damaged or does not fit
├── TrainingError        what was trained must not be used: a leak, or an export that differs
│   └── GateError        a model did not pass the gate (each reason)
├── UnavailableError     something this process needs is away, or a port is taken
│   └── DeadlineError    it did not answer in time
├── OutputError          standard output cannot be written
├── RequestError         a caller's request is wrong (the fields at fault)
│   ├── SchemaMismatchError  the rows were packed for another feature schema
│   └── NotFoundError        what the request names is not here
│       └── ModelNotFoundError  no such model, version or label
├── UnsupportedError     the request is right, but this server does not do that
├── UnauthenticatedError no bearer token, or none that is known here
└── OverloadedError      too much work is waiting

A command prints the message as its one line and exits with `exit_code`. The gRPC and REST edges map
the request errors to their own codes, each in one table; anything outside this tree is a fault of
ours, and its text never reaches a client.
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


class OutputError(VolcastError):
    pass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field at fault: its path in the request, and what was wrong and expected."""

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
