"""The inputs and outputs of a graph that can be served (common/bundle.py states them)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.errors import BundleError

INPUT = "features"
OUTPUT = "probability"
# Further inputs and outputs of a forecast model.
SIZES, LEVELS = "spike_bps", "levels"
MEDIAN, QUANTILES = "median_bps", "quantile_bps"
FORECAST_INPUTS = frozenset({INPUT, SIZES, LEVELS})
_DOUBLE = "tensor(double)"
_FLOATS = {_DOUBLE, "tensor(float)"}


def check_graph(session: Any, width: int, *, forecasts: bool) -> None:
    """Raises BundleError unless the graph of an InferenceSession fits.

    width: features per row. forecasts: whether the model forecasts a distribution.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    _check_names(inputs.keys(), outputs.keys(), forecasts=forecasts)
    _check_input(inputs[INPUT], width)
    if not forecasts:
        output = outputs[OUTPUT]
        if output.type not in _FLOATS or output.shape[1:] not in ([], [1]) or not _free(output.shape[:1]):
            expected = "a float or double tensor of shape (rows,) or (rows, 1)"
            raise BundleError(f"output {OUTPUT}: expected {expected}, got {output.type} of {output.shape}")
        return
    _check_input(inputs[SIZES], 1)
    for kind, value in (("input", inputs[LEVELS]), ("output", outputs[QUANTILES])):
        if value.type != _DOUBLE or len(value.shape) != 2 or not _free(value.shape):
            expected = f"{_DOUBLE} of shape (rows, levels)"
            raise BundleError(f"{kind} {value.name}: expected {expected}, got {value.type} of {value.shape}")
    for name in (OUTPUT, MEDIAN):
        output = outputs[name]
        if output.type != _DOUBLE or output.shape[1:] != [1] or not _free(output.shape[:1]):
            expected = f"{_DOUBLE} of shape (rows, 1)"
            raise BundleError(f"output {name}: expected {expected}, got {output.type} of {output.shape}")


def _check_names(inputs: Any, outputs: Any, *, forecasts: bool) -> None:
    """inputs, outputs: sets of names. The kind of the graph must be that of the manifest."""
    if forecasts and inputs != FORECAST_INPUTS:
        raise BundleError(
            f"inputs: expected {_listed(FORECAST_INPUTS)} (manifest.forecast is set), got {_listed(inputs)}"
        )
    if not forecasts and inputs == FORECAST_INPUTS:
        raise BundleError(
            f"inputs: expected only {INPUT}, got {_listed(inputs)}: the graph of a forecast model, whose manifest must "
            "state its spike size and base rates (`forecast`); only training writes such a manifest"
        )
    if not forecasts and inputs != {INPUT}:
        raise BundleError(f"inputs: expected only {INPUT}, got {_listed(inputs)}")
    missing = {OUTPUT, MEDIAN, QUANTILES} - outputs if forecasts else {OUTPUT} - outputs
    if missing:
        raise BundleError(f"outputs: expected {_listed(missing)}, got {_listed(outputs)}")


def _check_input(features: Any, width: int) -> None:
    shape = features.shape
    if features.type != _DOUBLE or len(shape) != 2 or shape[1] != width or not _free(shape[:1]):
        raise BundleError(
            f"input {features.name}: expected {_DOUBLE} of shape (rows, {width}), got {features.type} of {shape}"
        )


def _free(dimensions: Sequence[object]) -> bool:
    """Whether no dimension is fixed. A name or None is a free dimension. A graph of fixed rows cannot score batches."""
    return bool(dimensions) and not any(isinstance(dimension, int) for dimension in dimensions)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
