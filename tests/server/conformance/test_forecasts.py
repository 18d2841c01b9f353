"""Forecast models over gRPC, on every front: size and levels in, the distribution out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.schema import CORE_1, FULL_2, FeatureSchema
from tests.processes import await_true
from tests.server.bundles import write_bundle
from tests.server.conformance.calls import assert_scored, by_name, channel_to, frame, predict, refused, stream
from tests.server.forecasts import LEVELS_16, SPIKE_BPS, TRAILING, Forecaster, rows_of, write_forecast
from tests.server.processes import serve
from volcast.v1 import ModelSelector, PackedRows, PredictRequest, PredictResponse

pytestmark = pytest.mark.process

ROWS = rows_of(CORE_1, 3, 5)


@pytest.fixture(scope="module")
def forecasts(front: str, forecast_models: Path) -> Iterator[grpc.Channel]:
    with serve(forecast_models, VOLCAST_SERVER__FRONT=front) as process, channel_to(process.address) as channel:
        yield channel


def packed(matrix: Any, schema: FeatureSchema = CORE_1, dtype: str = "<f8", **query: Any) -> PredictRequest:
    values = np.asarray(matrix, dtype).tobytes()
    kind: Any = 2 if dtype == "<f8" else 1
    rows = PackedRows(schema_hash=schema.hash, data_type=kind, row_count=len(matrix), values=values)
    return PredictRequest(packed=rows, **query)


def assert_forecast(response: PredictResponse, matrix: Any, sizes: Any, levels: Any, model: Forecaster) -> None:
    assert_allclose(response.probabilities, model.probability(matrix, sizes), rtol=0, atol=1e-9)
    assert_allclose(response.median_bps, model.medians(matrix), rtol=1e-9)
    expected = model.quantiles(matrix, np.tile(np.array(levels), (len(matrix), 1)))
    assert_allclose(np.reshape(response.quantile_bps, expected.shape), expected, rtol=1e-9)


@pytest.mark.parametrize("levels", [(), (0.9,), LEVELS_16])
@pytest.mark.parametrize("size", [0.0, 1.0])
@pytest.mark.parametrize("rows", [1, 3])
def test_size_and_quantiles_are_answered(
    forecasts: grpc.Channel, rows: int, size: float, levels: tuple[float, ...]
) -> None:
    query: dict[str, Any] = {"spike_bps": size, "quantiles": levels}
    matrix = ROWS[:rows]
    narrow = matrix.astype("<f4").astype(np.float64)
    named = by_name(matrix)
    named.MergeFrom(PredictRequest(**query))
    for _ in range(2):  # parsed, then recognized
        for wanted, of in (
            (packed(matrix, **query), matrix),
            (packed(matrix, dtype="<f4", **query), narrow),
            (named, matrix),
        ):
            response = predict(forecasts, wanted)
            assert_forecast(response, of, np.full(rows, size or SPIKE_BPS), levels, Forecaster())
            assert response.spike_bps == (size or SPIKE_BPS)
            assert response.base_rate == pytest.approx(0.7 if size else 0.4 - 0.3 * np.log2(SPIKE_BPS / 2))


def test_a_multiple_gives_each_row_its_size(forecasts: grpc.Channel) -> None:
    matrix = rows_of(FULL_2, 2, 3)
    wanted = packed(matrix, FULL_2, spike_multiple=3.0, quantiles=[0.5], model=ModelSelector(name="wide"))
    response = predict(forecasts, wanted)
    sizes = matrix[:, FULL_2.names.index(TRAILING)] * 3e4
    assert_forecast(response, matrix, sizes, [0.5], Forecaster(2, FULL_2))
    assert response.spike_bps == 0.0
    assert response.base_rate == pytest.approx(0.05)


def test_frames_carry_queries(forecasts: grpc.Channel) -> None:
    sizes = [1.0 + number % 3 for number in range(60)]
    wanted = [frame(number, packed(ROWS[:1], spike_bps=size, quantiles=[0.5])) for number, size in enumerate(sizes)]
    for answer, size in zip(stream(forecasts, list(wanted)), sizes, strict=True):
        assert answer.response.spike_bps == size
        assert_forecast(answer.response, ROWS[:1], np.array([size]), [0.5], Forecaster())


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({"spike_bps": -1.0, "quantiles": [0.5, 0.4, 2.0]}, {"spike_bps", "quantiles[1]", "quantiles[2]"}),
        ({"spike_bps": float("nan")}, {"spike_bps"}),
        ({"spike_bps": 1.0, "spike_multiple": 1.0}, {"spike_bps", "spike_multiple"}),
        ({"quantiles": [0.5] * 17}, {"quantiles"}),
        ({"spike_bps": 1.0, "spike_multiple": 2.0, "quantiles": [0.5], "model": ModelSelector(name="plain")},
         {"spike_bps", "spike_multiple", "quantiles"}),
    ],
)  # fmt: skip
def test_a_wrong_query_is_refused_by_its_fields(
    forecasts: grpc.Channel, query: dict[str, Any], fields: set[str]
) -> None:
    code, faults = refused(forecasts, packed(ROWS, **query))
    assert (code, set(faults)) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


def test_an_old_style_model_answers_without_forecast_fields(forecasts: grpc.Channel) -> None:
    response = predict(forecasts, packed(ROWS, model=ModelSelector(name="plain")))
    assert_scored(response, 3, ROWS)
    assert {field.name for field, _ in response.ListFields()}.isdisjoint(
        {"spike_bps", "base_rate", "median_bps", "quantile_bps"}
    )


def answers_as(channel: grpc.Channel, *, is_forecast: bool) -> bool:
    return bool(predict(channel, packed(ROWS)).spike_bps) is is_forecast


def both_saw(seen: list[set[bool]], is_forecast: bool) -> bool:
    return all(is_forecast in kinds for kinds in seen)


def test_the_first_forecast_model_is_swapped_in_without_a_lost_call(front: str, tmp_path: Path) -> None:
    """Version 1 is of the old kind; its folder then holds a forecast model, and the old kind again, while calls run."""
    staged = [write_bundle(tmp_path / "old", seed=4), write_forecast(tmp_path / "new")]
    models = tmp_path / "models"
    target = write_bundle(models, seed=4)
    lost: list[str] = []
    seen: list[set[bool]] = [set(), set()]
    stop = threading.Event()

    def call_until_stopped(channel: grpc.Channel, number: int) -> None:
        matrix = ROWS[: 1 + 2 * number]
        while not stop.is_set():
            try:
                response = predict(channel, packed(matrix))
                if response.spike_bps:
                    assert_forecast(response, matrix, np.full(len(matrix), SPIKE_BPS), (), Forecaster())
                else:
                    assert_scored(response, 4, matrix)
                seen[number].add(bool(response.spike_bps))
            except Exception as error:
                lost.append(repr(error))

    environ = {"VOLCAST_SERVER__FRONT": front, "VOLCAST_SERVER__WATCH_S": "0.05"}
    with serve(models, **environ) as process, channel_to(process.address) as channel:
        callers = [threading.Thread(target=call_until_stopped, args=(channel, number)) for number in range(2)]
        for caller in callers:
            caller.start()
        try:
            for swap in range(1, 5):
                for file in sorted(staged[swap % 2].iterdir()):
                    staged_file = tmp_path / f"{swap}-{file.name}"
                    staged_file.write_bytes(file.read_bytes())
                    os.replace(staged_file, target / file.name)
                is_forecast = swap % 2 == 1
                await_true(partial(answers_as, channel, is_forecast=is_forecast))
                for kinds in seen:
                    kinds.clear()
                await_true(partial(both_saw, seen, is_forecast))
        finally:
            stop.set()
            for caller in callers:
                caller.join()
    assert lost == []
