"""Live scores are those of training/judging on the same rows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from common.bundle import Manifest, ManifestFeature, ManifestSchema
from common.errors import BundleError
from common.schema import Feature, FeatureSchema
from tests.training.forecasting.samples import sample_rows
from tests.training.monitoring.bundles import LEVEL, OLD_STYLE, forecast_bundle
from training.forecasting.bundle import baseline_forecasts
from training.judging.events import log_loss
from training.judging.scores import covered, row_scores
from training.monitoring.join import Answer, Joined
from training.monitoring.scoreboard import Line, Scoreboard, calibration_error
from training.monitoring.served import SCHEMA, Served
from training.problem.forecast_rows import ForecastRows

HOUR_NS = 3600 * 10**9
SIZE = 3.0
MANIFEST, GRAPH = forecast_bundle()
SHADOW = forecast_bundle("core/1", "2")


def rows_of(rows: int = 300, seed: int = 5) -> ForecastRows:
    return sample_rows(rows, SCHEMA, seed, LEVEL)


def joined(rows: int = 300, model: str = "volatility/1", spike_bps: float = SIZE, shift_ns: int = 0) -> Joined:
    """Rows with probabilities as a server would answer them: by the graph, at the size."""
    sample = rows_of(rows)
    probability = Served(MANIFEST, GRAPH).probabilities(sample.features, np.full(rows, spike_bps or SIZE))
    answers = [
        Answer("BTC-USD", at + shift_ns, row, model, chance, 0.5, spike_bps)
        for row, (at, chance) in enumerate(zip(sample.time_ns.tolist(), probability.tolist(), strict=True))
    ]
    return Joined(answers, sample.outcome_bps, sample.features)


def with_feature(name: str) -> Manifest:
    """The shadow's manifest with a schema of a single feature."""
    schema = FeatureSchema("mine/1", (Feature(name, "1", ""),))
    features = (ManifestFeature(name, "1"),)
    return msgspec.structs.replace(SHADOW[0], schema=ManifestSchema("mine/1", schema.hash, features))


def board(shadows: tuple[str, ...] = (), windows: dict[str, float] | None = None) -> Scoreboard:
    served = {
        "volatility/1": Served(MANIFEST, GRAPH),
        "volatility/2": Served(*SHADOW),
        "volatility/3": Served(*OLD_STYLE),
        "mine/1": Served(with_feature("funding_rate"), SHADOW[1]),
    }

    def bundle(model: str) -> Served:
        if model not in served:
            raise BundleError(f"no {model}")
        return served[model]

    return Scoreboard(windows or {"24h": 86_400.0}, bundle, lambda name: shadows)


def line(lines: list[Line], model: str, forecaster: str = "model") -> Line:
    (only,) = (each for each in lines if (each.model, each.forecaster) == (model, forecaster))
    return only


def test_scores_of_the_distribution_are_those_of_the_trained_form_whatever_the_batches() -> None:
    whole, scores = joined(), board()
    for start in range(0, 300, 77):
        of = slice(start, start + 77)
        scores.add(Joined(whole.answers[of], whole.outcome_bps[of], whole.features[of]))
    metrics = line(scores.lines(), "volatility/1").metrics
    assert MANIFEST.forecast is not None
    forecasts = Served(MANIFEST, GRAPH).forecasts(whole.features)
    assert forecasts is not None
    rows = row_scores(forecasts, whole.outcome_bps, MANIFEST.forecast.floor_bps)
    expected = {
        "crps": rows.crps_log.mean(),
        "qlike": rows.qlike.mean(),
        "coverage_80": covered(rows.pit_low, rows.pit_high, 0.8).mean(),
        "coverage_95": covered(rows.pit_low, rows.pit_high, 0.95).mean(),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert 0.6 < metrics["coverage_80"] < metrics["coverage_95"] < 1


def test_probabilities_are_scored_at_the_size_of_the_record() -> None:
    whole, scores = joined(spike_bps=2.0), board()
    spike = scores.add(whole)
    event = whole.outcome_bps >= 2.0
    probability = np.array([answer.probability for answer in whole.answers])
    metrics = line(scores.lines(), "volatility/1").metrics
    assert spike.tolist() == event.tolist()
    assert metrics["event_rate"] == event.mean()
    assert metrics["pr_auc"] == pytest.approx(average_precision_score(event, probability))
    assert metrics["log_loss"] == pytest.approx(log_loss(event, probability).mean())
    assert metrics["brier"] == pytest.approx(np.mean((event - probability) ** 2))
    training = sample_rows(1500, SCHEMA, 1, LEVEL).outcome_bps
    assert metrics["base_rate"] == pytest.approx(np.mean(training >= 2.0), abs=0.01)
    rate = metrics["base_rate"]
    assert metrics["brier_skill"] == pytest.approx(1 - metrics["brier"] / np.mean((event - rate) ** 2))


def test_answers_that_differ_from_the_graph_show_as_the_largest_difference() -> None:
    whole, scores = joined(), board()
    scores.add(whole)
    assert line(scores.lines(), "volatility/1").metrics["max_difference"] == 0.0
    answer = whole.answers[17]
    whole.answers[17] = Answer("BTC-USD", answer.event_time_ns, 17, "volatility/1", 1 - answer.probability, 0.5, SIZE)
    scores.add(whole)
    metrics = line(scores.lines(), "volatility/1").metrics
    assert metrics["max_difference"] == pytest.approx(abs(1 - 2 * answer.probability))


def test_baselines_of_the_manifest_are_scored_on_the_same_rows_and_size() -> None:
    whole, scores = joined(), board()
    scores.add(whole)
    assert MANIFEST.forecast is not None
    har = baseline_forecasts(MANIFEST.forecast.baselines["har"], rows_of(), MANIFEST.forecast.floor_bps)
    expected = row_scores(har, whole.outcome_bps, MANIFEST.forecast.floor_bps).crps_log.mean()
    metrics = line(scores.lines(), "volatility/1", "har").metrics
    assert metrics["crps"] == pytest.approx(expected)
    assert metrics["log_loss"] == pytest.approx(log_loss(whole.outcome_bps >= SIZE, har.exceedance(SIZE)).mean())
    assert {each.forecaster for each in scores.lines()} == {"model", "climatology", "har"}


def test_a_shadow_of_another_schema_is_scored_at_the_served_size() -> None:
    scores = board(("volatility/2",))
    scores.add(joined())
    shadow, answered = line(scores.lines(), "volatility/2"), line(scores.lines(), "volatility/1")
    assert (shadow.role, shadow.rows) == ("shadow", answered.rows)
    assert shadow.metrics["event_rate"] == answered.metrics["event_rate"]
    assert shadow.metrics["crps"] > answered.metrics["crps"], "core/1 lacks the features that explain the sample"
    assert "max_difference" not in shadow.metrics


def test_an_old_style_model_has_probability_scores_at_its_own_size_only() -> None:
    scores = board(("volatility/3",))
    scores.add(joined())
    metrics = line(scores.lines(), "volatility/3").metrics
    label = OLD_STYLE[0].label
    assert metrics["event_rate"] == np.mean(joined().outcome_bps >= label.threshold * 1e4)
    assert metrics["base_rate"] == pytest.approx(1 - label.quantile)
    assert not {"crps", "qlike", "coverage_80", "coverage_95"} & set(metrics)


def test_a_forecast_beside_an_old_style_champion_is_scored_at_the_size_of_the_champion() -> None:
    scores = board(("volatility/1",))
    spike = scores.add(joined(model="volatility/3", spike_bps=0.0))
    size = OLD_STYLE[0].label.threshold * 1e4
    assert spike.tolist() == (joined().outcome_bps >= size).tolist()
    assert line(scores.lines(), "volatility/1").metrics["event_rate"] == np.mean(spike)
    assert "crps" in line(scores.lines(), "volatility/1").metrics


def test_rows_that_are_not_warm_keep_their_probability_scores_and_are_counted() -> None:
    scores, cold = board(("volatility/2",)), joined()
    cold.features[:40, SCHEMA.names.index("trailing_known_s")] = np.nan
    cold.features[:10, 0] = np.nan
    scores.add(cold)
    assert line(scores.lines(), "volatility/1").rows == 300
    assert line(scores.lines(), "volatility/1", "har").rows == 260
    assert line(scores.lines(), "volatility/2").rows == 290
    assert scores.unscored == {"volatility/1: not warm": 40, "volatility/2: not warm": 10}


def test_a_version_without_a_bundle_is_named_and_its_rows_are_counted() -> None:
    scores = board()
    assert np.isnan(scores.add(joined(7, model="volatility/9"))).all()
    assert scores.lines() == []
    assert scores.unscored == {"volatility/9: no bundle": 7}
    assert scores.refused == {"volatility/9": "no volatility/9"}


def test_a_shadow_with_features_that_the_engine_does_not_compute_is_refused() -> None:
    scores = board(("mine/1",))
    scores.add(joined())
    assert scores.refused["mine/1"] == "its schema is mine/1; expected core/1 or full/1 or full/2"


def test_a_promoted_shadow_continues_as_the_answering_version() -> None:
    scores = board(("volatility/2",))
    scores.add(joined(50))
    scores.add(joined(60, model="volatility/2", shift_ns=HOUR_NS))
    roles = {(each.model, each.role): each.rows for each in scores.lines() if each.forecaster == "model"}
    assert roles == {("volatility/1", "answered"): 50, ("volatility/2", "shadow"): 50, ("volatility/2", "answered"): 60}


def test_windows_end_at_the_newest_row_and_forget_older_rows() -> None:
    scores = board(windows={"1m": 60.0, "1h": 3600.0})
    scores.add(joined(100))
    assert [each.rows for each in scores.lines() if each.forecaster == "model"] == [12, 100]
    scores.add(joined(10, shift_ns=2 * HOUR_NS))
    assert [each.rows for each in scores.lines() if each.forecaster == "model"] == [10, 10]
    assert {len(series) for series in scores._series.values()} == {10}


def test_an_older_recording_begins_anew() -> None:
    scores = board(windows={"1h": 3600.0})
    scores.add(joined(100))
    scores.add(joined(20, shift_ns=-5 * HOUR_NS))
    assert {each.rows for each in scores.lines()} == {20}


def test_metrics_that_rows_of_a_single_class_do_not_define_are_absent() -> None:
    scores, calm = board(), joined(50)
    calm.outcome_bps[:] = 0.05
    scores.add(calm)
    metrics = line(scores.lines(), "volatility/1").metrics
    assert not {"pr_auc", "roc_auc", "pr_auc_lift", "recall"} & set(metrics)
    assert metrics["event_rate"] == 0.0
    assert metrics["crps"] > 0


def test_the_calibration_error_is_the_mean_distance_over_bins() -> None:
    probability = np.array([0.1, 0.1, 0.1, 0.1, 1.0, 1.0])
    event = np.array([True, False, False, False, True, False])
    assert calibration_error(event, probability) == pytest.approx((4 * 0.15 + 2 * 0.5) / 6)
