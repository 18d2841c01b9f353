"""Rows as stretches to compare: features, the probabilities of a bundle, and the outcomes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.bundle import Manifest
from common.errors import InputError
from common.schema import FeatureSchema
from training.drift.summary import OUTCOME, PROBABILITY, Stretch
from training.fitting.forecast_experiment import Settings
from training.forecasting.onnx_forecast import OnnxForecast
from training.problem.forecast_rows import ForecastRows
from training.problem.splits import final_split
from training.problem.target import NS_PER_S
from training.shipping.onnx_model import OnnxModel

_STAMP = re.compile(r"features_(\d{8}T\d{6}Z)(?:-\d+)?\.parquet")


def stretch(name: str, rows: ForecastRows, bundle: tuple[Manifest, bytes] | None = None) -> Stretch:
    """The columns of rows, with the bundle's probabilities of its spike size.

    Raises InputError if there is no row, or if the rows lack a feature of the bundle.
    """
    if len(rows) == 0:
        raise InputError(f"{name}: no usable row")
    columns: dict[str, NDArray[np.float64]] = {each: rows.column(each) for each in rows.schema.names}
    if bundle is not None:
        columns[PROBABILITY] = probabilities(*bundle, rows)
    if np.isfinite(rows.outcome_bps).any():
        columns[OUTCOME] = rows.outcome_bps
    return Stretch(name, int(rows.time_ns.min()), int(rows.time_ns.max()), columns)


def probabilities(manifest: Manifest, model: bytes, rows: ForecastRows) -> NDArray[np.float64]:
    """A bundle's probabilities of a spike of its own size, (n,). Raises InputError if the rows lack a feature."""
    features = rows.columns(manifest.feature_schema().names)
    if manifest.forecast is None:
        return OnnxModel(model).probabilities(features)
    sizes = np.full(len(rows), manifest.forecast.spike_bps)
    return OnnxForecast(model).run(features, sizes, np.zeros((len(rows), 0)))[0]


def train_and_test(rows: ForecastRows, settings: Settings) -> tuple[ForecastRows, ForecastRows]:
    """The training part and the final part of every recording, as `volcast train` splits them."""
    rules = settings.split_rules(rows)
    train, test = [], []
    for number in range(len(rows.recordings)):
        places = np.flatnonzero(rows.recording == number)
        split = final_split(rows.time_ns[places], rules)
        train.append(places[split.train])
        test.append(places[split.test])
    return rows.take(np.concatenate(train)), rows.take(np.concatenate(test))


def since(rows: ForecastRows, span_s: float) -> ForecastRows:
    """The last span_s of event time."""
    if len(rows) == 0:
        return rows
    return rows.take(rows.time_ns > rows.time_ns.max() - int(span_s * NS_PER_S))


def recent_files(folder: Path, span_s: float) -> list[Path]:
    """Feature files of a worker's folder that may hold rows of the last span_s, by the times in their names.

    A file holds the rows from its time to the time of the next file, so the last file before the span belongs to it.
    """
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    stamped = [(_stamp(path), path) for path in files]
    newest = max((at for at, _ in stamped if at is not None), default=None)
    if newest is None:
        return files
    times = sorted(at for at, _ in stamped if at is not None)
    first = next((at for at in reversed(times) if at <= newest - span_s), times[0])
    return [path for at, path in stamped if at is None or at >= first]


def _stamp(path: Path) -> float | None:
    match = _STAMP.fullmatch(path.name)
    if match is None:
        return None
    return datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def rows_of_features(
    schema: FeatureSchema, time_ns: NDArray[np.int64], product: Sequence[str], values: NDArray[np.float64]
) -> ForecastRows:
    """Live rows without outcomes: time_ns (n,), values (n, features), in any order."""
    products = tuple(sorted(set(product)))
    rows = ForecastRows(
        schema=schema,
        time_ns=time_ns,
        features=values,
        outcome_bps=np.full(len(time_ns), np.nan),
        product=np.array([products.index(each) for each in product], np.int64),
        recording=np.zeros(len(time_ns), np.int64),
        products=products,
        recordings=("live",),
    )
    return rows.take(np.argsort(time_ns, kind="stable"))
