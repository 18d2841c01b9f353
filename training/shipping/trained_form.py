"""A fitted forecast on disk, to compare its graph with: JSON, and the trees in XGBoost's JSON. Never a pickle.

Numbers are written such that reading them gives the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from common.bundle import read_inside
from common.errors import InputError
from common.schema import SCHEMAS, Feature, FeatureSchema
from training.forecasting.form import Design, FittedForecast, Unit

TRAINED_FILE = "trained.json"
TREES_FILE = "trees.json"
FORMAT = 2  # 1: models of a probability, before forecasts
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_TREES_BYTES = 512 * 1024 * 1024


class _Unit(msgspec.Struct, frozen=True):
    name: str
    weights: dict[str, float]
    bias: float


class _Trained(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a FittedForecast."""

    format: int
    kind: str
    schema: str
    features: tuple[tuple[str, str], ...]  # of the schema: name and unit
    units: tuple[_Unit, ...]
    offset: str
    signed: bool
    location: tuple[float, ...]
    log_scale: tuple[float, ...]
    levels: tuple[float, ...]
    knots: tuple[float, ...]
    floor_bps: float
    trees_sha256: str = ""  # of TREES_FILE; "": no trees


def trained_files(fitted: FittedForecast) -> dict[str, bytes]:
    """File name -> bytes: the same for the same fit."""
    design = fitted.design
    form = _Trained(
        format=FORMAT,
        kind=fitted.kind,
        schema=fitted.schema.name,
        features=tuple((feature.name, feature.unit) for feature in fitted.schema.features),
        units=tuple(_Unit(unit.name, dict(unit.weights), unit.bias) for unit in design.units),
        offset=design.offset,
        signed=design.signed,
        location=tuple(fitted.location.tolist()),
        log_scale=tuple(fitted.log_scale.tolist()),
        levels=tuple(fitted.levels.tolist()),
        knots=tuple(fitted.knots.tolist()),
        floor_bps=fitted.floor_bps,
        trees_sha256=_sha256(fitted.trees) if fitted.trees else "",
    )
    files = {TRAINED_FILE: msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"}
    return files | ({TREES_FILE: fitted.trees} if fitted.trees else {})


def read_trained(folder: Path) -> FittedForecast:
    """Raises InputError if files are missing, damaged, of an older format, or do not belong together."""
    data = read_inside(folder, TRAINED_FILE, MAX_JSON_BYTES)
    try:
        version = msgspec.json.decode(data, type=_Format).format
        if version != FORMAT:
            raise InputError(f"trained form {folder}: format: expected {FORMAT}, got {version}")
        form = msgspec.json.decode(data, type=_Trained)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"trained form {folder}: {TRAINED_FILE}: {error}") from None
    trees = read_inside(folder, TREES_FILE, MAX_TREES_BYTES) if form.trees_sha256 else b""
    if trees and _sha256(trees) != form.trees_sha256:
        raise InputError(f"trained form {folder}: {TREES_FILE} is damaged: its SHA-256 differs from the recorded one")
    design = Design(
        schema=_schema(form.schema, form.features),
        units=tuple(Unit(unit.name, unit.weights, unit.bias) for unit in form.units),
        offset=form.offset,
        signed=form.signed,
    )
    span = design.span.stop - design.span.start
    if not len(form.location) == len(form.log_scale) == span + 1 or len(form.levels) != len(form.knots):
        raise InputError(
            f"trained form {folder}: {TRAINED_FILE}: expected {span + 1} weights, and a knot for each level"
        )
    location, log_scale, levels, knots = map(np.array, (form.location, form.log_scale, form.levels, form.knots))
    if not (np.diff(levels) > 0).all() or not (np.diff(knots) > 0).all():
        raise InputError(f"trained form {folder}: {TRAINED_FILE}: expected ascending levels and knots")
    return FittedForecast(form.kind, design, location, log_scale, knots, form.floor_bps, trees, levels)


def require_schema(fitted: FittedForecast, schema: FeatureSchema) -> None:
    """Raises InputError if the trained form has other features than the bundle."""
    if fitted.schema.hash != schema.hash:
        mine = fitted.schema
        raise InputError(f"the trained form takes {mine.name} {mine.hash}, the bundle {schema.name} {schema.hash}")


def form_beside(folder: Path) -> Mapping[str, bytes]:
    """The files of the trained form in a folder, unread; no file if there is none."""
    paths = (folder / name for name in (TRAINED_FILE, TREES_FILE))
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


class _Format(msgspec.Struct):
    format: int


def _schema(name: str, features: tuple[tuple[str, str], ...]) -> FeatureSchema:
    """The schema of SCHEMAS if it is that schema."""
    given = FeatureSchema(name, tuple(Feature(feature, unit, "") for feature, unit in features))
    known = SCHEMAS.get(name)
    return known if known is not None and known.hash == given.hash else given


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
