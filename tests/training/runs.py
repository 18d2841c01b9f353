"""Training runs as folders, made in a moment: a logistic regression on rows that someone drew."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from common.bundle import (
    MANIFEST_FORMAT,
    Manifest,
    ManifestFeature,
    ManifestLabel,
    ManifestSchema,
    ManifestSpan,
    SelfTest,
)
from common.schema import CORE_1, FeatureSchema
from training.judging.scored_part import FINAL, Scored
from training.models import BASELINES, Fitted
from training.models.linear import fit_linear
from training.problem.labels import labels
from training.problem.rows import Rows
from training.problem.ticks import NS_PER_S
from training.shipping.tracking.record import log_run
from training.shipping.trained_model_io import trained_files

OPSET = 18
START_NS = 1_764_565_200 * NS_PER_S
THRESHOLD = 1.0
FOLDS = 3
COLUMNS = ("volatility", "trade_intensity", "return_60s")


@dataclass
class Made:
    """What a run is made of; change any of it before `write`."""

    rows: Rows
    fitted: Fitted
    model: bytes
    parts: list[Scored]
    manifest: Manifest
    trained: dict[str, bytes] = field(default_factory=dict)

    def write(self, runs_dir: Path, started_s: float = 1_765_000_000.0) -> Path:
        return log_run(
            runs_dir,
            self.manifest,
            self.model,
            trained=self.trained or trained_files(self.fitted),
            rows=self.rows,
            parts=self.parts,
            products=("BTC-USD",),
            started_s=started_s,
            fold_metrics={"fold/logistic/pr_auc": [0.4, 0.5, 0.6]},
            plots={"reliability.png": b"not a picture"},
        )

    def change(self, **values: object) -> None:
        self.manifest = replace_manifest(self.manifest, **values)


def replace_manifest(manifest: Manifest, **values: object) -> Manifest:
    import msgspec

    return msgspec.structs.replace(manifest, **values)


def draw_rows(count: int, seed: int, schema: FeatureSchema = CORE_1) -> Rows:
    """A row a second, whose volatility to come is half that of now and half chance."""
    random = np.random.default_rng(seed)
    features = np.abs(random.normal(0, 1e-4, (count, len(schema)))) + 1e-6
    level = np.repeat(random.normal(size=count // 120 + 1), 120)[:count]
    features[:, schema.names.index("volatility")] = 1e-4 * np.exp(level)
    following = np.exp(level + random.normal(0, 0.8, count) - 1.5)
    return Rows(schema, START_NS + np.arange(count) * NS_PER_S, np.zeros(count, np.int64), features, following)


def make(
    *,
    seed: int = 1,
    count: int = 12_000,
    name: str = "volatility",
    columns: tuple[str, ...] = COLUMNS,
    rows: Rows | None = None,
    baselines: Mapping[str, NDArray[np.float64]] | None = None,
) -> Made:
    """A run as honest as rows from a random generator allow. baselines: what they say of all rows, by kind."""
    rows = rows or draw_rows(count, seed)
    y = labels(rows.future_volatility, THRESHOLD)
    borders = np.linspace(0, len(rows), FOLDS + 3).astype(int)[1:]
    chance = np.random.default_rng(seed).random(len(rows))
    said = baselines or dict.fromkeys(BASELINES, chance)
    parts = []
    for number, (start, stop) in enumerate(itertools.pairwise(borders), 1):
        name_of_part = FINAL if stop == len(rows) else f"fold {number}"
        fitted = _fit(rows.take(np.arange(start - 400)), columns)
        parts.append(_scored(name_of_part, rows, y, slice(start, stop), fitted, said))
    train = rows.take(np.arange(borders[-2] - 400))
    fitted = _fit(train, columns)
    model = fitted.to_onnx()
    final = parts[-1]
    return Made(rows, fitted, model, parts, _manifest(name, rows, train, fitted, model, final, len(parts) - 1))


def _fit(rows: Rows, columns: tuple[str, ...]) -> Fitted:
    return fit_linear("logistic", rows, labels(rows.future_volatility, THRESHOLD), {"C": 1.0}, columns)


def _scored(
    part: str,
    rows: Rows,
    y: NDArray[np.int8],
    span: slice,
    fitted: Fitted,
    baselines: Mapping[str, NDArray[np.float64]],
) -> Scored:
    said = {"logistic": fitted.probabilities(rows.features[span]), **{one: p[span] for one, p in baselines.items()}}
    return Scored(
        part=part,
        time_ns=rows.time_ns[span],
        product=rows.product[span],
        y=y[span],
        future_volatility=rows.future_volatility[span],
        threshold=THRESHOLD,
        climatology=0.1,
        probabilities=said,
        decision_thresholds=dict.fromkeys(said, 0.5),
    )


def _manifest(name: str, rows: Rows, train: Rows, fitted: Fitted, model: bytes, final: Scored, folds: int) -> Manifest:
    schema = rows.schema
    train_y = labels(train.future_volatility, THRESHOLD)
    pr_auc = {kind: float(average_precision_score(final.y, p)) for kind, p in final.probabilities.items()}
    return Manifest(
        format=MANIFEST_FORMAT,
        name=name,
        version="1",
        kind="logistic",
        created="2025-12-06",
        schema=ManifestSchema(
            schema.name, schema.hash, tuple(ManifestFeature(o.name, o.unit) for o in schema.features)
        ),
        label=ManifestLabel(60.0, 0.9, THRESHOLD),
        decision_threshold=0.5,
        training=ManifestSpan(int(train.time_ns[0]), int(train.time_ns[-1]), len(train), int(train_y.sum())),
        evaluation=ManifestSpan(int(final.time_ns[0]), int(final.time_ns[-1]), len(final), int(final.y.sum())),
        metrics={kind: {"pr_auc": value} for kind, value in pr_auc.items()},
        data=("made_up.ndjson",),
        data_sha256=hashlib.sha256(rows.features.tobytes()).hexdigest(),
        model_sha256=hashlib.sha256(model).hexdigest(),
        opset=OPSET,
        parity_max_abs_error=1e-12,
        self_test=SelfTest(tuple(rows.features[0].tolist()), float(fitted.probabilities(rows.features[:1])[0])),
        parameters={"embargo_s": 120.0},
        walk_forward={"logistic": {"pr_auc": 0.5, "folds": float(folds)}},
        inputs=fitted.columns,
    )


def leaky(made: Made) -> Made:
    """The same run had a feature known what comes: nearly every spike is ranked above everything else."""
    rows = made.rows
    features = rows.features.copy()
    features[:, rows.schema.names.index("volatility")] = rows.future_volatility * 1e-4
    return make(rows=replace(rows, features=features))
