"""The checks that a model must pass before it is served: one function for the server and for the models commands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.bundle import Manifest
from common.errors import BundleError
from common.onnx_errors import onnx_reason
from server.core.arrays import Matrix, Vector
from server.core.forecast_checks import check_forecasts, check_manifest
from server.core.graph_scan import scan_graph
from server.core.predictor import ROUNDING, Predictor
from server.core.row_independence import require_independent_rows

TOLERANCE = 1e-6
# One row, a burst, a full message: ONNX Runtime plans its memory once for each number of rows.
WARM_UP_ROWS = (1, 2, 32, 256)
# Different rows; an odd number, so that no batch below divides it.
PROBE_ROWS = 37
PROBE_BATCHES = (2, 3, 8, PROBE_ROWS)


def check_model(graph: bytes, manifest: Manifest) -> Predictor:
    """The model, checked and warmed up.

    Checks the ONNX file (no other files, no custom operators), its opset, input and output, that no operator can mix
    rows, the self-test, that probabilities lie in [0, 1], and that a row scores the same in every batch. A forecast
    model passes the checks of forecast_checks.py, too. Raises BundleError with the reason.
    """
    scan = scan_graph(graph)
    width = len(manifest.schema.features)
    _check_opset(manifest, scan.opsets.get("", 0))
    check_manifest(manifest)
    forecast = manifest.forecast
    predictor = Predictor(graph, width, 0.0 if forecast is None else forecast.spike_bps)
    _self_test(predictor, manifest, width)
    _warm_up(predictor, manifest)
    require_independent_rows(graph, width, manifest.opset, forecasts=forecast is not None)
    check_rows_are_independent(predictor, manifest)
    if forecast is not None:
        check_forecasts(predictor, forecast.spike_bps, manifest.self_test.features, probe_rows(manifest))
    return predictor


def _check_opset(manifest: Manifest, opset: int) -> None:
    if opset != manifest.opset:
        raise BundleError(f"opset: the manifest has {manifest.opset}, model.onnx uses {opset or 'none'}")


def _self_test(predictor: Predictor, manifest: Manifest, width: int) -> None:
    test = manifest.self_test
    if len(test.features) != width:
        raise BundleError(f"self_test.features: expected {width} values, got {len(test.features)}")
    probabilities = _run(predictor.raw, _tiled(manifest, 1))
    outside = probabilities[np.abs(probabilities - 0.5) > 0.5 + ROUNDING]
    if outside.size:
        raise BundleError(f"self-test: expected a probability in [0, 1], got {outside[0]:.9g}")
    if probabilities.shape != (1,) or not abs(probabilities[0] - test.probability) <= TOLERANCE:
        got = ", ".join(f"{value:.9g}" for value in probabilities[:3])
        raise BundleError(f"self-test: expected probability {test.probability:.9g}, got {got or 'none'}")


def _warm_up(predictor: Predictor, manifest: Manifest) -> None:
    """Copies of the self-test's row, in batches of the usual sizes."""
    for rows in WARM_UP_ROWS:
        probabilities = _run(predictor.predict, _tiled(manifest, rows))
        if probabilities.shape != (rows,):
            raise BundleError(f"warm-up: expected {rows} probabilities for {rows} rows, got {probabilities.size}")
        worst = float(np.abs(probabilities - manifest.self_test.probability).max())
        if not worst <= TOLERANCE:
            raise BundleError(f"warm-up: a row scores {worst:.3g} off when it is one of {rows}")


def check_rows_are_independent(predictor: Predictor, manifest: Manifest) -> None:
    """Different rows: alone, together, in reverse order and in batches of several sizes."""
    matrix = probe_rows(manifest)
    alone = np.concatenate([_run(predictor.predict, matrix[row : row + 1]) for row in range(len(matrix))])
    for order, how in ((slice(None), ""), (slice(None, None, -1), " in reverse order")):
        for size in PROBE_BATCHES:
            ordered = matrix[order]
            parts = [_run(predictor.predict, ordered[start : start + size]) for start in range(0, len(ordered), size)]
            together = np.concatenate(parts)
            if together.shape != alone.shape:
                raise BundleError(f"rows mix: expected {len(alone)} probabilities for {len(alone)} rows")
            expected = alone[order]
            different = ~((np.abs(together - expected) <= TOLERANCE) | (np.isnan(together) & np.isnan(expected)))
            if different.any():
                row = int(np.argmax(different))
                raise BundleError(
                    f"rows mix: a row scores {expected[row]:.9g} alone and {together[row]:.9g} in a batch of "
                    f"{size} different rows{how}; callers share batches, so each row must be scored by itself"
                )


def probe_rows(manifest: Manifest) -> Matrix:
    """Different rows around the self-test's, and typical ones of the training part if the manifest describes it."""
    random = np.random.default_rng(0)
    base = np.array(manifest.self_test.features, np.float64)
    matrix = base * random.uniform(0.5, 2, (PROBE_ROWS, len(base)))
    # A feature of 0 would stay 0 in every row.
    matrix[:, base == 0] = random.normal(0, 1, (PROBE_ROWS, int((base == 0).sum())))
    if manifest.reference is not None:
        for column, feature in enumerate(manifest.schema.features):
            bins = manifest.reference.features.get(feature.name)
            if bins is not None and bins.edges:
                matrix[PROBE_ROWS // 2 :, column] = random.choice(bins.edges, PROBE_ROWS - PROBE_ROWS // 2)
    return matrix


def _tiled(manifest: Manifest, rows: int) -> Matrix:
    return np.tile(np.array(manifest.self_test.features, np.float64), (rows, 1))


def _run(predict: Callable[[Matrix], Vector], matrix: Matrix) -> Vector:
    try:
        return predict(matrix)
    except Exception as error:  # the errors of ONNX Runtime for a broken graph have no common class
        raise BundleError(f"self-test: the model cannot be run on {len(matrix)} rows: {onnx_reason(error)}") from None
