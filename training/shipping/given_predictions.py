"""Predictions from a file as a model of their own, next to the bundle's answers for the same rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from training.forecasting.distribution import Forecasts, LocationScale
from training.judging.evaluation_result import EvalSettings, PredictionsRef
from training.judging.part_scores import SingleSize
from training.judging.predictions import Predictions
from training.problem.forecast_rows import ForecastRows
from training.problem.row_keys import Keys, match
from training.problem.target import Floats
from training.shipping.bundle_forecasts import BundlePart, GraphForecasts

GIVEN = "given"  # kind of the predictions


def join(
    part: BundlePart, kind: str, predictions: Predictions, file: str, settings: EvalSettings
) -> tuple[BundlePart, PredictionsRef]:
    """The rows with a prediction, which is the model GIVEN. Raises InputError if no row has a prediction."""
    places = matches(part.rows, predictions)
    known = places >= 0
    known[known] = ~np.isnan(predictions.probability[places[known]])
    if not known.any():
        their_products, known_products = (
            ", ".join(names) for names in (sorted(set(predictions.product_id)), part.rows.products)
        )
        raise InputError(
            f"predictions {file}: none is of a row of the recording; products: {their_products}; of the recording: "
            f"{known_products}"
        )
    rows, chosen = np.flatnonzero(known), places[known]
    forecasts = {name: _taken(each, rows) for name, each in part.forecasts.items()}
    own, probability = forecasts[kind], predictions.probability[chosen]
    ours = own.probability if isinstance(own, SingleSize) else own.exceedance(settings.spike_bps)
    joined = replace(part, rows=part.rows.take(rows), forecasts={GIVEN: SingleSize(probability), **forecasts})
    median = quantiles = None
    if not isinstance(own, SingleSize):
        median = _largest(predictions.median_bps[chosen], own.median_bps())
        if predictions.quantile_bps is not None:
            given = predictions.quantile_bps[chosen]
            quantiles = _largest(given, own.quantiles_bps(np.array(predictions.levels)))
    return joined, PredictionsRef(
        file=file,
        predictions=len(predictions),
        without_probability=int(np.isnan(predictions.probability).sum()),
        rows_matched=len(rows),
        rows_unmatched=len(part.rows) - len(rows),
        max_abs_difference=float(np.abs(ours - probability).max()),
        max_rel_difference_median=median,
        max_rel_difference_quantiles=quantiles,
    )


def matches(rows: ForecastRows, predictions: Predictions) -> NDArray[np.int64]:
    """The place of each row's prediction, by product and event time, (n,); -1: none."""
    codes = {name: code for code, name in enumerate(rows.products)}
    product = np.array([codes.get(name, -1) for name in predictions.product_id], np.int64)
    keys = Keys(product, predictions.event_time_ns, predictions.sequence_num)
    return match(Keys.without_sequence(rows.product, rows.time_ns), keys)


def _taken(forecasts: Forecasts | SingleSize, rows: NDArray[np.int64]) -> Forecasts | SingleSize:
    match forecasts:
        case SingleSize():
            return SingleSize(forecasts.probability[rows])
        case GraphForecasts():
            return replace(forecasts, features=forecasts.features[rows])
        case LocationScale():
            return replace(forecasts, location=forecasts.location[rows], scale=forecasts.scale[rows])
    raise TypeError(type(forecasts).__name__)


def _largest(given: Floats, own: Floats) -> float | None:
    """The largest relative difference; None: no value is given."""
    difference = np.abs(given / own - 1)
    known = ~np.isnan(difference)
    return float(difference[known].max()) if known.any() else None
