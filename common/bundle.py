"""A model bundle: a folder `models/<name>/<version>/` with model.onnx and manifest.json.

The manifest is what training promises and the server checks. The ONNX graph takes one input,
`features`, float64 of shape (rows, features of the schema), in the schema's order, and has an output
`probability`, float32 or float64 of shape (rows,) or (rows, 1), in [0, 1].
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from common.errors import BundleError
from common.schema import Feature, FeatureSchema

MANIFEST_FORMAT = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"

Unit = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ManifestFeature(msgspec.Struct, frozen=True):
    name: str
    unit: str


class ManifestSchema(msgspec.Struct, frozen=True):
    name: str
    hash: str
    features: tuple[ManifestFeature, ...]


class ManifestLabel(msgspec.Struct, frozen=True):
    """y(t) = 1 where the realized volatility over (t, t + horizon_s] is at least `threshold`."""

    horizon_s: float
    quantile: Unit  # of the training part
    threshold: float  # realized volatility, log


class ManifestSpan(msgspec.Struct, frozen=True):
    start_ns: int  # event time of the first row, UTC
    end_ns: int  # event time of the last row
    rows: int
    positives: int


class SelfTest(msgspec.Struct, frozen=True):
    """A row and what the exported model says of it: a server tells a model that works from one that only loads."""

    features: tuple[float, ...]
    probability: Unit


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    name: str
    version: str
    kind: str  # "logistic"
    created: str  # date, ISO 8601
    schema: ManifestSchema
    label: ManifestLabel
    decision_threshold: Unit
    training: ManifestSpan
    evaluation: ManifestSpan  # the untouched final part
    metrics: dict[str, dict[str, float]]  # model or baseline -> metric -> value on the final part
    data: tuple[str, ...]  # names of the files trained on
    data_sha256: str
    model_sha256: str
    opset: int
    parity_max_abs_error: float  # exported against trained form, over every row
    self_test: SelfTest
    parameters: dict[str, float] = {}  # chosen in training: regularization, seed, folds
    rows: dict[str, int] = {}  # read, dropped by reason, kept
    walk_forward: dict[str, dict[str, float]] = {}  # model or baseline -> metric -> mean over the folds

    def feature_schema(self) -> FeatureSchema:
        """The schema as the server uses it; raises BundleError where hash and features disagree."""
        features = tuple(Feature(one.name, one.unit, "") for one in self.schema.features)
        schema = FeatureSchema(self.schema.name, features)
        if schema.hash != self.schema.hash:
            raise BundleError(
                f"manifest of {self.name}/{self.version}: schema.hash: expected {schema.hash} (from names, order and "
                f"units), got {self.schema.hash}"
            )
        return schema


def read_bundle(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest and the model's bytes, checked against each other.

    Raises BundleError, saying which file and why.
    """
    manifest = _read_manifest(folder / MANIFEST_FILE)
    path = folder / MODEL_FILE
    try:
        model = path.read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {folder}: {MODEL_FILE} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(model).hexdigest()
    if digest != manifest.model_sha256:
        raise BundleError(
            f"bundle {folder}: {MODEL_FILE} is damaged: SHA-256 {digest[:12]}…, the manifest says "
            f"{manifest.model_sha256[:12]}…"
        )
    manifest.feature_schema()
    return manifest, model


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise BundleError(f"bundle {path.parent}: {path.name} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"bundle {path.parent}: {path.name}: {error}") from None
    if manifest.format != MANIFEST_FORMAT:
        raise BundleError(f"bundle {path.parent}: format: expected {MANIFEST_FORMAT}, got {manifest.format}")
    return manifest
