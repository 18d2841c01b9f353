"""A model bundle: a folder `models/<name>/<version>/` with model.onnx and manifest.json.

Training writes the manifest and the server checks it. The ONNX graph has the input `features`, float64 of
shape (rows, features of the schema), in the schema's order, and the output `probability`, float32 or float64
of shape (rows,) or (rows, 1), in [0, 1].

A model that forecasts a distribution (manifest.forecast is set) has two more inputs, float64: `spike_bps` (rows, 1),
positive, and `levels` (rows, levels), in (0, 1), where the number of levels may be 0; and two more outputs, float64:
`median_bps` (rows, 1) and `quantile_bps` (rows, levels). Its `probability` is that of a realized volatility of at least
spike_bps.
"""

from __future__ import annotations

import hashlib
import os
import stat
from bisect import bisect_right
from math import log
from pathlib import Path
from typing import Annotated

import msgspec

from common.errors import BundleError
from common.schema import Feature, FeatureSchema

MANIFEST_FORMAT = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_MODEL_BYTES = 512 * 1024 * 1024  # the whole file is in memory while it is checked

Unit = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ManifestFeature(msgspec.Struct, frozen=True):
    name: str
    unit: str


class ManifestSchema(msgspec.Struct, frozen=True):
    name: str
    hash: str
    features: tuple[ManifestFeature, ...]


class ManifestLabel(msgspec.Struct, frozen=True):
    """y(t) = 1 if the realized volatility over (t, t + horizon_s] is at least `threshold`, else 0."""

    horizon_s: float
    quantile: Unit  # of the training part
    threshold: float  # realized volatility, log


class ManifestSpan(msgspec.Struct, frozen=True):
    start_ns: int  # event time of the first row, UTC
    end_ns: int  # event time of the last row
    rows: int
    positives: int


class Survival(msgspec.Struct, frozen=True):
    """Share of training rows at or above each value. Between two values it is linear in the logarithm of the value."""

    values: tuple[float, ...]  # ascending, positive
    shares: tuple[Unit, ...]  # descending

    def share_at(self, value: float) -> float:
        """The share of training rows at or above a positive `value`.

        1 below the first and 0 above the last known value.
        """
        values, shares = self.values, self.shares
        if value < values[0]:
            return 1.0
        if value >= values[-1]:
            return shares[-1] if value == values[-1] else 0.0
        above = bisect_right(values, value)
        low, high = values[above - 1], values[above]
        part = log(value / low) / log(high / low)
        return shares[above - 1] + part * (shares[above] - shares[above - 1])


class ForecastForm(msgspec.Struct, frozen=True):
    """A baseline that can be scored without its code: log volatility in bps is location + exp(log_scale) * Z.

    Both are sums of weight * log(clip(column, low, high)) and a bias. Z has the quantiles `knots` at `levels`.
    """

    columns: tuple[str, ...]
    location: tuple[float, ...]  # a weight for each column, then the bias
    log_scale: tuple[float, ...]
    levels: tuple[float, ...]
    knots: tuple[float, ...]
    low: float
    high: float
    signed: bool  # columns may be negative; their absolute values are used


class ManifestForecast(msgspec.Struct, frozen=True):
    """What a model forecasts: the distribution of realized volatility over (t, t + horizon_s], in basis points."""

    horizon_s: float
    step_s: float  # of the grid of mids whose squared returns make up the realized volatility
    floor_bps: float  # a smaller volatility counts as this: the market stands still
    spike_bps: float  # default spike size
    sizes: Survival  # in bps
    # Feature with the trailing hour's volatility (log return per sqrt(horizon_s)), and the volatility of training rows
    # as a multiple of it. Empty, None: the schema has no trailing hour.
    trailing_feature: str = ""
    multiples: Survival | None = None
    baselines: dict[str, ForecastForm] = {}  # kind -> fitted on the same training rows
    # The training rows of each recording. `training` spans all of them; rows between two recordings are not seen.
    spans: tuple[ManifestSpan, ...] = ()


# `volcast models add` knows nothing about the training of a graph.
NO_LABEL = ManifestLabel(0.0, 0.0, 0.0)
NO_SPAN = ManifestSpan(0, 0, 0, 0)
ADDED_KIND = "onnx"


class SelfTest(msgspec.Struct, frozen=True):
    """A row and the probability that the exported model gives it. A server that loads the model must reproduce it."""

    features: tuple[float, ...]
    probability: Unit


class LinearForm(msgspec.Struct, frozen=True):
    """A baseline that can be scored without its code: P = sigmoid(Σ weight · log(|column| + offset) + bias)."""

    columns: tuple[str, ...]  # of the training rows, which may have more columns than the model's schema
    offsets: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    decision_threshold: Unit = 0.5  # chosen on validation rows, as for the model


class Calibration(msgspec.Struct, frozen=True):
    """The correction of the model's logit: slope · logit + intercept. The graph contains it already."""

    slope: float
    intercept: float


class Bins(msgspec.Struct, frozen=True):
    """Distribution of training rows: fractions below the first edge, between edges, at or above the last edge."""

    edges: tuple[float, ...]  # ascending; inner edges only
    fractions: tuple[float, ...]  # len(edges) + 1 values; their sum is 1


class DriftReference(msgspec.Struct, frozen=True):
    """The training part as a reference for live data, by the population stability index (PSI)."""

    rows: int
    features: dict[str, Bins]
    probability: Bins
    positive_rate: Unit  # of probabilities at or above the decision threshold
    missing: dict[str, float]  # feature -> share of values that are not finite


class AblationRow(msgspec.Struct, frozen=True):
    """Value of a group of features: scores on validation folds with all other groups."""

    group: str  # "none": nothing left out
    columns: tuple[str, ...]
    log_loss: float
    pr_auc: float
    kept: bool


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    name: str
    version: str
    kind: str  # such as "logistic"; ADDED_KIND for an added graph
    created: str  # date, ISO 8601
    schema: ManifestSchema
    label: ManifestLabel = NO_LABEL
    decision_threshold: Unit
    training: ManifestSpan = NO_SPAN
    evaluation: ManifestSpan = NO_SPAN  # the untouched final part
    metrics: dict[str, dict[str, float]] = {}  # model or baseline -> metric -> value on the final part
    data: tuple[str, ...] = ()  # names of the files trained on
    data_sha256: str = ""
    model_sha256: str
    opset: int
    parity_max_abs_error: float = 0.0  # of the exported against the trained form, over all rows
    self_test: SelfTest
    parameters: dict[str, float] = {}  # chosen in training: regularization, seed, folds
    rows: dict[str, int] = {}  # read, dropped by reason, kept
    walk_forward: dict[str, dict[str, float]] = {}  # model or baseline -> metric -> mean over the folds
    inputs: tuple[str, ...] = ()  # features that the model uses
    baselines: dict[str, LinearForm] = {}
    calibration: Calibration | None = None
    reference: DriftReference | None = None
    ablation: tuple[AblationRow, ...] = ()
    forecast: ManifestForecast | None = None  # None: the model gives the probability of `label` only
    ranges: dict[str, tuple[float, float]] = {}  # feature -> smallest and largest value in the training rows

    @property
    def is_added(self) -> bool:
        """Whether `volcast models add` made the bundle: it records no training, label or evaluation."""
        return self.kind == ADDED_KIND

    def require_trained(self, use: str) -> None:
        """Raises BundleError for an added bundle; `use` is the command or part that needs a label and training data."""
        if self.is_added:
            raise BundleError(
                f"{self.name}/{self.version} was added from an ONNX file: it records no label and no training data, "
                f"which {use} needs"
            )

    def feature_schema(self) -> FeatureSchema:
        """The schema as the server uses it. Raises BundleError if hash and features disagree."""
        features = tuple(Feature(feature.name, feature.unit, "") for feature in self.schema.features)
        schema = FeatureSchema(self.schema.name, features)
        if schema.hash != self.schema.hash:
            raise BundleError(
                f"manifest of {self.name}/{self.version}: schema.hash: expected {schema.hash} (from names, order and "
                f"units), got {self.schema.hash}"
            )
        return schema


def manifest_json(manifest: Manifest) -> bytes:
    """The bytes of manifest.json."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_bundle(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest and the model's bytes, checked against each other.

    Raises BundleError with the file and the reason.
    """
    manifest, model = bundle_files(folder)
    return parse_bundle(folder, manifest, model), model


def has_bundle_file(folder: Path) -> bool:
    """Whether a folder has a bundle's file. `__pycache__`, notes and empty folders beside the versions have none."""
    for name in (MANIFEST_FILE, MODEL_FILE):
        try:
            (folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass  # no permission to look: reading the bundle gives the reason
        return True
    return False


def bundle_files(folder: Path) -> tuple[bytes, bytes]:
    """The bytes of manifest.json and model.onnx, unchecked. Raises BundleError if a file cannot be read."""
    return read_inside(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES), read_inside(folder, MODEL_FILE, MAX_MODEL_BYTES)


def parse_bundle(folder: Path, manifest_bytes: bytes, model: bytes) -> Manifest:
    """The manifest, checked against the model's bytes. Raises BundleError.

    folder: appears in messages only.
    """
    manifest = _parse_manifest(folder, manifest_bytes)
    digest = hashlib.sha256(model).hexdigest()
    if digest != manifest.model_sha256:
        raise BundleError(
            f"bundle {folder}: {MODEL_FILE} is damaged: SHA-256 {digest[:12]}…, the manifest says "
            f"{manifest.model_sha256[:12]}…"
        )
    manifest.feature_schema()
    return manifest


def read_inside(folder: Path, name: str, limit: int) -> bytes:
    """The bytes of a plain file of at most `limit` bytes in `folder`. Raises BundleError.

    Links that stay in the folder are followed, since mounted volumes consist of such links. The file is opened
    without blocking, since opening a pipe would wait for its writer.
    """
    try:
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(folder.resolve(strict=True)):
            raise BundleError(f"bundle {folder}: {name} is a link that leads outside its folder")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError(f"bundle {folder}: {name} is no plain file")
            data = stream.read(limit + 1)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)  # a loop of links is a RuntimeError before 3.13
        raise BundleError(f"bundle {folder}: {name} cannot be read: {reason}") from None
    if len(data) > limit:
        raise BundleError(f"bundle {folder}: {name}: expected at most {limit} bytes")
    return data


def _parse_manifest(folder: Path, data: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"bundle {folder}: {MANIFEST_FILE}: {error}") from None
    if manifest.format != MANIFEST_FORMAT:
        raise BundleError(f"bundle {folder}: format: expected {MANIFEST_FORMAT}, got {manifest.format}")
    return manifest
