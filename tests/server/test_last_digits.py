"""The last digits of a probability may depend on the batch, within the tolerances that docs/contract.md states."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from cli.models.estimator import add_estimator
from common.bundle import Manifest, read_bundle
from common.schema import SCHEMAS, FeatureSchema
from pipeline.exchange.simulator import simulate
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine
from pipeline.records import Tick
from server.core.bundles import load_model
from server.core.snapshot import Model
from tests.cli.models.exports import training_data

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
CONTRACT = (ROOT / "docs" / "contract.md").read_text()
VERSIONS = sorted((folder.parent.name, folder.name) for folder in MODELS.glob("*/[0-9]*"))
TREES = r"for 9 rows of 10, and at most ([0-9.e-]+) "
FORECASTS = r"forecasts that Volcast ships, it is at most ([0-9.e-]+) on rows of a market"
UNUSUAL = r"at most ([0-9.e-]+) on rows unlike any market"
QUANTILES = r"medians and quantiles differ by at most ([0-9.e-]+) of their value"
OTHERS = r"other models that Volcast ships, it is at most ([0-9.e-]+)\."
ROWS = 512
Matrix = NDArray[np.float64]


def stated(bound: str) -> float:
    """The number in a sentence of the contract, where `bound` has a group for it."""
    section = " ".join(CONTRACT.split("### `PredictResponse`")[1].split("###")[0].split())
    match = re.search(bound, section)
    assert match is not None, section
    return float(match[1])


def recorded_rows(schema: FeatureSchema) -> Matrix:
    """Rows of a simulated market: its prices and sizes are those of the recordings."""
    ticks = islice(simulate(["BTC-USD"], 5, 2.0), 2 * ROWS + 700)  # full/1 is warm after 300 s
    records = [
        Tick(
            tick.product_id,
            tick.event_time_ns,
            0,
            number,
            tick.price / 100,
            tick.bid / 100,
            tick.ask / 100,
            tick.bid_quantity / 1e8,
            tick.ask_quantity / 1e8,
        )
        for number, tick in enumerate(ticks)
    ]
    batch = FeatureEngine(SCHEMAS[schema.name]).update(TickColumns.from_records(records, ProductCodes()))
    return np.ascontiguousarray(batch.values[batch.warm][-ROWS:])


def unusual_rows(schema: FeatureSchema) -> Matrix:
    """Rows of widely different sizes, as a live market never has them together."""
    random = np.random.default_rng(5)
    matrix = random.lognormal(-6.0, 3.0, (ROWS, len(schema)))
    matrix[:, :2] = random.lognormal(8.0, 2.0, (ROWS, 1))  # price and mid
    return np.ascontiguousarray(matrix)


def largest_difference(model: Model, matrix: Matrix) -> float:
    """Between a row by itself and the same row in batches of several sizes."""
    assert matrix.shape == (ROWS, len(model.schema))
    single = np.concatenate([model.predictor.predict(matrix[row : row + 1]) for row in range(ROWS)])
    return max(
        float(np.max(np.abs(np.concatenate(in_batches(model, matrix, size)) - single)))
        for size in (2, 3, 5, 16, 33, 256, ROWS)
    )


def in_batches(model: Model, matrix: Matrix, size: int) -> list[Matrix]:
    return [model.predictor.predict(matrix[start : start + size]) for start in range(0, ROWS, size)]


def bound_of(manifest: Manifest, rows_of: Callable[[FeatureSchema], Matrix]) -> str:
    if manifest.forecast is not None:
        return FORECASTS if rows_of is recorded_rows else UNUSUAL
    return TREES if manifest.kind == "xgboost" else OTHERS


@pytest.mark.parametrize("rows_of", [recorded_rows, unusual_rows])
@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_a_row_has_its_own_probability_in_a_batch(
    name: str, version: str, rows_of: Callable[[FeatureSchema], Matrix]
) -> None:
    folder = MODELS / name / version
    model = load_model(folder, name, version)
    bound = bound_of(read_bundle(folder)[0], rows_of)
    assert largest_difference(model, rows_of(model.schema)) <= stated(bound)


@pytest.mark.parametrize("rows_of", [recorded_rows, unusual_rows])
@pytest.mark.parametrize("spike_bps", [0.5, 50.0])
@pytest.mark.parametrize(
    ("name", "version"), [each for each in VERSIONS if read_bundle(MODELS.joinpath(*each))[0].forecast is not None]
)
def test_a_row_has_its_own_forecast_in_a_batch(
    name: str, version: str, spike_bps: float, rows_of: Callable[[FeatureSchema], Matrix]
) -> None:
    folder = MODELS / name / version
    model = load_model(folder, name, version)
    matrix = rows_of(model.schema)
    single = forecasts_in_batches(model, matrix, 1, spike_bps)
    for size in (2, 33, ROWS):
        batched = forecasts_in_batches(model, matrix, size, spike_bps)
        difference = np.abs(batched[:, 0] - single[:, 0])
        assert np.max(difference) <= stated(bound_of(read_bundle(folder)[0], rows_of))
        assert np.max(np.abs(batched[:, 1:] / single[:, 1:] - 1)) <= stated(QUANTILES)


def forecasts_in_batches(model: Model, matrix: Matrix, size: int, spike_bps: float) -> Matrix:
    """Probability, median and quantiles, (ROWS, 2 + levels)."""
    levels = np.array([0.025, 0.1, 0.5, 0.9, 0.975])
    parts = []
    for start in range(0, ROWS, size):
        rows = matrix[start : start + size]
        forecasts = model.predictor.forecast(rows, np.full((len(rows), 1), spike_bps), np.tile(levels, (len(rows), 1)))
        parts.append(np.column_stack([forecasts.probabilities, forecasts.median_bps, forecasts.quantile_bps]))
    return np.concatenate(parts)


def test_most_rows_of_a_tree_model_differ_less() -> None:
    model = load_model(MODELS / "volatility-full" / "1", "volatility-full", "1")
    matrix = unusual_rows(model.schema)
    difference = np.abs(np.concatenate(in_batches(model, matrix, 64)) - np.concatenate(in_batches(model, matrix, 1)))
    assert np.quantile(difference, 0.9) <= stated(r"is below ([0-9.e-]+) for 9 rows of 10")


@pytest.mark.slow
def test_a_row_of_a_float32_graph_has_its_own_probability_in_a_batch(tmp_path: Path) -> None:
    matrix, y = training_data()
    pipeline = make_pipeline(PolynomialFeatures(2), StandardScaler(), LogisticRegression(max_iter=500)).fit(matrix, y)
    added = add_estimator(pipeline, matrix, name="polynomial", models_dir=tmp_path)
    model = load_model(added.folder, added.name, added.version)
    assert largest_difference(model, matrix[:ROWS]) <= stated(r"computes in float32, it can reach ([0-9.e-]+),")
