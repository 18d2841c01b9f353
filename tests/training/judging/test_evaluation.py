from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from common.bundle import Survival
from common.errors import InputError
from common.schema import CORE_1
from tests.training.forecasting.samples import sample_rows
from training.forecasting.parts import ForecastPart
from training.judging.alerts import operation
from training.judging.blocks import Blocks
from training.judging.comparison import mean_difference
from training.judging.episodes import Line
from training.judging.evaluation import evaluate_parts
from training.judging.evaluation_result import ModelEval, PartEval, decode, encode
from training.judging.part_scores import SingleSize, size_at
from training.judging.scores import covered, row_scores
from training.shipping.bundle_forecasts import BundlePart

from .evaluated import KINDS, SETTINGS, part, parts


@pytest.fixture(scope="module")
def given() -> list[ForecastPart]:
    return parts()


@pytest.fixture(scope="module")
def evaluation(given: list[ForecastPart]) -> ModelEval:
    return evaluate_parts(given, "ridge", SETTINGS)


def difference(evaluation: PartEval, model: str, metric: str) -> tuple[float, bool | None]:
    (each,) = (each for each in evaluation.differences if (each.model, each.metric) == (model, metric))
    return each.interval.point, each.better


def test_the_model_comes_first_and_har_is_the_reference(evaluation: ModelEval) -> None:
    assert (evaluation.kind, evaluation.reference) == ("ridge", "har")
    assert [part.name for part in evaluation.parts] == ["fold 1", "fold 2", "final"]
    assert all(tuple(part.models) == KINDS for part in evaluation.parts)


def test_scores_of_the_distribution_are_means_over_the_rows(given: list[ForecastPart], evaluation: ModelEval) -> None:
    final, rows = given[-1], given[-1].rows
    scores = row_scores(final.forecasts["ridge"], rows.outcome_bps, 0.05)
    metrics = evaluation.headline.models["ridge"].metrics
    assert metrics["crps_log"] == pytest.approx(scores.crps_log.mean())
    assert metrics["crps_bps"] == pytest.approx(scores.crps_bps.mean())
    assert metrics["qlike"] == pytest.approx(scores.qlike.mean())
    assert metrics["coverage_80"] == pytest.approx(covered(scores.pit_low, scores.pit_high, 0.8).mean())
    assert metrics["pinball_0.5"] == pytest.approx(scores.pinball_log[:, 3].mean())
    pit = evaluation.headline.models["ridge"].pit
    assert sum(pit) == pytest.approx(1)
    assert max(pit) < 0.08  # calibrated: 0.05 each


def test_detection_is_at_the_served_size_and_the_alert_level(given: list[ForecastPart], evaluation: ModelEval) -> None:
    final, part = given[-1], evaluation.headline
    event, probability = final.rows.outcome_bps >= 7.0, final.forecasts["har"].exceedance(7.0)
    har = part.models["har"]
    assert har.metrics["pr_auc"] == pytest.approx(average_precision_score(event, probability))
    assert har.metrics["f1"] == pytest.approx(f1_score(event, probability >= 0.4))
    counts = har.confusion
    assert counts.true_positives + counts.false_negatives == part.events == event.sum()
    assert counts.true_positives + counts.false_positives == np.count_nonzero(probability >= 0.4)
    assert har.classification_report["spike"]["f1-score"] == har.metrics["f1"]
    assert part.base_rate == pytest.approx(np.mean(sample_rows(6000).outcome_bps[:4500] >= 7.0), abs=0.005)


def test_sizes_are_quantiles_of_the_training_rows(given: list[ForecastPart], evaluation: ModelEval) -> None:
    train = sample_rows(6000).outcome_bps[:4500]
    sizes = evaluation.headline.sizes
    assert [size.level for size in sizes] == [0.5, 0.75, 0.9, 0.95, 0.99]
    assert [size.spike_bps for size in sizes] == pytest.approx(
        np.quantile(train, [0.5, 0.75, 0.9, 0.95, 0.99]), rel=0.01
    )
    assert [size.base_rate for size in sizes] == pytest.approx([0.5, 0.25, 0.1, 0.05, 0.01], abs=2e-3)
    event = given[-1].rows.outcome_bps >= sizes[2].spike_bps
    probability = given[-1].forecasts["ridge"].exceedance(sizes[2].spike_bps)
    assert evaluation.headline.models["ridge"].metrics["pr_auc_q90"] == pytest.approx(
        average_precision_score(event, probability)
    )


def test_differences_are_paired_and_say_which_is_better(given: list[ForecastPart], evaluation: ModelEval) -> None:
    final, rows = given[-1], given[-1].rows
    mine, theirs = (row_scores(final.forecasts[kind], rows.outcome_bps, 0.05).crps_log for kind in ("ridge", "har"))
    (each,) = (each for each in evaluation.headline.differences if (each.model, each.metric) == ("ridge", "crps_log"))
    assert each.interval == mean_difference(mine, theirs, Blocks.of(rows.time_ns, 600 * 10**9), 0)
    assert each.interval.draws == evaluation.settings.draws == 2000
    assert each.better is True  # the market is ridge's
    assert difference(evaluation.headline, "climatology", "crps_log")[1] is False
    point, better = difference(evaluation.headline, "climatology", "pr_auc")
    assert point < 0
    assert better is False  # more is better


def test_folds_are_means_by_rows_and_leave_the_final_part_out(evaluation: ModelEval) -> None:
    folds = evaluation.walk_forward
    assert folds is not None
    assert (folds.folds, folds.rows) == (2, 3000)
    values = [part.models["har"].metrics["crps_log"] for part in evaluation.parts[:2]]
    assert folds.models["har"]["crps_log"] == pytest.approx(np.mean(values))
    metrics = {each.metric for each in folds.differences if each.model == "ridge"}
    assert metrics >= {"crps_log", "log_loss", "pr_auc", "caught_at_budget", "caught_at_budget_of_multiple"}


def test_alerts_are_those_of_the_level_and_the_last_part_has_budget_and_cost(
    given: list[ForecastPart], evaluation: ModelEval
) -> None:
    rows = given[-1].rows
    line = Line.of(rows.product, rows.time_ns, 60 * 10**9)
    expected = operation(line, rows.outcome_bps >= 7.0, given[-1].forecasts["ridge"].exceedance(7.0), 0.4)
    alerts = evaluation.headline.models["ridge"].alerts
    assert (alerts.episodes, alerts.caught_in_advance) == (expected.episodes, expected.caught_share)
    assert alerts.lead_s == expected.lead_s
    assert alerts.caught_at_budget is not None
    assert alerts.cost_curve is not None
    assert alerts.cost_curve.chosen_on == "earlier parts"
    assert evaluation.headline.models["ridge"].alerts_of_multiple is not None
    assert evaluation.headline.models["climatology"].alerts.cost_curve is None
    assert evaluation.parts[0].models["ridge"].alerts.cost_curve is None


def test_a_single_part_chooses_its_alert_levels_on_its_first_half(given: list[ForecastPart]) -> None:
    single = evaluate_parts(given[-1:], "ridge", SETTINGS)
    curve = single.headline.models["ridge"].alerts.cost_curve
    assert curve is not None
    assert curve.chosen_on == "first half"
    assert single.walk_forward is None


def test_groups_hold_every_row_once(evaluation: ModelEval) -> None:
    part = evaluation.headline
    assert [grouping.by for grouping in part.groupings] == ["day", "hour", "product", "regime"]
    for grouping in part.groupings:
        assert sum(group.rows for group in grouping.groups) == part.rows
        assert sum(group.events for group in grouping.groups) == part.events
        assert grouping.metric == "crps_log"
        mean = sum(group.rows * group.models["ridge"]["crps_log"] for group in grouping.groups) / part.rows
        assert mean == pytest.approx(part.models["ridge"].metrics["crps_log"])


def test_a_model_of_a_single_size_has_no_distribution_scores(given: list[ForecastPart]) -> None:
    rows = given[-1].rows
    answers = {kind: SingleSize(given[-1].forecasts[kind].exceedance(7.0)) for kind in ("ridge", "har")}
    old = evaluate_parts([BundlePart("evaluation", rows, answers, Survival((7.0,), (0.1,)))], "ridge", SETTINGS)
    part = old.headline
    assert part.sizes == ()
    assert part.base_rate == 0.1
    assert part.models["ridge"].alerts_of_multiple is None
    assert not {"crps_log", "coverage_80"} & part.models["ridge"].metrics.keys()
    assert {grouping.metric for grouping in part.groupings} == {"log_loss"}
    assert {each.metric for each in part.differences} == {"log_loss", "brier", "pr_auc", "caught_at_budget"}


def test_a_schema_without_a_trailing_hour_has_no_multiple() -> None:
    rows = sample_rows(3000, CORE_1)
    only = part("final", rows.take(slice(0, 1500)), rows.take(slice(1500, 3000)))
    result = evaluate_parts([only], "har", SETTINGS).headline
    assert result.models["har"].alerts_of_multiple is None
    assert "regime" in {grouping.by for grouping in result.groupings}


def test_rows_without_an_event_leave_ranks_out(given: list[ForecastPart]) -> None:
    quiet = evaluate_parts(given[-1:], "ridge", msgspec.structs.replace(SETTINGS, spike_bps=1e5)).headline
    assert not {"pr_auc", "roc_auc"} & quiet.models["ridge"].metrics.keys()
    assert quiet.models["ridge"].alerts.caught_in_advance is None
    assert quiet.models["ridge"].alerts.caught_at_budget is None


def test_the_same_rows_give_the_same_bytes_and_are_read_back(given: list[ForecastPart], evaluation: ModelEval) -> None:
    data = encode(evaluation)
    assert encode(evaluate_parts(given, "ridge", SETTINGS)) == data
    assert decode(data, "model_eval.json") == evaluation


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"{", "model_eval.json: Input data was truncated"), (b'{"format": 1}', "format: expected 2, got 1")],
)
def test_other_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(data, "model_eval.json")


def test_parts_without_rows_or_without_the_model_are_refused(given: list[ForecastPart]) -> None:
    with pytest.raises(InputError, match="no part was given"):
        evaluate_parts([], "ridge", SETTINGS)
    with pytest.raises(InputError, match="no forecasts of ewma, only of ridge, har, climatology"):
        evaluate_parts(given, "ewma", SETTINGS)
    empty = replace(given[0], rows=given[0].rows.take(slice(0, 0)), forecasts={})
    with pytest.raises(InputError, match="fold 1 has no row"):
        evaluate_parts([empty], "ridge", SETTINGS)
    wrong = BundlePart("evaluation", given[0].rows, {"ridge": SingleSize(np.full(1500, 1.5))}, given[0].sizes)
    with pytest.raises(InputError, match=r"expected probabilities in \[0, 1\], got 1.5 in row 0"):
        evaluate_parts([wrong], "ridge", SETTINGS)


def test_base_rates_lie_between_the_values_of_the_manifest() -> None:
    sizes = Survival((1.0, 4.0), (1.0, 0.5))
    assert sizes.share_at(2.0) == pytest.approx(0.75)
    assert (sizes.share_at(0.5), sizes.share_at(5.0)) == (1.0, 0.0)
    assert size_at(sizes, 0.25) == pytest.approx(2.0)
