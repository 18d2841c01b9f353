"""Forecasts in shared runs, beside old-style models, and in shadows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.schema import CORE_1, FULL_2
from server.core.batcher import Batcher, Work
from server.core.dataplane import Computed, DataPlane, ModelRun, Outcome, Result
from server.core.models import Repository
from server.core.requests import ForecastQuery, PredictInput, Selection
from server.core.rows import PackedInput
from server.core.shadow import ShadowScorer
from tests.server.bundles import Logistic, write_bundle
from tests.server.forecasts import LEVELS_16, SPIKE_BPS, TRAILING, Forecaster, rows_of, write_forecast

DEFAULT, OLD, RICH = Selection(), Selection("plain"), Selection("wide")


def request(rows: int, seed: int, selection: Selection = DEFAULT, **query: Any) -> PredictInput:
    schema = FULL_2 if selection is RICH else CORE_1
    packed = PackedInput(schema.hash, 2, rows, rows_of(schema, rows, seed).tobytes())
    return PredictInput(packed, selection, "", ForecastQuery(**query))


def assert_formula(result: Outcome, wanted: PredictInput, seed: int) -> None:
    assert isinstance(result, Result)
    assert isinstance(wanted.rows, PackedInput)
    schema, query = FULL_2 if wanted.selection is RICH else CORE_1, wanted.query
    matrix = rows_of(schema, wanted.rows.row_count, seed)
    if wanted.selection is OLD:
        assert_allclose(result.probabilities, Logistic(3).predict(matrix), rtol=0, atol=1e-9)
        assert result.forecast is None
        return
    model = Forecaster(2 if wanted.selection is RICH else 1, schema)
    sizes = np.full(len(matrix), query.spike_bps or SPIKE_BPS)
    if query.spike_multiple:
        sizes = matrix[:, schema.names.index(TRAILING)] * query.spike_multiple * 1e4
    assert result.forecast is not None
    assert_allclose(result.probabilities, model.probability(matrix, sizes), rtol=0, atol=1e-9)
    expected = model.quantiles(matrix, np.tile(np.array(query.levels), (len(matrix), 1)))
    assert_allclose(result.forecast.quantile_bps, expected, rtol=1e-9)
    assert_allclose(result.forecast.median_bps, model.medians(matrix), rtol=1e-9)
    assert_allclose(result.forecast.sizes_bps, sizes, rtol=1e-12)


MIXED: list[tuple[int, Selection, dict[str, Any]]] = [
    (3, DEFAULT, {"spike_bps": 2.0, "levels": (0.5,)}),
    (1, DEFAULT, {"spike_bps": 4.0, "levels": (0.9,)}),
    (2, OLD, {}),
    (70, DEFAULT, {}),
    (1, RICH, {"spike_multiple": 3.0, "levels": (0.1,)}),
    (2, RICH, {"spike_bps": 3.0, "levels": (0.7,)}),
    (1, DEFAULT, {"levels": LEVELS_16}),
    (1, DEFAULT, {"spike_bps": 9.0}),
    (2, OLD, {}),
]


def test_jobs_of_equally_many_levels_share_a_run(forecast_plane: DataPlane) -> None:
    wanted = [request(rows, seed, selection, **query) for seed, (rows, selection, query) in enumerate(MIXED)]
    computed = forecast_plane.compute([forecast_plane.prepare(each, 0) for each in wanted])
    for seed, (each, outcome) in enumerate(zip(wanted, computed.outcomes, strict=True)):
        assert_formula(outcome, each, seed)
    runs = [(run.model.name, len(run.matrix)) for run in computed.runs]
    assert runs == [("volatility", 4), ("plain", 4), ("volatility", 71), ("wide", 3), ("volatility", 1)]
    sizes = computed.runs[0].sizes
    assert sizes is not None
    assert sizes[:, 0].tolist() == [2.0, 2.0, 2.0, 4.0]
    assert computed.runs[1].sizes is None


@pytest.mark.parametrize(
    ("first", "second", "runs"),
    [
        ((DEFAULT, {"levels": (0.5,)}), (DEFAULT, {"levels": (0.1,), "spike_bps": 1.0}), 1),
        ((DEFAULT, {"levels": (0.5,)}), (DEFAULT, {"levels": (0.1, 0.2)}), 2),
        ((DEFAULT, {}), (OLD, {}), 2),
        ((DEFAULT, {}), (DEFAULT, {}), 1),
    ],
)
def test_two_jobs_share_a_run_of_one_model_with_equally_many_levels(
    forecast_plane: DataPlane, first: tuple[Selection, Any], second: tuple[Selection, Any], runs: int
) -> None:
    wanted = [request(2, seed, selection, **query) for seed, (selection, query) in enumerate((first, second))]
    computed = forecast_plane.compute([forecast_plane.prepare(each, 0) for each in wanted])
    assert len(computed.runs) == runs
    for seed, (each, outcome) in enumerate(zip(wanted, computed.outcomes, strict=True)):
        assert_formula(outcome, each, seed)


class Kept:
    abandoned = False

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def send(self, outcome: Outcome) -> None:
        self.outcome = outcome


def test_the_batcher_answers_mixed_queries_in_one_batch(forecast_plane: DataPlane) -> None:
    runs: list[ModelRun] = []

    def offload(compute: Any, done: Any) -> None:
        computed: Computed = compute()
        done(computed)

    batcher = Batcher(forecast_plane, 1024, 100, offload, runs.append)
    wanted = [request(rows, seed, selection, **query) for seed, (rows, selection, query) in enumerate(MIXED)]
    kept = [Kept() for _ in wanted]
    for each, replies in zip(wanted, kept, strict=True):
        batcher.put(Work(forecast_plane.prepare(each, 0), replies))
    batcher.run()
    assert len(runs) == 5
    for seed, (each, replies) in enumerate(zip(wanted, kept, strict=True)):
        assert replies.outcome is not None
        assert_formula(replies.outcome, each, seed)


def test_a_row_out_of_range_fails_its_own_job_only(forecast_plane: DataPlane) -> None:
    good = request(2, 1, levels=(0.5,))
    matrix = rows_of(CORE_1, 1)
    matrix[0] = 1.7e308
    bad = PredictInput(PackedInput(CORE_1.hash, 2, 1, matrix.tobytes()), DEFAULT, "", ForecastQuery(levels=(0.5,)))
    first, second = forecast_plane.compute([forecast_plane.prepare(good, 0), forecast_plane.prepare(bad, 0)]).outcomes
    assert_formula(first, good, 1)
    assert "rows: row 0: outside the range of model volatility/1" in str(second)


def scored(folder: Path, champion: Any, shadow: Any, queries: list[dict[str, Any]]) -> tuple[ShadowScorer, int]:
    """The shadow's agreements after the champion answered a row for each query."""
    champion(folder, version="1", seed=1)
    shadow(folder, version="2", seed=2)
    (folder / "volatility" / "labels.json").write_text('{"stable": "1", "shadow": ["2"]}')
    repository = Repository("volatility")
    assert repository.load(folder).failures == ()
    shadows = ShadowScorer(repository)
    plane = DataPlane(repository, 100, lambda: 0)
    for seed, query in enumerate(queries):
        for run in plane.compute([plane.prepare(request(1, seed, **query), 0)]).runs:
            shadows.offer(run)
    rows = 0
    while count := shadows.score_some():
        rows += count
    return shadows, rows


def test_a_shadow_of_a_forecast_model_scores_the_sizes_of_the_answers(tmp_path: Path) -> None:
    queries: list[dict[str, Any]] = [{}, {"spike_bps": 1.0}, {"spike_bps": 6.0, "levels": (0.5,)}]
    shadows, rows = scored(tmp_path, write_forecast, write_forecast, queries)
    agreement = shadows.agreements["volatility", "2"]
    assert (rows, agreement.rows, agreement.failed_rows) == (3, 3, 0)
    expected = sum(
        abs(
            Forecaster(1).probability(matrix, np.array([size])) - Forecaster(2).probability(matrix, np.array([size]))
        ).item()
        for matrix, size in zip((rows_of(CORE_1, 1, seed) for seed in range(3)), (SPIKE_BPS, 1.0, 6.0), strict=True)
    )
    assert agreement.difference_sum == pytest.approx(expected, rel=1e-9)


def test_a_shadow_of_the_old_kind_is_compared_at_the_default_size_only(tmp_path: Path) -> None:
    queries = [{}, {"spike_bps": 1.0}, {"spike_bps": SPIKE_BPS}, {"spike_bps": 6.0}]
    shadows, rows = scored(tmp_path, write_forecast, write_bundle, queries)
    agreement = shadows.agreements["volatility", "2"]
    assert (rows, agreement.rows, agreement.failed_rows) == (4, 2, 0)
    matrix = np.concatenate([rows_of(CORE_1, 1, seed) for seed in (0, 2)])
    difference = Forecaster(1).probability(matrix, np.full(2, SPIKE_BPS)) - Logistic(2).predict(matrix)
    assert agreement.difference_sum == pytest.approx(np.abs(difference).sum(), rel=1e-9)


def test_a_forecast_model_shadows_the_old_kind_at_its_default_size(tmp_path: Path) -> None:
    shadows, rows = scored(tmp_path, write_bundle, write_forecast, [{}, {}])
    agreement = shadows.agreements["volatility", "2"]
    assert (rows, agreement.rows, agreement.failed_rows) == (2, 2, 0)
    matrix = np.concatenate([rows_of(CORE_1, 1, seed) for seed in (0, 1)])
    difference = Logistic(1).predict(matrix) - Forecaster(2).probability(matrix, np.full(2, SPIKE_BPS))
    assert agreement.difference_sum == pytest.approx(np.abs(difference).sum(), rel=1e-9)
