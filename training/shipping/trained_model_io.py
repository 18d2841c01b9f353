"""The trained form on disk, to hold the exported one against: JSON, and XGBoost's UBJ. Never a pickle.

It is computed here with NumPy and XGBoost from what training learned, before any rounding of the export, and
shares no code with the graph.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bundle import Calibration, read_inside
from common.errors import InputError, TrainingError
from common.schema import FeatureSchema

if TYPE_CHECKING:
    from training.models import Fitted
    from training.models.linear import FittedLinear

TRAINED_FILE = "trained.json"
TREES_FILE = "trees.ubj"
FORMAT = 1
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_TREES_BYTES = 512 * 1024 * 1024
_SIGNED = ("_sin", "_cos")  # what goes around keeps its sign


class Linear(msgspec.Struct, frozen=True):
    """((inputs − mean) / scale) · weights + bias; inputs: log(|x| + offset) of the first columns, then x cut to ±1."""

    offsets: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float


class TrainedForm(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned: logit = linear, or a constant, plus the margin of trees where there are any."""

    format: int
    kind: str
    schema: str
    features: tuple[str, ...]  # of the schema, in order
    columns: tuple[str, ...]  # that the model looks at
    calibration: Calibration
    linear: Linear | None = None
    constant: float = 0.0
    trees: str | None = None  # SHA-256 of trees.ubj


class Trained:
    """A trained form that can be asked; `form` says what it is."""

    def __init__(self, form: TrainedForm, trees: bytes | None = None) -> None:
        self.form = form
        self._index = [form.features.index(name) for name in form.columns]
        self._booster = None if trees is None else _booster(trees)

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(spike) for (rows, features of the schema), shape (rows,)."""
        chosen = np.asarray(features[:, self._index], dtype=np.float64)
        logit = (
            np.full(len(chosen), self.form.constant) if self.form.linear is None else _linear(self.form.linear, chosen)
        )
        if self._booster is not None:
            logit = logit + self._margin(self._booster, chosen)
        calibrated = self.form.calibration.slope * logit + self.form.calibration.intercept
        small = np.exp(-np.abs(calibrated))
        return np.asarray(np.where(calibrated >= 0, 1.0, small) / (1.0 + small), dtype=np.float64)

    def _margin(self, booster: Any, chosen: NDArray[np.float64]) -> NDArray[np.float64]:
        # As trained: sizes in float32 (training/models/trees.py says why).
        inputs = np.where([not name.endswith(_SIGNED) for name in self.form.columns], np.abs(chosen), chosen)
        with np.errstate(over="ignore"):
            inputs = inputs.astype(np.float32)
        return np.asarray(booster.inplace_predict(inputs, predict_type="margin"), dtype=np.float64)


def _linear(form: Linear, chosen: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = len(form.offsets)
    inputs = np.concatenate(
        [np.log(np.abs(chosen[:, :logs]) + np.array(form.offsets)), np.clip(chosen[:, logs:], -1.0, 1.0)], axis=1
    )
    standardized = (inputs - np.array(form.mean)) / np.array(form.scale)
    return np.asarray(standardized @ np.array(form.weights) + form.bias, dtype=np.float64)


def read_trained(folder: Path) -> Trained:
    """Raises InputError where the files are missing, damaged or do not fit together."""
    try:
        form = msgspec.json.decode(read_inside(folder, TRAINED_FILE, MAX_JSON_BYTES), type=TrainedForm)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"trained form {folder}: {TRAINED_FILE}: {error}") from None
    if form.format != FORMAT:
        raise InputError(f"trained form {folder}: format: expected {FORMAT}, got {form.format}")
    if not set(form.columns) <= set(form.features) or (form.linear is None and form.trees is None):
        raise InputError(
            f"trained form {folder}: {TRAINED_FILE}: expected columns of its features, and linear or trees"
        )
    trees = None
    if form.trees is not None:
        trees = read_inside(folder, TREES_FILE, MAX_TREES_BYTES)
        if _sha256(trees) != form.trees:
            raise InputError(f"trained form {folder}: {TREES_FILE} is damaged: its SHA-256 is not the one written down")
    return Trained(form, trees)


def trained_files(fitted: Fitted) -> dict[str, bytes]:
    """File name -> bytes. Raises TrainingError for a form it does not know."""
    # They bring scikit-learn and XGBoost, which who only reads a linear form need not wait for.
    from training.models.linear import FittedLinear
    from training.models.trees import FittedTrees

    match fitted:
        case FittedLinear():
            base: FittedLinear | float = fitted
            trees = None
        case FittedTrees():
            base, trees = fitted.base, _as_ubj(fitted.booster)
        case _:
            raise TrainingError(f"model {fitted.kind}: its trained form has no safe way to disk")
    form = TrainedForm(
        format=FORMAT,
        kind=fitted.kind,
        schema=fitted.schema.name,
        features=fitted.schema.names,
        columns=tuple(fitted.columns),
        calibration=fitted.calibration,
        linear=None if isinstance(base, float) else _linear_of(base),
        constant=base if isinstance(base, float) else 0.0,
        trees=None if trees is None else _sha256(trees),
    )
    files = {TRAINED_FILE: msgspec.json.format(msgspec.json.encode(form), indent=2) + b"\n"}
    return files if trees is None else files | {TREES_FILE: trees}


def require_schema(trained: Trained, schema: FeatureSchema) -> None:
    """Raises InputError where the trained form was made on other features than the bundle takes."""
    if trained.form.features != schema.names:
        raise InputError(f"the trained form takes {trained.form.schema}, the bundle {schema.name} {schema.hash}")


def _linear_of(fitted: FittedLinear) -> Linear:
    scaler, regression = fitted.pipeline[0], fitted.pipeline[1]
    return Linear(
        offsets=tuple(fitted.terms.offsets),
        mean=tuple(scaler.mean_.tolist()),
        scale=tuple(scaler.scale_.tolist()),
        weights=tuple(regression.coef_[0].tolist()),
        bias=float(regression.intercept_[0]),
    )


def _as_ubj(booster: bytes) -> bytes:
    return bytes(_booster(booster).save_raw(raw_format="ubj"))


def _booster(trees: bytes) -> Any:
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(trees))
    return booster


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
