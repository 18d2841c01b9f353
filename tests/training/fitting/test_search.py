from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from common.schema import FULL_1
from tests.training.models.conftest import made_up_rows
from training.fitting import search
from training.fitting.search import Budget, Fold
from training.judging.metrics import best_f1_threshold
from training.models import KINDS
from training.models.calibration import calibrate
from training.problem.rows import Rows
from training.problem.splits import SplitRules
from training.problem.ticks import NS_PER_S

pytestmark = pytest.mark.slow

RULES = SplitRules(horizon_ns=60 * NS_PER_S, window_ns=300 * NS_PER_S, final_share=0.2, folds=3)
QUICK = Budget(trials=3, choices=4, rows=400)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made_up_rows(4000, seed=2)


@pytest.fixture(scope="module")
def y(rows: Rows) -> NDArray[np.int8]:
    return (rows.future_volatility >= np.quantile(rows.future_volatility, 0.9)).astype(np.int8)


@pytest.fixture(scope="module")
def folds(rows: Rows, y: NDArray[np.int8]) -> list[Fold]:
    return search.validation_folds(rows, y, RULES)


def test_validation_follows_training_behind_an_embargo(rows: Rows, folds: list[Fold]) -> None:
    assert len(folds) == 3
    for fold in folds:
        gap = rows.time_ns[fold.test[0]] - rows.time_ns[fold.train[-1]]
        assert gap > RULES.embargo_ns


def test_a_part_without_a_spike_to_validate_on_gives_no_folds(rows: Rows) -> None:
    early = np.zeros(len(rows), np.int8)
    early[:200] = 1
    assert search.validation_folds(rows, early, RULES) == []


def test_without_folds_the_defaults_are_fitted_and_nothing_is_calibrated(rows: Rows) -> None:
    early = np.zeros(len(rows), np.int8)
    early[:200] = 1
    chosen = search.train(KINDS["logistic"], rows, early, RULES, QUICK, 0, ablate=True)
    assert chosen.fitted.params == KINDS["logistic"].defaults(FULL_1)
    assert (chosen.fitted.calibration.slope, chosen.fitted.calibration.intercept) == (1.0, 0.0)
    assert (chosen.decision_threshold, chosen.trials, chosen.ablation) == (search.DEFAULT_DECISION, (), ())


def test_the_parameters_with_the_lowest_log_loss_are_taken(rows: Rows, y: NDArray[np.int8]) -> None:
    chosen = search.train(KINDS["har"], rows, y, RULES, QUICK, 0, ablate=False)
    assert len(chosen.trials) == QUICK.choices
    assert chosen.fitted.params == min(chosen.trials, key=lambda trial: trial.log_loss).params
    assert chosen.fitted.columns == tuple(str(chosen.fitted.params["windows"]).split("+"))


@pytest.mark.parametrize("name", ["logistic", "xgboost"])
def test_the_search_begins_with_the_defaults_and_repeats_itself(
    name: str, rows: Rows, y: NDArray[np.int8], folds: list[Fold]
) -> None:
    kind = KINDS[name]
    first, again = (search.search(kind, rows, y, folds, QUICK, 7, None) for _ in range(2))
    assert first == again
    assert first[0].params == kind.defaults(FULL_1)
    assert len({str(trial.params) for trial in first}) == QUICK.trials


def test_a_search_ends_when_its_time_is_up(rows: Rows, y: NDArray[np.int8], folds: list[Fold]) -> None:
    budget = replace(QUICK, trials=1000, seconds=1e-6)
    assert len(search.search(KINDS["logistic"], rows, y, folds, budget, 0, None)) == 1


def test_thinning_takes_every_kth_row_and_never_too_many() -> None:
    index = np.arange(100, 1100)
    assert search.thinned(index, 1000) is not index
    assert np.array_equal(search.thinned(index, 2000), index)
    assert np.array_equal(search.thinned(index, 400), index[::3])


def test_calibration_and_decision_come_from_validation_and_nothing_else(rows: Rows, y: NDArray[np.int8]) -> None:
    chosen = search.train(KINDS["zscore"], rows, y, RULES, QUICK, 0, ablate=False)
    folds = search.validation_folds(rows, y, RULES)
    logits, labelled = search.validate(KINDS["zscore"], rows, y, folds, {}, 0)
    assert chosen.fitted.calibration == calibrate(logits, labelled)
    moved = chosen.fitted.calibration.slope * np.concatenate(logits) + chosen.fitted.calibration.intercept
    assert chosen.decision_threshold == best_f1_threshold(np.concatenate(labelled), 1 / (1 + np.exp(-moved)))


def test_features_that_are_noise_are_dropped_and_those_that_tell_are_kept(
    rows: Rows, y: NDArray[np.int8], folds: list[Fold]
) -> None:
    every = KINDS["logistic"].columns(FULL_1)
    kept, table = search.keep_what_earns(KINDS["logistic"], rows, y, folds, Budget(), 0, every)
    rows_of = {row.group: row for row in table}
    assert not rows_of["time of day"].kept
    assert not rows_of["imbalance"].kept
    assert rows_of["activity"].kept
    assert {"volatility", "trade_intensity"} <= set(kept)
    assert set(kept) == {name for row in table[1:] if row.kept for name in row.columns}
    assert rows_of["activity"].log_loss > rows_of["none"].log_loss > 0


def test_the_time_of_day_is_learned_from_days_not_from_an_hour(rows: Rows) -> None:
    kind = KINDS["logistic"]
    in_an_hour = search.columns_to_learn_from(kind, rows)
    assert set(kind.columns(FULL_1)) - set(in_an_hour) == {"time_of_day_sin", "time_of_day_cos"}
    days = replace(rows, time_ns=np.arange(len(rows)) * 60 * NS_PER_S)
    assert search.columns_to_learn_from(kind, days) == kind.columns(FULL_1)


def test_every_feature_of_the_schema_is_in_one_group() -> None:
    columns = KINDS["logistic"].columns(FULL_1)
    groups = search.groups(columns)
    assert sorted(name for names in groups.values() for name in names) == sorted(columns)
    assert set(groups) == {"returns", "volatility", "jumps", "activity", "spread", "imbalance", "time of day"}
