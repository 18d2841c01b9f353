"""The checks of a forecast model before it is served: its manifest, and its forecasts for many sizes and levels."""

from __future__ import annotations

from math import inf

import numpy as np

from common.bundle import Manifest, Survival
from common.config import MAX_LEVELS
from common.errors import BundleError
from common.onnx_errors import onnx_reason
from server.core.arrays import Matrix
from server.core.predictor import Forecasts, Predictor

TOLERANCE = 1e-6  # of probabilities; relative, of basis points
LEVEL_COUNTS = (0, 1, MAX_LEVELS)  # levels of each row
# Spike sizes, as multiples of the default size.
MIN_SIZE, MAX_SIZE = 0.01, 100.0
BATCHES = (1, 3, 8)
SELF_TEST_ROWS = 20  # copies of the self-test's row, each with a size and levels of its own
MIN_LEVEL = 1e-9


def check_manifest(manifest: Manifest) -> None:
    """Raises BundleError unless the manifest's forecast is consistent. Without a forecast there is nothing to check."""
    forecast = manifest.forecast
    if forecast is None:
        return
    for name in ("horizon_s", "step_s", "spike_bps"):
        value = getattr(forecast, name)
        if not 0 < value < inf:
            raise BundleError(f"forecast.{name}: expected a positive, finite number, got {value:g}")
    if not 0 <= forecast.floor_bps < inf:
        raise BundleError(f"forecast.floor_bps: expected a finite number of at least 0, got {forecast.floor_bps:g}")
    _check_survival("sizes", forecast.sizes)
    if bool(forecast.trailing_feature) != (forecast.multiples is not None):
        raise BundleError("forecast: expected both trailing_feature and multiples, or neither")
    if forecast.multiples is not None:
        _check_survival("multiples", forecast.multiples)
        if forecast.trailing_feature not in {feature.name for feature in manifest.schema.features}:
            what = f"no feature of schema {manifest.schema.name[:64]!r}"
            raise BundleError(f"forecast.trailing_feature: {forecast.trailing_feature[:64]!r} is {what}")


def _check_survival(name: str, survival: Survival) -> None:
    values, shares = np.array(survival.values, np.float64), np.array(survival.shares, np.float64)
    field = f"forecast.{name}"
    if not values.size or values.shape != shares.shape:
        raise BundleError(
            f"{field}: expected a share for each value, got {values.size} values and {shares.size} shares"
        )
    if not (values > 0).all() or not (np.diff(values) > 0).all() or not np.isfinite(values).all():
        raise BundleError(f"{field}.values: expected positive, finite, ascending numbers")
    if not (np.diff(shares) <= 0).all():
        raise BundleError(f"{field}.shares: expected descending numbers")


def check_forecasts(predictor: Predictor, spike_bps: float, self_test: tuple[float, ...], probe: Matrix) -> None:
    """Scores the self-test's row and the probe (rows, features) at many sizes and levels, in several batches.

    Each row must have the same forecast in every batch. Where the model has a forecast, medians and quantiles must be
    positive, and quantiles must ascend with the level. The self-test's row must have a forecast at every size.
    spike_bps: the default size. Raises BundleError.
    """
    random = np.random.default_rng(0)
    matrix = np.concatenate([np.tile(np.array(self_test, np.float64), (SELF_TEST_ROWS, 1)), probe])
    rows = len(matrix)
    for count in LEVEL_COUNTS:
        sizes = spike_bps * np.exp(random.uniform(np.log(MIN_SIZE), np.log(MAX_SIZE), (rows, 1)))
        levels = np.sort(random.uniform(MIN_LEVEL, 1 - MIN_LEVEL, (rows, count)), axis=1)
        levels[::2, :1], levels[::2, 1:][:, -1:] = MIN_LEVEL, 1 - MIN_LEVEL
        together = _run(predictor, matrix, sizes, levels)
        _check_values(together, levels)
        for size in BATCHES:
            _check_same(together, _batches(predictor, matrix, sizes, levels, size), size)


def _check_values(forecasts: Forecasts, levels: Matrix) -> None:
    valid = np.isfinite(forecasts.probabilities)
    if not valid[:SELF_TEST_ROWS].all():
        what = "expected a probability in [0, 1] and finite quantiles for the self-test's row"
        raise BundleError(f"forecast: {what} at every size")
    medians, quantiles = forecasts.median_bps[valid], forecasts.quantile_bps[valid]
    for name, values in (("median_bps", medians), ("quantile_bps", quantiles)):
        if not (values > 0).all():
            raise BundleError(f"forecast: {name}: expected positive numbers, got {values.min():.9g}")
    falls = np.diff(quantiles, axis=1) < 0
    if falls.any():
        row, column = (int(index) for index in np.argwhere(falls)[0])
        low, high = levels[valid][row, column : column + 2]
        got = quantiles[row, column : column + 2]
        what = f"the quantile at level {high:.3f} ({got[1]:.9g}) is less than at level {low:.3f} ({got[0]:.9g})"
        raise BundleError(f"forecast: quantile_bps: {what}")


def _check_same(expected: Forecasts, got: Forecasts, batch: int) -> None:
    for name in ("probabilities", "median_bps", "quantile_bps"):
        want, values = getattr(expected, name), getattr(got, name)
        if values.shape != want.shape:
            raise BundleError(f"forecast: {name}: expected shape {want.shape}, got {values.shape}")
        with np.errstate(invalid="ignore"):  # infinity minus infinity, in rows without a forecast
            near = np.abs(values - want) <= TOLERANCE * np.maximum(1.0, np.abs(want))
        different = ~(near | (values == want) | (np.isnan(values) & np.isnan(want)))
        if different.any():
            at = tuple(np.argwhere(different)[0])
            what = f"{want[at]:.9g} in a batch of all rows and {values[at]:.9g} in batches of {batch}"
            raise BundleError(f"rows mix: {name} of a row is {what}; each row must be scored by itself")


def _batches(predictor: Predictor, matrix: Matrix, sizes: Matrix, levels: Matrix, size: int) -> Forecasts:
    parts = [slice(begin, begin + size) for begin in range(0, len(matrix), size)]
    scored = [_run(predictor, matrix[part], sizes[part], levels[part]) for part in parts]
    return Forecasts(
        np.concatenate([part.probabilities for part in scored]),
        np.concatenate([part.median_bps for part in scored]),
        np.concatenate([part.quantile_bps for part in scored]),
    )


def _run(predictor: Predictor, matrix: Matrix, sizes: Matrix, levels: Matrix) -> Forecasts:
    try:
        return predictor.forecast(matrix, sizes, levels).in_range()
    except Exception as error:  # the errors of ONNX Runtime for a broken graph have no common class
        what = f"the model cannot be run on {len(matrix)} rows with {levels.shape[1]} levels"
        raise BundleError(f"forecast: {what}: {onnx_reason(error)}") from None
