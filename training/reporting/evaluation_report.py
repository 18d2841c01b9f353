"""Evaluations as files: model_eval.json, a page that stands alone, and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from common.errors import InputError
from training.fitting.experiment import Experiment
from training.judging.evaluation import ModelEval, Settings, evaluate_scored
from training.judging.evaluation.result import DataRef, decode, encode
from training.judging.scored_part import Scored
from training.problem.data import Dataset
from training.reporting.evaluation_page import page
from training.reporting.evaluation_plots import pictures

JSON_FILE, HTML_FILE, PICTURES_FOLDER = "model_eval.json", "model_eval.html", "model_eval"


def evaluate_experiment(
    experiment: Experiment,
    dataset: Dataset,
    settings: Settings | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> ModelEval:
    """The experiment's folds and final part, with where its rows came from."""
    given = experiment.settings
    if settings is None:
        settings = Settings(horizon_s=given.horizon_s, block_s=given.block_s, seed=given.seed)
    parts = (*experiment.folds, experiment.final)
    found = evaluate_scored(parts, experiment.kind, settings, products=dataset.products, progress=progress)
    return msgspec.structs.replace(
        found, data=DataRef(dataset.files, dataset.sha256, dict(dataset.counts), dataset.products)
    )


def write_report(out: Path, evaluation: ModelEval, parts: Sequence[Scored]) -> list[Path]:
    """Writes all files, each whole or as it was, and names them, JSON and HTML first.

    parts: the rows of the evaluation's parts, in its order. Raises InputError where the disk refuses.
    """
    drawn = pictures(evaluation, parts)
    files: Mapping[Path, bytes] = {
        out / JSON_FILE: encode(evaluation),
        out / HTML_FILE: page(evaluation, drawn).encode(),
        **{out / PICTURES_FOLDER / name: data for name, data in drawn.items()},
    }
    for path, data in files.items():
        write_whole(path, data)
    return list(files)


def read_evaluation(path: Path) -> ModelEval:
    """Raises InputError for a file that cannot be read or is no evaluation of this format."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"evaluation {path}: cannot be read: {error.strerror or error}") from None
    return decode(data, str(path))


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside the path and renames. Raises InputError where the disk refuses."""
    making = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        making.write_bytes(data)
        making.replace(path)
    except OSError as error:
        making.unlink(missing_ok=True)
        raise InputError(f"report {path}: cannot be written: {error.strerror or error}") from None
