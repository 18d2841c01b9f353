"""Parts follow the time of each recording, and every kind is fitted on the rows before its part."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from common.bundle import ManifestSpan
from common.errors import InputError, UsageError
from common.schema import CORE_1, FULL_2, FeatureSchema
from tests.training.forecasting.samples import sample_rows
from training.fitting import forecast_experiment
from training.fitting.forecast_experiment import Settings
from training.fitting.pool import InProcess
from training.forecasting.bundle import baseline_forecasts, form_of, make_bundle
from training.forecasting.kinds import kind_named
from training.forecasting.parts import ForecastPart
from training.problem.forecast_rows import ForecastRows, pooled
from training.problem.target import NS_PER_S

DAY_NS = 86_400 * NS_PER_S
QUICK = Settings(model_type="ridge", folds=3)


def two_recordings(rows: int = 3000) -> ForecastRows:
    first, second = sample_rows(rows, CORE_1, seed=1), sample_rows(rows, CORE_1, seed=2)
    return pooled([first, replace(second, time_ns=second.time_ns + 30 * DAY_NS, recordings=("later",))])


def test_each_part_tests_the_next_block_of_every_recording() -> None:
    rows = two_recordings()
    done = forecast_experiment.run(rows, QUICK)
    assert [part.name for part in (*done.folds, done.final)] == ["fold 1", "fold 2", "fold 3", "final"]
    embargo_ns = QUICK.split_rules(rows).embargo_ns
    for part in (*done.folds, done.final):
        assert np.unique(part.rows.recording).tolist() == [0, 1]
        for number, until_ns in part.trained_until_ns.items():
            assert until_ns + embargo_ns < part.rows.time_ns[part.rows.recording == number].min()
    assert len(done.final) == 1200, "a fifth of each recording"
    for number in range(2):
        begin_ns = done.final.rows.time_ns[done.final.rows.recording == number].min()
        for fold in done.folds:
            assert fold.rows.time_ns[fold.rows.recording == number].max() < begin_ns
        last = done.train.time_ns[done.train.recording == number].max()
        assert last == done.final.trained_until_ns[number]


def test_a_fold_does_not_train_on_later_blocks_of_another_recording() -> None:
    done = forecast_experiment.run(two_recordings(), QUICK)
    for before, after in zip(done.folds, (*done.folds[1:], done.final), strict=True):
        for number in range(2):
            assert before.trained_until_ns[number] < after.trained_until_ns[number]


def test_jobs_run_on_a_pool_in_the_order_of_their_time_and_give_the_same_models() -> None:
    class Recorder(InProcess):
        jobs: ClassVar[list[tuple[str, int]]] = []

        def run(self, function, shared, jobs, done):  # type: ignore[no-untyped-def]
            self.jobs.extend((job.kind, len(job.train)) for job in jobs)
            return super().run(function, shared, jobs, done)

    settings = Settings(model_type="ridge", folds=2)
    steps: list[str] = []
    pooled_run = forecast_experiment.run(two_recordings(), settings, steps.append, Recorder())
    assert [kind for kind, _ in Recorder.jobs[:3]] == ["ridge"] * 3
    assert Recorder.jobs[0][1] > Recorder.jobs[1][1] > Recorder.jobs[2][1]
    assert steps[-1] == "12 of 12 models fitted (3 parts × 4 kinds)"
    alone = forecast_experiment.run(two_recordings(), settings)
    assert pooled_run.fitted.keys() == alone.fitted.keys()
    assert np.array_equal(pooled_run.fitted["ridge"].location, alone.fitted["ridge"].location)


def test_an_outcome_of_the_final_part_changes_no_fitted_model() -> None:
    rows = two_recordings()
    before = forecast_experiment.run(rows, QUICK)
    changed = replace(rows, outcome_bps=rows.outcome_bps.copy())
    for number in range(2):
        changed.outcome_bps[np.flatnonzero(rows.recording == number)[-600:]] = 100.0
    after = forecast_experiment.run(changed, QUICK)
    for kind, fitted in before.fitted.items():
        assert np.array_equal(fitted.location, after.fitted[kind].location)
        assert np.array_equal(fitted.knots, after.fitted[kind].knots)


def test_the_asked_kind_is_fitted_beside_the_baselines() -> None:
    assert QUICK.kinds(two_recordings()) == ("climatology", "zscore", "har", "ridge")
    assert Settings().kinds(sample_rows(10, FULL_2)) == (
        "climatology", "zscore", "ewma", "har", "logistic", "ridge", "xgboost",
    )  # fmt: skip


def test_an_unknown_kind_and_a_missing_feature_are_refused() -> None:
    with pytest.raises(UsageError, match="model kind oracle: expected climatology"):
        forecast_experiment.run(two_recordings(), Settings(model_type="oracle"))
    with pytest.raises(InputError, match="schema core/1: no feature ewma_volatility"):
        forecast_experiment.run(two_recordings(), Settings(model_type="ewma"))


def test_too_few_rows_are_refused_with_the_time_that_a_row_needs() -> None:
    with pytest.raises(InputError, match=r"too little data: fold 1 has \d+ rows to train on .* 200 and 1 are needed"):
        forecast_experiment.run(sample_rows(600, CORE_1), QUICK)


def test_a_part_refuses_forecasts_of_other_rows() -> None:
    part = forecast_experiment.run(two_recordings(), QUICK).final
    with pytest.raises(ValueError, match=r"final: 1200 forecasts of \w+ for 10 rows"):
        ForecastPart(part.name, part.rows.take(slice(0, 10)), part.forecasts, part.sizes, None, {})


def test_baselines_of_a_manifest_forecast_as_the_fitted_kinds() -> None:
    done = forecast_experiment.run(sample_rows(12_000, FULL_2), QUICK)
    baselines = {kind: fitted for kind, fitted in done.fitted.items() if kind != "ridge"}
    span = ManifestSpan(1, 2, 3, 4)
    scores = {"har": {"crps": 0.25}}
    manifest, _ = make_bundle(
        "volatility", "1", done.fitted["ridge"], done.train, baselines=baselines, evaluation=span, metrics=scores
    )
    assert (manifest.evaluation, manifest.metrics) == (span, scores)
    assert manifest.forecast is not None
    assert manifest.forecast.baselines.keys() == baselines.keys()
    for kind, form in manifest.forecast.baselines.items():
        forecasts = baseline_forecasts(form, done.final.rows, manifest.forecast.floor_bps)
        expected = done.final.forecasts[kind]
        assert forecasts.median_bps() == pytest.approx(expected.median_bps(), rel=1e-12)
        assert forecasts.exceedance(5.0) == pytest.approx(expected.exceedance(5.0), abs=1e-12)
    with pytest.raises(InputError, match=r"schema core/1: no feature grid_volatility_\w+, which a baseline"):
        baseline_forecasts(manifest.forecast.baselines["har"], sample_rows(10, CORE_1), 0.05)


@pytest.mark.parametrize("schema", [CORE_1, FULL_2], ids=["core/1", "full/2"])
def test_baselines_forecast_rows_unlike_any_market_as_the_fitted_kinds(schema: FeatureSchema) -> None:
    rows = sample_rows(1000, schema)
    rows.features[:] = np.random.default_rng(1).choice([0.0, -1e-3, 1e-12, 1e-4, 1e6, -1e300], rows.features.shape)
    for kind in (kind_named(name) for name in ("zscore", "har", "ridge")):
        fitted = kind.fit(sample_rows(1000, schema))
        forecasts = baseline_forecasts(form_of(fitted), rows, fitted.floor_bps)
        expected = fitted.forecasts(rows.features)
        assert forecasts.location == pytest.approx(expected.location, rel=1e-12, abs=1e-9)
        assert forecasts.scale == pytest.approx(expected.scale, rel=1e-9)


def test_the_seed_reaches_the_fits() -> None:
    rows = sample_rows(4000, CORE_1)
    trees = [
        forecast_experiment.run(rows, Settings(model_type="xgboost", folds=2, seed=seed)).fitted["xgboost"].trees
        for seed in (0, 1)
    ]
    assert trees[0] != trees[1]


def test_trees_have_no_linear_form() -> None:
    fitted = forecast_experiment.run(sample_rows(4000, CORE_1), Settings(model_type="xgboost", folds=2)).fitted
    with pytest.raises(ValueError, match="xgboost is not linear"):
        form_of(fitted["xgboost"])
    with pytest.raises(ValueError, match="xgboost is not linear"):
        make_bundle("volatility", "1", fitted["har"], sample_rows(4000, CORE_1), baselines=fitted)
