"""From an experiment to a bundle on disk: export, gate, manifest, and a write that is whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.bundle import (
    MANIFEST_FILE,
    MANIFEST_FORMAT,
    MODEL_FILE,
    DriftReference,
    LinearForm,
    Manifest,
    ManifestFeature,
    ManifestLabel,
    ManifestSchema,
    ManifestSpan,
    SelfTest,
)
from common.errors import InputError, UsageError
from common.schema import FeatureSchema
from common.versions import next_version
from pipeline.drift import reference_of
from training.fitting.experiment import Experiment, Part, on_schema
from training.judging import metrics
from training.judging.evaluation.blocks import DECISION_RESAMPLES
from training.models import BASELINES, graphs
from training.problem.data import Dataset
from training.problem.rows import Rows
from training.problem.ticks import NS_PER_S
from training.shipping import export
from training.shipping.onnx_model import OnnxModel


@dataclass(frozen=True, slots=True)
class Bundle:
    manifest: Manifest
    model: bytes


def build_bundle(name: str, version: str, dataset: Dataset, experiment: Experiment) -> Bundle:
    """Exports, compares with the trained form on every row, and says all there is to say.

    Nothing in it depends on the hour or the machine: the same data, code and seed give the same bytes.
    Raises TrainingError where the exported form differs.
    """
    fitted, part = experiment.model.fitted, experiment.part
    rows = on_schema(dataset.rows, experiment.schema)
    model = fitted.to_onnx()
    exported = OnnxModel(model).probabilities(rows.features)
    error = export.check_parity(exported, fitted.probabilities(rows.features))
    settings, decision = experiment.settings, float(f"{experiment.model.decision_threshold:.6g}")
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        name=name,
        version=version,
        kind=experiment.kind,
        created=_day(int(rows.time_ns[-1])),
        schema=_schema(experiment.schema),
        label=ManifestLabel(settings.horizon_s, settings.quantile, part.threshold),
        decision_threshold=decision,
        training=_span(part.train, part.train_y),
        evaluation=_span(part.test, part.test_y),
        metrics={kind: _digits(one.metrics) for kind, one in experiment.candidates.items()},
        data=dataset.files,
        data_sha256=dataset.sha256,
        model_sha256=hashlib.sha256(model).hexdigest(),
        opset=graphs.OPSET,
        parity_max_abs_error=float(f"{error:.2g}"),
        self_test=_self_test(rows, exported),
        parameters=_parameters(experiment),
        rows=_row_counts(dataset, part),
        walk_forward=_walk_forward(experiment),
        inputs=fitted.columns,
        baselines=_baselines(experiment),
        calibration=fitted.calibration,
        reference=_reference(rows, part, exported, decision),
        ablation=experiment.ablation,
    )
    return Bundle(manifest, model)


def _schema(schema: FeatureSchema) -> ManifestSchema:
    return ManifestSchema(
        schema.name, schema.hash, tuple(ManifestFeature(one.name, one.unit) for one in schema.features)
    )


def _walk_forward(experiment: Experiment) -> dict[str, dict[str, float]]:
    found = {kind: _digits(metrics.mean_of_folds(one.fold_metrics)) for kind, one in experiment.candidates.items()}
    for kind, one in experiment.leads.items():
        found[kind] |= _digits(one.metrics())
    return found


def _baselines(experiment: Experiment) -> dict[str, LinearForm]:
    found = {}
    for kind in (one for one in BASELINES if one in experiment.candidates):
        candidate = experiment.candidates[kind]
        form = candidate.fitted.linear_form()
        if form is not None:
            decision = float(f"{candidate.decision_threshold:.6g}")
            found[kind] = msgspec.structs.replace(form, decision_threshold=decision)
    return found


def _reference(rows: Rows, part: Part, exported: NDArray[np.float64], decision: float) -> DriftReference:
    train = part.split.train
    return reference_of(rows.schema.names, rows.features[train], exported[train], decision)


def _day(time_ns: int) -> str:
    # Of the last row, not of today: a bundle made again is the same bundle.
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).date().isoformat()


def _span(rows: Rows, y: NDArray[np.int8]) -> ManifestSpan:
    return ManifestSpan(int(rows.time_ns[0]), int(rows.time_ns[-1]), len(rows), int(y.sum()))


def _digits(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _self_test(rows: Rows, exported: NDArray[np.float64]) -> SelfTest:
    """The likeliest spike: a graph that ignores its input or lost its weights does not give that answer."""
    row = int(np.argmax(exported))
    return SelfTest(tuple(rows.features[row].tolist()), float(f"{exported[row]:.12g}"))


def _parameters(experiment: Experiment) -> dict[str, float]:
    settings = experiment.settings
    chosen = {
        name: float(value) for name, value in experiment.model.fitted.params.items() if not isinstance(value, str)
    }
    return {
        **chosen,
        "sample_period_s": settings.sample_period_s,
        "final_share": settings.final_share,
        "folds": settings.folds,
        "validation_folds": settings.validation_folds,
        "trials": len(experiment.model.trials),
        "threshold_rows": settings.threshold_rows,
        "embargo_s": settings.window_s + settings.horizon_s,
        "bootstrap_block_s": settings.block_s,
        "bootstrap_resamples": DECISION_RESAMPLES,
        "seed": settings.seed,
    }


def _row_counts(dataset: Dataset, final: Part) -> dict[str, int]:
    split = final.split
    return dataset.counts | {
        "purged": split.purged,
        "embargoed": split.embargoed,
        "training": len(split.train),
        "evaluation": len(split.test),
    }


def bundle_folder(out: Path, name: str, version: int | None, force: bool) -> Path:
    """Where a bundle goes: the version asked for, or the next free one. Raises UsageError where it is taken."""
    if version is None:
        folder = out / name / next_version([path.name for path in (out / name).glob("*") if path.is_dir()])
    else:
        folder = out / name / str(version)
    if folder.exists() and not force:
        raise UsageError(f"bundle {folder} exists: choose another --version, or replace it with --force")
    return folder


def write_bundle(folder: Path, bundle: Bundle, extra: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Writes beside the folder and renames, so that a server never sees half a bundle.

    extra: files that go along and no server reads. Raises InputError where the disk refuses; what was there before is
    then still there.
    """
    making = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    replaced = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        making.mkdir(parents=True)
        _write(making / MODEL_FILE, bundle.model)
        _write(making / MANIFEST_FILE, msgspec.json.format(msgspec.json.encode(bundle.manifest), indent=2) + b"\n")
        for name, data in extra.items():
            _write(making / name, data)
        if folder.exists():
            folder.rename(replaced)
        making.rename(folder)
    except OSError as error:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise InputError(f"bundle {folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
