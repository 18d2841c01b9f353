"""Forecast models behind the data plane: sizes, quantiles, base rates, and the faults of a query."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.errors import RequestError
from common.schema import CORE_1, FULL_2
from server.core.dataplane import DataPlane, ForecastResult, Result
from server.core.requests import ForecastQuery, PredictInput, Selection
from server.core.rows import NamedInput, PackedInput
from tests.server.forecasts import FLOOR_BPS, LEVELS_16, SPIKE_BPS, TRAILING, Forecaster, rows_of

DEFAULT, OLD, RICH = Selection(), Selection("plain"), Selection("wide")


def request(matrix: np.ndarray, selection: Selection = DEFAULT, **query: Any) -> PredictInput:
    schema = FULL_2 if selection is RICH else CORE_1
    packed = PackedInput(schema.hash, 2, len(matrix), np.asarray(matrix, "<f8").tobytes())
    return PredictInput(packed, selection, "", ForecastQuery(**query))


def answer(plane: DataPlane, *args: Any, **query: Any) -> tuple[Result, ForecastResult]:
    (result,) = plane.compute([plane.prepare(request(*args, **query), 0)]).outcomes
    assert isinstance(result, Result)
    assert result.forecast is not None
    return result, result.forecast


def faults(plane: DataPlane, *args: Any, **query: Any) -> dict[str, str]:
    with pytest.raises(RequestError) as raised:
        plane.prepare(request(*args, **query), 0)
    return {fault.field: fault.description for fault in raised.value.violations}


@pytest.mark.parametrize("rows", [1, 64, 65])
@pytest.mark.parametrize("levels", [(), (0.5,), LEVELS_16])
def test_a_forecast_is_that_of_the_formula(forecast_plane: DataPlane, rows: int, levels: tuple[float, ...]) -> None:
    matrix, model = rows_of(CORE_1, rows), Forecaster()
    for size in np.geomspace(0.02, 60, 20):
        result, forecast = answer(forecast_plane, matrix, spike_bps=float(size), levels=levels)
        assert_allclose(result.probabilities, model.probability(matrix, np.full(rows, size)), rtol=0, atol=1e-6)
        assert_allclose(forecast.median_bps, model.medians(matrix), rtol=1e-6)
        expected = model.quantiles(matrix, np.tile(np.array(levels), (rows, 1)))
        assert forecast.quantile_bps.shape == (rows, len(levels))
        assert_allclose(forecast.quantile_bps, expected, rtol=1e-6)
        assert forecast.spike_bps == size


def test_a_size_at_or_below_the_floor_is_always_reached(forecast_plane: DataPlane) -> None:
    result, _ = answer(forecast_plane, rows_of(CORE_1, 3), spike_bps=FLOOR_BPS)
    assert result.probabilities.tolist() == [1.0] * 3


def test_without_a_query_the_size_is_the_models_default(forecast_plane: DataPlane) -> None:
    matrix = rows_of(CORE_1, 2)
    result, forecast = answer(forecast_plane, matrix)
    assert forecast.spike_bps == SPIKE_BPS
    assert_allclose(result.probabilities, Forecaster().probability(matrix, np.full(2, SPIKE_BPS)), rtol=0, atol=1e-9)
    assert forecast.quantile_bps.shape == (2, 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0.4999, 1.0), (0.5, 0.95), (1.0, 0.7), (2.0, 0.4), (np.sqrt(2), 0.55), (8.0, 0.02), (8.0001, 0.0)],
)
def test_the_base_rate_is_linear_in_the_logarithm_of_the_size(
    forecast_plane: DataPlane, size: float, expected: float
) -> None:
    _, forecast = answer(forecast_plane, rows_of(CORE_1, 1), spike_bps=float(size))
    assert forecast.base_rate == pytest.approx(expected)


def test_a_multiple_gives_each_row_its_own_size(forecast_plane: DataPlane) -> None:
    matrix = rows_of(FULL_2, 5)
    result, forecast = answer(forecast_plane, matrix, RICH, spike_multiple=3.0, levels=(0.9,))
    sizes = matrix[:, FULL_2.names.index(TRAILING)] * 3.0 * 1e4
    model = Forecaster(2, FULL_2)
    assert_allclose(result.probabilities, model.probability(matrix, sizes), rtol=0, atol=1e-9)
    assert forecast.spike_bps == 0.0
    assert forecast.base_rate == pytest.approx(0.05)
    assert_allclose(forecast.quantile_bps, model.quantiles(matrix, np.full((5, 1), 0.9)))


def test_the_size_of_a_multiple_is_returned_if_all_rows_share_it(forecast_plane: DataPlane) -> None:
    row = rows_of(FULL_2, 1)
    for matrix in (row, np.repeat(row, 3, axis=0)):
        _, forecast = answer(forecast_plane, matrix, RICH, spike_multiple=1.0)
        assert forecast.spike_bps == pytest.approx(row[0, FULL_2.names.index(TRAILING)] * 1e4)
        assert forecast.base_rate == pytest.approx(0.45)


@pytest.mark.parametrize("value", [0.0, -1e-4, 1e308])
def test_a_row_whose_multiple_is_no_size_is_refused_by_its_number(forecast_plane: DataPlane, value: float) -> None:
    matrix = rows_of(FULL_2, 3)
    matrix[1, FULL_2.names.index(TRAILING)] = value
    (description,) = faults(forecast_plane, matrix, RICH, spike_multiple=2.0).values()
    assert description.startswith("row 1: expected a positive, finite spike size")
    answer(forecast_plane, matrix, RICH, spike_bps=2.0) if value < 1 else None


def test_a_multiple_near_the_largest_double_is_refused_without_a_warning(forecast_plane: DataPlane) -> None:
    matrix = rows_of(FULL_2, 2)
    matrix[1, FULL_2.names.index(TRAILING)] = 0.0
    assert list(faults(forecast_plane, matrix, RICH, spike_multiple=1e305)) == ["spike_multiple"]


@pytest.mark.parametrize("value", [nan, inf, -inf, -1.0])
def test_a_size_that_is_no_positive_number_is_refused_by_its_field(forecast_plane: DataPlane, value: float) -> None:
    assert list(faults(forecast_plane, rows_of(CORE_1, 1), spike_bps=value)) == ["spike_bps"]
    assert list(faults(forecast_plane, rows_of(FULL_2, 1), RICH, spike_multiple=value)) == ["spike_multiple"]


def test_both_sizes_are_refused(forecast_plane: DataPlane) -> None:
    assert "both" in faults(forecast_plane, rows_of(FULL_2, 1), RICH, spike_bps=1.0, spike_multiple=2.0)["spike_bps"]


def test_a_multiple_needs_the_trailing_hour(forecast_plane: DataPlane) -> None:
    assert "trailing hour" in faults(forecast_plane, rows_of(CORE_1, 1), spike_multiple=2.0)["spike_multiple"]


@pytest.mark.parametrize(
    ("levels", "fields"),
    [
        ((0.0,), ["quantiles[0]"]),
        ((0.5, 1.0), ["quantiles[1]"]),
        ((nan, 0.5), ["quantiles[0]"]),
        ((0.5, 0.4, 0.6), ["quantiles[1]"]),
        ((0.5, 0.5), ["quantiles[1]"]),
        ((-0.1, 0.2, 1.5), ["quantiles[0]", "quantiles[2]"]),
        (tuple(np.linspace(0.1, 0.9, 17)), ["quantiles"]),
    ],
)
def test_levels_are_refused_by_their_index(
    forecast_plane: DataPlane, levels: tuple[float, ...], fields: list[str]
) -> None:
    assert list(faults(forecast_plane, rows_of(CORE_1, 1), levels=levels)) == fields


def test_an_old_style_model_refuses_each_field(forecast_plane: DataPlane) -> None:
    named = faults(forecast_plane, rows_of(CORE_1, 1), OLD, spike_bps=1.0, spike_multiple=2.0, levels=(0.5,))
    assert list(named) == ["spike_bps", "spike_multiple", "quantiles"]
    assert all("plain/1 forecasts no distribution" in text for text in named.values())


def test_faults_of_query_and_rows_are_reported_together(forecast_plane: DataPlane) -> None:
    matrix = rows_of(CORE_1, 1)
    matrix[0, 3] = nan
    assert list(faults(forecast_plane, matrix, spike_bps=-1.0, levels=(2.0,))) == [
        "spike_bps",
        "quantiles[0]",
        "packed.values",
    ]


def test_faults_fit_in_the_trailers(forecast_plane: DataPlane) -> None:
    unknown = {f"feature-{number}": 1.0 for number in range(40)}
    rows = NamedInput([unknown])
    for query, last in ((ForecastQuery(), "named.rows"), (ForecastQuery(levels=(2.0,) * 16), "request")):
        with pytest.raises(RequestError) as raised:
            forecast_plane.prepare(PredictInput(rows, query=query), 0)
        violations = raised.value.violations
        assert len(violations) <= 17
        assert (violations[-1].field, violations[-1].description) == (last, "more fields are at fault")


def test_an_old_style_model_has_no_forecast(forecast_plane: DataPlane) -> None:
    (result,) = forecast_plane.compute([forecast_plane.prepare(request(rows_of(CORE_1, 1), OLD), 0)]).outcomes
    assert isinstance(result, Result)
    assert result.forecast is None
