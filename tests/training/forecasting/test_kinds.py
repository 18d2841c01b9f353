"""Every kind learns, exports and repeats itself."""

import re
from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError, UsageError
from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from tests.training.forecasting.samples import sample_rows
from training.forecasting import onnx_forecast
from training.forecasting.designs import CORE_1_LEVEL_WEIGHT
from training.forecasting.distribution import LocationScale
from training.forecasting.form import LEVELS, FittedForecast
from training.forecasting.graph import forecast_graph
from training.forecasting.kinds import KINDS, ForecastKind, kind_named, usable_kinds
from training.forecasting.onnx_forecast import OnnxForecast, parity_error
from training.problem.target import Floats

CASES = [(kind, schema) for schema in (FULL_2, FULL_1, CORE_1) for kind in usable_kinds(schema)]
NAMES = [f"{kind.name}-{schema.name}" for kind, schema in CASES]
SIZES = np.geomspace(0.01, 1e4, 20)
ASKED = np.array([1e-5, 0.001, 0.02, 0.5, 0.77, 0.999, 1 - 1e-5])


def covered(fitted: FittedForecast, features: Floats, outcome_bps: Floats, share: float) -> float:
    low, high = fitted.forecasts(features).quantiles_bps(np.array([(1 - share) / 2, (1 + share) / 2])).T
    return float(np.mean((outcome_bps >= low) & (outcome_bps <= high)))


@pytest.mark.parametrize(("kind", "schema"), CASES, ids=NAMES)
def test_the_graph_agrees_with_numpy_at_all_sizes_and_levels(kind: ForecastKind, schema: FeatureSchema) -> None:
    rows = sample_rows(1500, schema)
    fitted = kind.fit(rows)
    wild = np.random.default_rng(1).choice([0.0, -1.0, 1e-12, 1e6, 1e300, -1e300], (300, len(schema)))
    for features in (rows.features, wild):
        error = parity_error(OnnxForecast(forecast_graph(fitted)), fitted.forecasts, features, SIZES, ASKED)
        assert error <= 1e-6


@pytest.mark.parametrize(("kind", "schema"), CASES, ids=NAMES)
def test_the_same_rows_give_the_same_bytes(kind: ForecastKind, schema: FeatureSchema) -> None:
    rows = sample_rows(1500, schema)
    assert forecast_graph(kind.fit(rows, seed=3)) == forecast_graph(kind.fit(rows, seed=3))


@pytest.mark.parametrize(("kind", "schema"), CASES, ids=NAMES)
def test_intervals_cover_the_training_rows_as_they_claim(kind: ForecastKind, schema: FeatureSchema) -> None:
    rows = sample_rows(4000, schema)
    fitted = kind.fit(rows)
    for share in (0.5, 0.8, 0.95):
        assert covered(fitted, rows.features, rows.outcome_bps, share) == pytest.approx(share, abs=0.01)
    assert np.mean(rows.outcome_bps > fitted.forecasts(rows.features).median_bps()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("kind", "schema"), CASES, ids=NAMES)
def test_a_feature_that_is_not_an_input_has_no_influence(kind: ForecastKind, schema: FeatureSchema) -> None:
    rows = sample_rows(1500, schema)
    fitted = kind.fit(rows)
    unused = [place for place, name in enumerate(schema.names) if name not in fitted.inputs]
    features = rows.features.copy()
    features[:, unused] *= -7.0
    before, after = (fitted.forecasts(each).quantiles_bps(ASKED) for each in (rows.features, features))
    assert np.array_equal(before, after)


@pytest.mark.parametrize(("kind", "schema"), CASES, ids=NAMES)
def test_rows_with_a_large_weight_count_more(kind: ForecastKind, schema: FeatureSchema) -> None:
    rows = sample_rows(3000, schema)
    weights = np.where(rows.outcome_bps > np.median(rows.outcome_bps), 50.0, 1.0)
    plain, weighted = (kind.fit(rows, each).forecasts(rows.features).median_bps() for each in (None, weights))
    assert np.mean(np.log(weighted / plain)) > 0.1


def test_ridge_finds_the_scale_that_har_assumes_constant() -> None:
    rows, later = sample_rows(6000, seed=1), sample_rows(4000, seed=2)
    wide = later.features[:, FULL_2.names.index("reference_error_size")] > 0.5
    shares = {}
    for name in ("har", "ridge"):
        fitted = kind_named(name).fit(rows)
        shares[name] = [covered(fitted, later.features[part], later.outcome_bps[part], 0.8) for part in (wide, ~wide)]
    assert shares["ridge"] == pytest.approx([0.8, 0.8], abs=0.03)
    assert shares["har"][1] - shares["har"][0] > 0.15


@pytest.mark.parametrize("name", ["ridge", "xgboost"])
def test_scale_free_kinds_follow_a_level_never_seen(name: str) -> None:
    fitted = kind_named(name).fit(sample_rows(4000))
    later = sample_rows(2000, level=4.5, seed=5)
    ratio = np.log(later.outcome_bps / fitted.forecasts(later.features).median_bps())
    assert np.median(ratio) == pytest.approx(0, abs=0.05)
    assert covered(fitted, later.features, later.outcome_bps, 0.8) == pytest.approx(0.8, abs=0.03)


def test_on_core_1_ridge_follows_the_level_nearly_in_full() -> None:
    rows = sample_rows(6000, CORE_1)
    later = sample_rows(2000, CORE_1, level=3.5, seed=5)
    levels = {}
    for name in ("har", "ridge"):
        fitted = kind_named(name).fit(rows)
        medians = [np.median(fitted.forecasts(each.features).median_bps()) for each in (rows, later)]
        levels[name] = np.log(medians[1] / medians[0]) / 2
    assert levels["ridge"] == pytest.approx(CORE_1_LEVEL_WEIGHT, abs=0.03)
    assert levels["har"] < 0.75


def test_on_core_1_the_scale_of_ridge_depends_on_the_level() -> None:
    rows = sample_rows(6000, CORE_1, seed=1)
    volatility = rows.features[:, CORE_1.names.index("volatility")]
    quiet = volatility < np.median(volatility)
    noise = np.random.default_rng(3).normal(size=len(rows))
    rows.outcome_bps[:] = np.maximum(volatility * 1e4 * np.exp(np.where(quiet, 1.2, 0.3) * noise), 0.05)
    scale = kind_named("ridge").fit(rows).forecasts(rows.features).scale
    assert np.median(scale[quiet]) > 1.5 * np.median(scale[~quiet])


def test_trees_find_what_a_line_misses() -> None:
    rows = sample_rows(8000)
    minute = rows.features[:, FULL_2.names.index("grid_volatility_60s")]
    half_hour = rows.features[:, FULL_2.names.index("grid_volatility_1800s")]
    bent = rows.outcome_bps * np.exp(2 * np.abs(np.log(minute / half_hour)))
    train, test = slice(0, 6000), slice(6000, None)
    errors = {}
    for name in ("ridge", "xgboost"):
        learned = rows.take(train)
        learned.outcome_bps[:] = bent[train]
        median = kind_named(name).fit(learned).forecasts(rows.features[test]).median_bps()
        errors[name] = np.mean(np.abs(np.log(bent[test] / median)))
    assert errors["xgboost"] < 0.95 * errors["ridge"]


def test_a_market_that_stands_still_has_its_mass_at_the_floor() -> None:
    rows = sample_rows(3000)
    rows.outcome_bps[::2] = 0.05
    fitted = kind_named("climatology").fit(rows)
    forecasts = fitted.forecasts(rows.features[:1])
    assert forecasts.exceedance(0.0501)[0] == pytest.approx(0.5, abs=0.03)
    assert forecasts.quantiles_bps(np.array([0.3]))[0, 0] == 0.05


@pytest.mark.parametrize(("kind", "schema"), CASES, ids=NAMES)
def test_knots_ascend_and_the_median_is_zero(kind: ForecastKind, schema: FeatureSchema) -> None:
    rows = sample_rows(3000, schema)
    rows.outcome_bps[::3] = 0.05
    knots = kind.fit(rows).knots
    assert (np.diff(knots) > 0).all()
    assert knots[LEVELS == 0.5] == 0.0


def test_a_schema_without_a_needed_feature_is_refused() -> None:
    with pytest.raises(InputError, match="schema core/1: no feature ewma_volatility"):
        kind_named("ewma").fit(sample_rows(100, CORE_1))
    assert "ewma" not in [kind.name for kind in usable_kinds(CORE_1)]
    assert [kind.name for kind in usable_kinds(FULL_1)] == [kind.name for kind in KINDS]


def test_an_unknown_kind_is_refused_with_the_known_names() -> None:
    with pytest.raises(UsageError, match="model kind garch: expected climatology, zscore, ewma, har, logistic, ridge"):
        kind_named("garch")


def test_every_kind_has_a_name_a_label_and_a_colour_of_its_own() -> None:
    for field in ("name", "label", "description", "colour"):
        values = [getattr(kind, field) for kind in KINDS]
        assert len(set(values)) == len(values)
        assert all(values)
    assert all(re.fullmatch("#[0-9a-f]{6}", kind.colour) for kind in KINDS)


def test_logistic_finds_the_weights_of_proportional_odds() -> None:
    rows = sample_rows(40_000, CORE_1)
    logs = np.log(rows.features[:, CORE_1.names.index("volatility")] * 1e4)
    noise = np.random.default_rng(5).logistic(scale=0.2, size=len(rows))
    fitted = kind_named("logistic").fit(replace(rows, outcome_bps=np.exp(0.5 + 0.6 * logs + noise)))
    forecasts = fitted.forecasts(rows.features)
    slope, _ = np.polyfit(logs, np.log(forecasts.median_bps()), 1)
    assert slope == pytest.approx(0.6, abs=0.02)
    assert forecasts.scale == pytest.approx(np.full(len(rows), 0.2), rel=0.05)


def test_rows_count_by_their_weight_in_logistic() -> None:
    rows = sample_rows(4000, CORE_1)
    twice = rows.take(np.concatenate([np.arange(4000), np.arange(1000)]))
    weights = np.where(np.arange(4000) < 1000, 2.0, 1.0)
    kind = kind_named("logistic")
    # The sizes are unweighted quantiles, so only nearly the same.
    weighted, repeated, plain = (
        fit.location[:-1] for fit in (kind.fit(rows, weights), kind.fit(twice), kind.fit(rows))
    )
    assert np.abs(weighted - repeated).max() < np.abs(weighted - plain).max() / 2


def test_logistic_refuses_rows_of_a_single_volatility() -> None:
    rows = sample_rows(500, CORE_1)
    with pytest.raises(InputError, match="logistic: all training rows have the same volatility"):
        kind_named("logistic").fit(replace(rows, outcome_bps=np.full(500, 2.0)))


def test_two_equal_features_are_fitted() -> None:
    rows = sample_rows(500, CORE_1)
    for name in ("return_5s", "return_30s"):
        rows.features[:, CORE_1.names.index(name)] = rows.features[:, CORE_1.names.index("volatility")]
    assert np.isfinite(kind_named("har").fit(rows).location).all()


def test_a_difference_in_the_last_rows_is_part_of_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_forecast, "CHUNK_ROWS", 40)
    rows = sample_rows(100, CORE_1)
    fitted = kind_named("har").fit(rows)
    graph = OnnxForecast(forecast_graph(fitted))
    assert parity_error(graph, fitted.forecasts, rows.features, SIZES, ASKED) <= 1e-6

    def differs(features: Floats) -> LocationScale:
        forecasts = fitted.forecasts(features)
        moved = np.where((features == rows.features[-1]).all(axis=1), 0.5, 0.0)
        return replace(forecasts, location=forecasts.location + moved)

    assert parity_error(graph, differs, rows.features, SIZES, ASKED) > 0.1


def test_a_difference_of_the_median_alone_is_part_of_the_error() -> None:
    rows = sample_rows(100, CORE_1)
    fitted = kind_named("har").fit(rows)

    class OtherMedian(LocationScale):
        def median_bps(self) -> Floats:
            return 1.5 * super().median_bps()

    def differs(features: Floats) -> LocationScale:
        forecasts = fitted.forecasts(features)
        return OtherMedian(forecasts.location, forecasts.scale, forecasts.levels, forecasts.knots, forecasts.floor_bps)

    assert parity_error(OnnxForecast(forecast_graph(fitted)), differs, rows.features, SIZES, ASKED) > 0.1


def test_har_of_core_1_does_not_depend_on_the_sign_of_returns() -> None:
    rows = sample_rows(500, CORE_1)
    fitted = kind_named("har").fit(rows)
    flipped = rows.features.copy()
    flipped[:, [CORE_1.names.index(name) for name in ("return_5s", "return_30s")]] *= -1
    assert np.array_equal(fitted.forecasts(rows.features).location, fitted.forecasts(flipped).location)


def test_har_of_full_1_uses_a_short_a_middle_and_the_longest_window() -> None:
    assert set(kind_named("har").design(FULL_1).names) == {"volatility_15s", "volatility", "volatility_300s"}
