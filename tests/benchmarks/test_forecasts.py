"""The comparison of kinds: parts that do not overlap, and figures that are those of the scores."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.forecasts import at_level, development, fold_scores, left_out, trained_on_one
from common.schema import CORE_1, FULL_2
from tests.training.forecasting.samples import sample_rows
from training.forecasting.kinds import KINDS, kind_named, usable_kinds
from training.judging.scores import crps_log
from training.problem.forecast_rows import ForecastRows, pooled
from training.problem.target import NS_PER_S


def recordings() -> list[ForecastRows]:
    return [replace(sample_rows(2000, seed=seed), recordings=(f"number {seed}",)) for seed in range(3)]


def test_the_last_fifth_is_in_no_outcome_of_the_development_rows() -> None:
    rows = sample_rows(2000)
    kept = development(rows)
    final_ns = rows.time_ns[1600]
    assert kept.time_ns[-1] + 65 * NS_PER_S <= final_ns < kept.time_ns[-1] + 71 * NS_PER_S
    assert np.array_equal(kept.time_ns, rows.time_ns[: len(kept)])


def test_a_recording_left_out_is_not_trained_on() -> None:
    parts = recordings()
    kinds = [kind_named("har"), kind_named("ridge")]
    result = left_out(parts, 1, kinds)
    fitted = kind_named("ridge").fit(pooled([parts[0], parts[2]]))
    expected = np.mean(crps_log(fitted.forecasts(parts[1].features), parts[1].outcome_bps))
    assert result.recording == "number 1"
    ridge = result.kinds[1]
    assert ridge.crps_log == pytest.approx(expected)
    assert ridge.crps_minus_har.point == pytest.approx(ridge.crps_log - result.kinds[0].crps_log)
    assert result.kinds[0].crps_minus_har.point == 0


def test_a_single_recording_is_trained_on_and_tested_on_each_of_the_others() -> None:
    parts = recordings()
    pairs = trained_on_one(parts, 1, [kind_named("har"), kind_named("ridge")])
    assert [(pair.trained_on, pair.tested_on) for pair in pairs] == [("number 1", "number 0"), ("number 1", "number 2")]
    fitted = kind_named("ridge").fit(parts[1])
    expected = np.mean(crps_log(fitted.forecasts(parts[2].features), parts[2].outcome_bps))
    assert pairs[1].kinds[1].crps_log == pytest.approx(expected)


def test_a_fold_scores_every_kind_and_the_logit_at_every_size() -> None:
    rows = sample_rows(3000)
    kinds = [kind_named("climatology"), kind_named("har")]
    fold = fold_scores(rows, np.arange(0, 2000), np.arange(2000, 3000), kinds)
    assert {name for _, name in fold.log_loss} == {"climatology", "har", "har_logit"}
    for level in (0.5, 0.75, 0.9, 0.95, 0.99):
        losses = {name: fold.log_loss[level, name].mean() for name in ("climatology", "har", "har_logit")}
        assert losses["har"] < losses["climatology"]
        assert losses["har"] == pytest.approx(losses["har_logit"], rel=0.25)
        assert fold.pr_auc[level, "har"].point > fold.pr_auc[level, "climatology"].point


def test_scores_at_a_size_are_compared_with_the_logit_over_all_folds() -> None:
    rows = sample_rows(3000)
    kinds = [kind_named("climatology"), kind_named("har")]
    ends = ((1000, 2000), (2000, 3000))
    folds = [fold_scores(rows, np.arange(begin), np.arange(begin, end), kinds) for begin, end in ends]
    given = at_level(0.75, folds, ["climatology", "har", "har_logit"], rows.time_ns[1000:])
    assert given.pr_auc_minus_logit.keys() == given.log_loss_minus_logit.keys() == {"climatology", "har"}
    for name, difference in given.pr_auc_minus_logit.items():
        assert difference.point == pytest.approx(given.pr_auc[name] - given.pr_auc["har_logit"])
    for name, difference in given.log_loss_minus_logit.items():
        assert difference.point == pytest.approx(given.log_loss[name] - given.log_loss["har_logit"])
    first, second = (fold.pr_auc[0.75, "har"].samples for fold in folds)
    assert not np.array_equal(first, second)


def test_kinds_are_those_whose_features_the_schema_has() -> None:
    names = [[kind.name for kind in usable_kinds(schema)] for schema in (FULL_2, CORE_1)]
    assert set(names[0]) - set(names[1]) == {"ewma"}
    assert names[0] == [kind.name for kind in KINDS]
