"""The schema of an added model: one that the feature worker computes, or the user's own features from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from common.errors import InputError, UsageError
from common.schema import CORE_1_EXAMPLE, SCHEMAS, Feature, FeatureSchema

MAX_FEATURES = 4096
MAX_FILE_BYTES = 1024 * 1024
MAX_NAME = 128
RESERVED = {"features"}  # the Open Inference Protocol's name for the whole matrix
PLAIN_RATIO = "1"


class FeatureEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of features.json; `example` is a typical value, used to test the model."""

    name: str
    unit: Annotated[str, msgspec.Meta(min_length=1, max_length=32)] = PLAIN_RATIO
    example: float | None = None


class FeatureFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """features.json with a name for the schema; a plain list of features is allowed too."""

    features: list[str | FeatureEntry]
    name: str = ""


class SchemaChoice(msgspec.Struct, frozen=True):
    """A schema and a typical row of it; None for a feature without an example."""

    schema: FeatureSchema
    examples: tuple[float | None, ...]


def known_schema(name: str) -> SchemaChoice:
    """Raises UsageError for a schema that is not in common/schema.py."""
    schema = SCHEMAS.get(name)
    if schema is None:
        raise UsageError(f"--schema: expected {' or '.join(SCHEMAS)}, got {name!r}; own features: --features FILE")
    return SchemaChoice(schema, tuple(CORE_1_EXAMPLE.get(feature) for feature in schema.names))


def own_schema(names: list[str], schema_name: str) -> SchemaChoice:
    """The schema of features that are only named. Raises InputError, too if `schema_name` is a built-in schema's."""
    return _choice(FeatureFile(list(names), schema_name), schema_name, "feature names")


def read_features(path: Path, model_name: str) -> SchemaChoice:
    """The schema of a features.json; without a name of its own it is called after the model. Raises InputError."""
    try:
        if not path.is_file():  # reading a pipe would wait for its writer
            path.stat()
            raise InputError(f"features file {path}: is no plain file")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"features file {path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"features file {path}: expected at most {MAX_FILE_BYTES} bytes, got {len(data)}")
    try:
        content = msgspec.json.decode(data, type=FeatureFile | list[str | FeatureEntry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        expected = '["spread", …] or {"name": "mine/1", "features": [{"name": "spread", "unit": "quote"}, …]}'
        raise InputError(f"features file {path}: {error}; expected {expected}") from None
    if isinstance(content, list):
        content = FeatureFile(content)
    return _choice(content, content.name or f"{model_name}/1", f"features file {path}")


def _choice(content: FeatureFile, schema_name: str, source: str) -> SchemaChoice:
    entries = [FeatureEntry(entry) if isinstance(entry, str) else entry for entry in content.features]
    if not 0 < len(entries) <= MAX_FEATURES:
        raise InputError(f"{source}: expected 1 to {MAX_FEATURES} features, got {len(entries)}")
    _require_name(schema_name, source, "name")
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        field = f"features[{index}]"
        _require_name(entry.name, source, field)
        if entry.name in RESERVED:
            raise InputError(f"{source}: {field}: {entry.name!r} is the name of the whole matrix; choose another")
        if entry.name in seen:
            raise InputError(f"{source}: {field}: {entry.name!r} is features[{seen[entry.name]}] already")
        seen[entry.name] = index
    built_in = _built_in(entries, schema_name, source)
    if built_in is None:
        features = tuple(Feature(entry.name, entry.unit, "") for entry in entries)
        return SchemaChoice(FeatureSchema(schema_name, features), tuple(entry.example for entry in entries))
    usual = known_schema(built_in.name)
    given = zip(entries, usual.examples, strict=True)
    return SchemaChoice(
        built_in, tuple(example if entry.example is None else entry.example for entry, example in given)
    )


def _built_in(entries: list[FeatureEntry], schema_name: str, source: str) -> FeatureSchema | None:
    """The schema of common/schema.py with these names and units; with its name, units may be left out.

    Raises InputError if other features have the name of such a schema: a name stands for one hash.
    """
    features = [(entry.name, entry.unit) for entry in entries]
    for schema in SCHEMAS.values():
        if features == [(feature.name, feature.unit) for feature in schema.features]:
            return schema
    named = SCHEMAS.get(schema_name)
    if named is None:
        return None
    if len(entries) == len(named) and all(
        entry.name == feature.name and entry.unit in (feature.unit, PLAIN_RATIO)
        for entry, feature in zip(entries, named.features, strict=True)
    ):
        return named
    raise InputError(
        f"{source}: name: {schema_name!r} is the schema of {len(named)} other features; give yours another name: "
        '{"name": "mine/1", "features": [...]}'
    )


def _require_name(name: str, source: str, field: str) -> None:
    if not (0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip()):
        expected = f"1 to {MAX_NAME} printable characters without blanks at the ends"
        raise InputError(f"{source}: {field}: expected a name of {expected}, got {name[:40]!r}")
