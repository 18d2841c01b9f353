"""The tree of errors: one root, exit codes, messages that name what is at fault."""

from __future__ import annotations

import re

import pytest

import common.errors
from common.errors import (
    ConfigError,
    FieldViolation,
    GateError,
    ModelNotFoundError,
    RequestError,
    SchemaMismatchError,
    UsageError,
    VolcastError,
)


def tree(kind: type[VolcastError]) -> set[type[VolcastError]]:
    return {kind}.union(*(tree(below) for below in kind.__subclasses__() if below.__module__ == kind.__module__))


def test_the_tree_drawn_in_the_module_is_the_tree() -> None:
    drawn = re.findall(r"^[│ ├└─]*(\w+Error)\b", common.errors.__doc__ or "", re.MULTILINE)
    assert sorted(drawn) == sorted(kind.__name__ for kind in tree(VolcastError))


KINDS = sorted(tree(VolcastError), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_usage_exits_2_a_refused_model_3_and_everything_else_1(kind: type[VolcastError]) -> None:
    assert kind.exit_code == {UsageError: 2, ConfigError: 2, GateError: 3}.get(kind, 1)


def test_a_request_error_names_every_field() -> None:
    error = RequestError([FieldViolation("rows[0].price", "not finite"), FieldViolation("model", "unknown")])
    assert str(error) == "rows[0].price: not finite; model: unknown"


def test_a_subclass_of_request_error_is_made_of_a_field_too() -> None:
    error = ModelNotFoundError.of("model.name", "no model of that name")
    assert isinstance(error, ModelNotFoundError)
    assert error.violations == (FieldViolation("model.name", "no model of that name"),)


def test_a_schema_mismatch_says_both_hashes() -> None:
    error = SchemaMismatchError("aaaa", "bbbb")
    assert "aaaa" in str(error)
    assert "bbbb" in str(error)
    assert error.violations[0].field == "packed.schema_hash"
