from __future__ import annotations

import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from common.errors import InputError
from tests.training.judging.evaluation.made_up import NS_PER_S, scored, with_spikes
from training.judging.evaluation import ModelEval, Settings, evaluate_scored
from training.judging.evaluation.groups import volatility_before
from training.judging.evaluation.result import decode, encode
from training.judging.scored_part import Scored

SETTINGS = Settings(resamples=100, group_resamples=20)


@pytest.fixture(scope="module")
def evaluation() -> ModelEval:
    parts = [scored(f"fold {fold}", seed=fold, start_s=5000 * fold) for fold in (1, 2, 3)]
    return evaluate_scored(
        [*parts, scored("final", seed=4, start_s=20_000)], "logistic", SETTINGS, products=["BTC-USD"]
    )


def test_the_model_comes_first_and_every_baseline_beside_it(evaluation: ModelEval) -> None:
    assert [one.name for one in evaluation.parts] == ["fold 1", "fold 2", "fold 3", "final"]
    assert list(evaluation.headline.models) == ["logistic", "zscore", "har"]
    assert evaluation.reference == "har"


def test_every_figure_lies_in_its_interval(evaluation: ModelEval) -> None:
    for model in evaluation.headline.models.values():
        for name, figure in model.metrics.items():
            if name not in ("lead_time_s", "ece", "ece_equal_mass"):  # a median sits on an edge; noise only adds to ECE
                assert figure.low is not None
                assert figure.high is not None
                assert figure.low <= figure.value <= figure.high, name


def test_the_confusion_matrix_holds_every_row(evaluation: ModelEval) -> None:
    for part in evaluation.parts:
        for model in part.models.values():
            confusion = model.confusion
            assert sum(msgspec.structs.astuple(confusion)) == part.rows
            assert confusion.true_positives + confusion.false_negatives == part.positives
            assert sum(one.rows for one in model.reliability) == part.rows


def test_differences_are_paired_with_the_reference_first(evaluation: ModelEval) -> None:
    first = evaluation.headline.differences[0]
    assert (first.model, first.reference, first.metric) == ("logistic", "har", "pr_auc")
    models = evaluation.headline.models
    assert first.value == pytest.approx(
        models["logistic"].metrics["pr_auc"].value - models["har"].metrics["pr_auc"].value, abs=1e-8
    )
    assert first.better is True
    pairs = {(one.model, one.reference) for one in evaluation.headline.differences}
    assert pairs == {("logistic", "har"), ("logistic", "zscore"), ("zscore", "har")}


def test_less_is_better_for_errors(evaluation: ModelEval) -> None:
    brier = next(one for one in evaluation.headline.differences if one.metric == "brier" and one.reference == "har")
    assert brier.value < 0
    assert brier.better is True


def test_pairing_makes_the_same_forecast_no_better_than_itself() -> None:
    part = scored()
    twin = replace(part, probabilities=dict(part.probabilities) | {"har": part.probabilities["logistic"]})
    first = evaluate_scored([twin], "logistic", SETTINGS).headline.differences[0]
    assert (first.value, first.low, first.high, first.better) == (0, 0, 0, None)


def test_the_mean_is_over_the_folds_and_without_the_final_part(evaluation: ModelEval) -> None:
    assert evaluation.walk_forward is not None
    assert evaluation.walk_forward.folds == 3
    folds = [one.models["har"].metrics["pr_auc"].value for one in evaluation.parts[:3]]
    assert evaluation.walk_forward.models["har"]["pr_auc"].value == pytest.approx(np.mean(folds), abs=1e-8)


def test_the_budget_comes_from_the_parts_before_where_there_are_any(evaluation: ModelEval) -> None:
    budgets = [part.models["logistic"].budget for part in evaluation.parts]
    assert [budget.chosen_on if budget else None for budget in budgets] == ["hindsight", *["earlier parts"] * 3]


def test_the_final_rows_change_neither_threshold() -> None:
    folds = [scored(f"fold {fold}", seed=fold, start_s=5000 * fold) for fold in (1, 2)]
    final = scored("final", seed=4, start_s=20_000)
    other = replace(final, probabilities={name: 1 - one for name, one in final.probabilities.items()})
    ours, theirs = (
        evaluate_scored([*folds, one], "logistic", Settings(resamples=2, group_resamples=2)) for one in (final, other)
    )
    for name in final.probabilities:
        first, second = ours.headline.models[name], theirs.headline.models[name]
        assert first.decision_threshold == second.decision_threshold
        assert first.budget is not None
        assert second.budget is not None
        assert first.budget.threshold == second.budget.threshold
        assert first.metrics != second.metrics


def test_groups_hold_every_row_once(evaluation: ModelEval) -> None:
    headline = evaluation.headline
    assert [one.by for one in headline.groupings] == ["day", "hour", "product", "regime"]
    for grouping in headline.groupings:
        assert sum(group.rows for group in grouping.groups) == headline.rows
        assert sum(group.positives for group in grouping.groups) == headline.positives
    assert [one.name for one in headline.groupings[2].groups] == ["BTC-USD"]
    assert [one.name for one in headline.groupings[3].groups] == ["calm", "middling", "lively", "not known"]


def test_the_regime_looks_back_and_never_ahead() -> None:
    part = scored(rows=300)
    before = volatility_before(part, 60 * NS_PER_S)
    assert np.isnan(before[:60]).all()
    assert np.array_equal(before[60:], part.future_volatility[:240])


RANKS = ("pr_auc", "pr_auc_lift", "roc_auc", "brier_skill_own_rate")


@pytest.mark.parametrize(
    ("spikes", "undefined", "counted"),
    [
        (0, (*RANKS, "recall", "f1", "lead_time_s"), "none of 700 rows is a spike"),
        (700, RANKS, "all 700 rows are spikes"),
    ],
)
def test_a_part_of_one_class_has_no_ranks_and_says_so(spikes: int, undefined: tuple[str, ...], counted: str) -> None:
    found = evaluate_scored([with_spikes(spikes)], "logistic", SETTINGS)
    metrics = found.headline.models["logistic"].metrics
    assert "brier" in metrics
    assert [name for name in undefined if name in metrics] == []
    assert [one for one in found.headline.differences if one.metric in RANKS] == []
    assert found.headline.block_lengths == ()
    assert found.headline.models["logistic"].curve == ()
    assert counted in found.notes[0]
    assert b"NaN" not in encode(found)
    assert decode(encode(found), "x") == found


def test_folds_of_one_class_are_left_out_of_the_mean_and_named() -> None:
    parts = [
        scored("fold 1", rows=1500, seed=1),
        with_spikes(700, part="fold 2", start_s=5000),
        with_spikes(3, part="fold 3", start_s=9000),
        scored("final", rows=1500, seed=2, start_s=20_000),
    ]
    found = evaluate_scored(parts, "logistic", SETTINGS)
    assert found.walk_forward is not None
    assert found.walk_forward.folds_with_both_classes == 2
    folds = [one.models["har"].metrics for one in found.parts[:3]]
    defined = [fold["pr_auc"].value for fold in folds if "pr_auc" in fold]
    assert len(defined) == 2
    assert found.walk_forward.models["har"]["pr_auc"].value == pytest.approx(np.mean(defined), abs=1e-8)
    assert "fold 2 (all 700 rows are spikes), fold 3 (3 of 700 rows are spikes)" in found.notes[0]


def test_few_blocks_are_told() -> None:
    assert any(
        "Few blocks of time" in note and "final 2" in note
        for note in evaluate_scored([scored(rows=400)], "logistic", SETTINGS).notes
    )


def test_without_har_there_is_no_reference_and_it_is_said() -> None:
    found = evaluate_scored([scored(kinds=("logistic", "zscore"))], "logistic", SETTINGS)
    assert found.reference is None
    assert {one.reference for one in found.headline.differences} == {"zscore"}
    assert any("HAR logit is not among the models" in note for note in found.notes)


def test_the_same_rows_and_seed_give_the_same_bytes(evaluation: ModelEval) -> None:
    parts = [scored(f"fold {fold}", seed=fold, start_s=5000 * fold) for fold in (1, 2, 3)]
    again = evaluate_scored(
        [*parts, scored("final", seed=4, start_s=20_000)], "logistic", SETTINGS, products=["BTC-USD"]
    )
    assert encode(again) == encode(evaluation)


def test_what_is_written_is_read_again(evaluation: ModelEval) -> None:
    assert decode(encode(evaluation), "model_eval.json") == evaluation


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"format": 2}', "format: expected 1, got 2"),
        (b"not json", "malformed"),
        (b'{"format": 1, "source": 3}', "Expected `str`, got `int`"),
    ],
)
def test_another_format_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        decode(data, "model_eval.json")
    assert "\n" not in str(error.value)


def _empty() -> Scored:
    part = scored(rows=10)
    nothing = np.zeros(0, np.int64)
    return replace(
        part,
        time_ns=nothing,
        product=nothing,
        y=nothing.astype(np.int8),
        future_volatility=np.zeros(0),
        probabilities=dict.fromkeys(part.probabilities, np.zeros(0)),
    )


def _with(value: float) -> Scored:
    part = scored(rows=10)
    wrong = part.probabilities["har"].copy()
    wrong[3] = value
    return replace(part, probabilities=dict(part.probabilities) | {"har": wrong})


@pytest.mark.parametrize(
    ("parts", "primary", "message"),
    [
        ([], "logistic", "no part was given"),
        ([_empty()], "logistic", "final has no row"),
        ([scored(rows=10)], "xgboost", "no probabilities of xgboost, only of logistic, zscore, har"),
        ([_with(np.nan)], "logistic", r"har: expected probabilities in \[0, 1\], got nan in row 3"),
        ([_with(1.5)], "logistic", r"got 1.5 in row 3 \(1 such rows\)"),
    ],
)
def test_what_cannot_be_evaluated_is_said(parts: list[Scored], primary: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_scored(parts, primary, SETTINGS)


def test_twenty_thousand_rows_take_a_second_or_two() -> None:
    part = scored(rows=20_000, kinds=("xgboost", "har"))
    evaluate_scored([scored(rows=500)], "logistic", SETTINGS)  # compiles
    began = time.perf_counter()
    evaluate_scored([part], "xgboost", Settings(resamples=500, group_resamples=20))
    assert time.perf_counter() - began < 8  # 1 s on a quiet machine
