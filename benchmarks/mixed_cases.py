"""Cases of the mixed run, drawn from a seed, and what ONNX Runtime answers to each."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.mixed_clients import INFER_PATH, PREDICT_PATH, Outcome
from common.bundle import Manifest, read_bundle
from volcast.oip.v2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from volcast.v1 import (
    DataType,
    ModelSelector,
    NamedRow,
    NamedRows,
    PackedRows,
    PredictRequest,
    PredictResponse,
    StreamPredictRequest,
)

MODELS = Path(__file__).resolve().parents[1] / "models"
TOLERANCE = 1e-10
DEFAULT = "volatility"
STABLE, OTHER = "4", "3"  # of the default model: a forecast, and a model of a single spike size
MAX_NAMED_ROWS = 20
# Of a hundred calls: how many have at most so many rows.
ROWS = ((70, 1), (90, 20), (98, 300), (100, 2000))
INVALID_SHARE = 0.08
INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION = 3, 5, 9

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Refusal:
    code: int
    field: str


@dataclass(frozen=True)
class Case:
    kind: str
    path: str
    raw: bytes
    name: str
    version: str  # "": the stable one
    matrix: Matrix | None = None
    refusal: Refusal | None = None


class Swap:
    """The change of a stable version by labels.json, and which versions may answer meanwhile."""

    def __init__(self, models: Path, name: str, before: str, after: str) -> None:
        self.name = name
        self._labels = models / name / "labels.json"
        self._after = after
        self.stable = frozenset({before})
        self.finished = False

    def begin(self) -> None:
        self.stable = self.stable | {self._after}
        staged = self._labels.with_suffix(".new")
        staged.write_text(json.dumps({"stable": self._after}))
        staged.replace(self._labels)

    def end(self) -> None:
        self.stable = frozenset({self._after})
        self.finished = True


class Reference:
    """Every version as its file gives it, run by ONNX Runtime in this process."""

    def __init__(self, models: Path) -> None:
        self.manifests: dict[tuple[str, str], Manifest] = {}
        self._sessions: dict[tuple[str, str], onnxruntime.InferenceSession] = {}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        for folder in sorted(models.glob("*/*/")):
            manifest, model = read_bundle(folder)
            key = manifest.name, manifest.version
            self.manifests[key] = manifest
            self._sessions[key] = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def probabilities(self, name: str, version: str, matrix: Matrix) -> NDArray[np.float64]:
        """Of a forecast: at its default spike size."""
        inputs, forecast = {"features": matrix}, self.manifests[name, version].forecast
        if forecast is not None:
            inputs |= {"spike_bps": np.full((len(matrix), 1), forecast.spike_bps), "levels": np.empty((len(matrix), 0))}
        (answer,) = self._sessions[name, version].run(["probability"], inputs)
        return np.asarray(answer, np.float64).reshape(-1)

    def fault_of(self, case: Case, outcome: Outcome, stable: frozenset[str]) -> str:
        """What is wrong with an answer; "" for a right one. stable: versions that may answer for the default."""
        if case.refusal is not None:
            expected = case.refusal
            if outcome.code != expected.code or expected.field not in outcome.fields:
                return f"expected code {expected.code} and field {expected.field!r}, got {outcome}"
            return ""
        if outcome.code:
            return f"expected an answer, got {outcome}"
        name, version, values = _answer(case, outcome.raw)
        if name != case.name:
            return f"expected model {case.name}, got {name}"
        allowed = frozenset({case.version}) if case.version else stable if name == DEFAULT else None
        if allowed is not None and version not in allowed:
            return f"expected version {sorted(allowed)} of {name}, got {version}"
        assert case.matrix is not None
        if len(values) != len(case.matrix):
            return f"expected {len(case.matrix)} probabilities, got {len(values)}"
        difference = self._difference(name, version, case.matrix, values)
        return "" if difference <= TOLERANCE else f"{name}/{version}: a probability differs by {difference:g}"

    def _difference(self, name: str, version: str, matrix: Matrix, values: NDArray[np.float64]) -> float:
        """The largest one, of a row from what ONNX Runtime answers to it among others or alone.

        The tree operator adds in another order for one row than for two or more: measured up to 1e-9. The server
        may have put a row into a batch with others, or not.
        """
        among_others = self.probabilities(name, version, np.concatenate([matrix, matrix[:1]]))[:-1]
        differences = np.abs(values - among_others)
        for row in np.flatnonzero(~(differences <= TOLERANCE)):
            alone = self.probabilities(name, version, matrix[row : row + 1])[0]
            differences[row] = abs(values[row] - alone)
        return float(np.max(differences))


def _answer(case: Case, raw: bytes) -> tuple[str, str, NDArray[np.float64]]:
    if case.path == INFER_PATH:
        infer = ModelInferResponse.FromString(raw)
        if infer.raw_output_contents:
            return infer.model_name, infer.model_version, np.frombuffer(infer.raw_output_contents[0], "<f8")
        return infer.model_name, infer.model_version, np.array(infer.outputs[0].contents.fp64_contents)
    answer = PredictResponse.FromString(raw)
    return answer.model_name, answer.model_version, np.array(answer.probabilities)


class Cases:
    """An endless series of cases, the same for the same seed."""

    def __init__(self, reference: Reference, seed: str) -> None:
        self._random = random.Random(seed)
        self._numbers = np.random.default_rng(self._random.getrandbits(64))
        self._manifests = reference.manifests
        names = (DEFAULT, DEFAULT, "volatility-full", "volatility-trailing")
        self._choices = [*reference.manifests, *((name, "") for name in names)]
        self._faults: tuple[Callable[[], Case], ...] = (
            self._unknown_model, self._unknown_version, self._unknown_label, self._other_schema, self._no_type,
            self._short_values, self._not_finite, self._no_rows, self._missing_feature, self._unknown_feature,
            self._infer_of_other_width,
        )  # fmt: skip

    def unary(self) -> Case:
        if self._random.random() < INVALID_SHARE:
            return self._random.choice(self._faults)()
        kind = self._random.choice(("float64", "float64", "float32", "named", "infer"))
        return self._infer() if kind == "infer" else self._predict(kind)

    def frame(self, frame_id: int) -> Case:
        """A case of Predict as a frame of StreamPredict."""
        while True:
            case = self.unary()
            if case.path == PREDICT_PATH:
                break
        request = PredictRequest.FromString(case.raw)
        raw = StreamPredictRequest(frame_id=frame_id, request=request).SerializeToString()
        return Case(case.kind, PREDICT_PATH, raw, case.name, case.version, case.matrix, case.refusal)

    def _model(self) -> tuple[str, str, Manifest]:
        name, version = self._random.choice(self._choices)
        known = next(manifest for key, manifest in self._manifests.items() if key == (name, version) or
                     (not version and key[0] == name))  # fmt: skip
        return name, version, known

    def _selector(self, name: str, version: str) -> ModelSelector | None:
        if version:
            return ModelSelector(name=name, version=version)
        if name == DEFAULT and self._random.random() < 0.5:
            return None
        return ModelSelector(name=name, label="stable" if self._random.random() < 0.5 else "")

    def _matrix(self, manifest: Manifest, limit: int = 2000) -> Matrix:
        drawn = self._random.random() * 100
        most = next(rows for share, rows in ROWS if drawn < share)
        count = min(self._random.randint(1, most), limit)
        example = np.array(manifest.self_test.features)
        signs = self._numbers.choice([1, 1, 1, -1], count)
        factors = self._numbers.lognormal(0, 0.7, (count, len(example))) * signs[:, None]
        return np.where(self._numbers.random(factors.shape) < 0.02, 0.0, example * factors)

    def _packed(self, manifest: Manifest, matrix: Matrix, dtype: str = "<f8") -> PackedRows:
        values = np.ascontiguousarray(matrix, dtype).tobytes()
        kind = {"<f4": DataType.DATA_TYPE_FLOAT32, "<f8": DataType.DATA_TYPE_FLOAT64}[dtype]
        return PackedRows(schema_hash=manifest.schema.hash, data_type=kind, row_count=len(matrix), values=values)

    def _predict(self, kind: str) -> Case:
        name, version, manifest = self._model()
        if kind == "named":
            matrix = self._matrix(manifest, MAX_NAMED_ROWS)
            request = PredictRequest(model=self._selector(name, version), named=_named(manifest, matrix))
        elif kind == "float32":
            matrix = self._matrix(manifest).astype(np.float32).astype(np.float64)
            request = PredictRequest(model=self._selector(name, version), packed=self._packed(manifest, matrix, "<f4"))
        else:
            matrix = self._matrix(manifest)
            request = PredictRequest(model=self._selector(name, version), packed=self._packed(manifest, matrix))
        return Case(kind, PREDICT_PATH, request.SerializeToString(), name, version, matrix)

    def _infer(self) -> Case:
        name, version, manifest = self._model()
        matrix = self._matrix(manifest)
        datatype, dtype, field = self._random.choice(
            (("FP64", "<f8", "fp64_contents"), ("FP32", "<f4", "fp32_contents"))
        )
        matrix = matrix.astype(dtype).astype(np.float64)
        tensor = ModelInferRequest.InferInputTensor(name="features", datatype=datatype, shape=matrix.shape)
        request = ModelInferRequest(model_name=name, model_version=version, inputs=[tensor])
        form = "raw" if self._random.random() < 0.5 else "contents"
        if form == "raw":
            request.raw_input_contents.append(matrix.astype(dtype).tobytes())
        else:
            contents: dict[str, Any] = {field: matrix.reshape(-1)}
            request.inputs[0].contents.CopyFrom(InferTensorContents(**contents))
        return Case(f"infer {datatype} {form}", INFER_PATH, request.SerializeToString(), name, version, matrix)

    # One fault each.

    def _wrong(self, what: str, request: PredictRequest, code: int, field: str) -> Case:
        return Case(f"invalid: {what}", PREDICT_PATH, request.SerializeToString(), "", "", refusal=Refusal(code, field))

    def _of_default(self) -> tuple[Manifest, PredictRequest]:
        manifest = self._manifests[DEFAULT, STABLE]
        return manifest, PredictRequest(packed=self._packed(manifest, self._matrix(manifest)))

    def _unknown_model(self) -> Case:
        _, request = self._of_default()
        request.model.CopyFrom(ModelSelector(name="nothing"))
        return self._wrong("model", request, NOT_FOUND, "model.name")

    def _unknown_version(self) -> Case:
        _, request = self._of_default()
        request.model.CopyFrom(ModelSelector(name=DEFAULT, version="99"))
        return self._wrong("version", request, NOT_FOUND, "model.version")

    def _unknown_label(self) -> Case:
        _, request = self._of_default()
        request.model.CopyFrom(ModelSelector(name=DEFAULT, label="canary"))
        return self._wrong("label", request, NOT_FOUND, "model.label")

    def _other_schema(self) -> Case:
        _, request = self._of_default()
        request.packed.schema_hash = "0123456789ab"
        return self._wrong("schema", request, FAILED_PRECONDITION, "packed.schema_hash")

    def _no_type(self) -> Case:
        _, request = self._of_default()
        request.packed.data_type = DataType.DATA_TYPE_UNSPECIFIED
        return self._wrong("data type", request, INVALID_ARGUMENT, "packed.data_type")

    def _short_values(self) -> Case:
        _, request = self._of_default()
        request.packed.values = request.packed.values[:-1]
        return self._wrong("size of values", request, INVALID_ARGUMENT, "packed.values")

    def _not_finite(self) -> Case:
        manifest = self._manifests[DEFAULT, STABLE]
        matrix = self._matrix(manifest)
        matrix[self._random.randrange(len(matrix)), self._random.randrange(matrix.shape[1])] = np.nan
        return self._wrong(
            "NaN", PredictRequest(packed=self._packed(manifest, matrix)), INVALID_ARGUMENT, "packed.values"
        )

    def _no_rows(self) -> Case:
        return self._wrong("no rows", PredictRequest(routing_key="a"), INVALID_ARGUMENT, "rows")

    def _missing_feature(self) -> Case:
        manifest = self._manifests[DEFAULT, STABLE]
        rows = _named(manifest, self._matrix(manifest, MAX_NAMED_ROWS))
        row = self._random.randrange(len(rows.rows))
        feature = self._random.choice(manifest.schema.features).name
        del rows.rows[row].features[feature]
        field = f"named.rows[{row}].features[{feature}]"
        return self._wrong("feature missing", PredictRequest(named=rows), INVALID_ARGUMENT, field)

    def _unknown_feature(self) -> Case:
        manifest = self._manifests[DEFAULT, STABLE]
        rows = _named(manifest, self._matrix(manifest, MAX_NAMED_ROWS))
        row = self._random.randrange(len(rows.rows))
        rows.rows[row].features["colour"] = 1.0
        field = f"named.rows[{row}].features[colour]"
        return self._wrong("feature unknown", PredictRequest(named=rows), INVALID_ARGUMENT, field)

    def _infer_of_other_width(self) -> Case:
        manifest = self._manifests[DEFAULT, STABLE]
        matrix = self._matrix(manifest)[:, 1:]
        tensor = ModelInferRequest.InferInputTensor(name="features", datatype="FP64", shape=matrix.shape)
        request = ModelInferRequest(
            model_name=DEFAULT, inputs=[tensor], raw_input_contents=[np.ascontiguousarray(matrix).tobytes()]
        )
        refusal = Refusal(INVALID_ARGUMENT, "inputs[0].shape")
        return Case("invalid: tensor's shape", INFER_PATH, request.SerializeToString(), "", "", refusal=refusal)


def _named(manifest: Manifest, matrix: Matrix) -> NamedRows:
    names = [feature.name for feature in manifest.schema.features]
    return NamedRows(rows=[NamedRow(features=dict(zip(names, row, strict=True))) for row in matrix.tolist()])
