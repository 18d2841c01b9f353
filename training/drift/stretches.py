"""Rows as stretches to compare: features, what a bundle says of them, and what followed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.bundle import Manifest
from common.errors import InputError
from common.schema import FeatureSchema
from training.drift.summary import FUTURE_VOLATILITY, PROBABILITY, Stretch
from training.problem.rows import Rows
from training.problem.splits import SplitRules, final_split
from training.problem.ticks import NS_PER_S

_STAMP = re.compile(r"features_(\d{8}T\d{6}Z)(?:-\d+)?\.parquet")


def stretch(name: str, rows: Rows, bundle: tuple[Manifest, bytes] | None = None) -> Stretch:
    """The columns of rows. Where a bundle is given and takes features that the rows hold, its probabilities too.

    Raises InputError where there is no row, or the bundle looks at features that the rows lack.
    """
    if len(rows) == 0:
        raise InputError(f"{name}: no usable row")
    columns: dict[str, NDArray[np.float64]] = {one: rows.column(one) for one in rows.schema.names}
    if bundle is not None:
        from training.shipping.onnx_model import OnnxModel

        manifest, model = bundle
        columns[PROBABILITY] = OnnxModel(model).probabilities(rows.columns(manifest.feature_schema().names))
    if np.isfinite(rows.future_volatility).any():
        columns[FUTURE_VOLATILITY] = rows.future_volatility
    return Stretch(name, int(rows.time_ns[0]), int(rows.time_ns[-1]), columns)


def train_and_test(rows: Rows, horizon_s: int, window_s: int, final_share: float) -> tuple[Rows, Rows]:
    """The training part and the final part, as training cuts them."""
    rules = SplitRules(horizon_s * NS_PER_S, window_s * NS_PER_S, final_share, folds=1)
    split = final_split(rows.time_ns, rules)
    return rows.take(split.train), rows.take(split.test)


def since(rows: Rows, span_s: float) -> Rows:
    """The last span_s of event time."""
    if len(rows) == 0:
        return rows
    return rows.take(np.flatnonzero(rows.time_ns > rows.time_ns[-1] - int(span_s * NS_PER_S)))


def recent_files(folder: Path, span_s: float) -> list[Path]:
    """Feature files of a worker's folder that may hold rows of the last span_s, by the times in their names.

    A file holds what came from its time on until the next one's, so the one before the span belongs to it.
    """
    found = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    stamped = [(_stamp(path), path) for path in found]
    newest = max((at for at, _ in stamped if at is not None), default=None)
    if newest is None:
        return found
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
) -> Rows:
    """Live rows without what followed: time_ns (n,), values (n, features), in any order."""
    codes: Mapping[str, int] = {name: code for code, name in enumerate(sorted(set(product)))}
    order = np.argsort(time_ns, kind="stable")
    return Rows(
        schema=schema,
        time_ns=time_ns[order],
        product=np.array([codes[one] for one in product], np.int64)[order],
        features=values[order],
        future_volatility=np.full(len(order), np.nan),
    )
