from __future__ import annotations

import numpy as np
import pytest

from training.judging.metrics import best_f1_threshold, evaluate, mean_of_folds

Y = np.array([0, 0, 1, 0, 1, 0, 0, 1, 0, 0], np.int8)


def test_perfect_probabilities_score_perfectly() -> None:
    scores = evaluate(Y, Y.astype(float), threshold=0.5, climatology=0.1)
    assert scores["pr_auc"] == scores["roc_auc"] == scores["f1"] == scores["brier_skill"] == 1.0
    assert scores["brier"] == 0.0
    assert scores["pr_auc_lift"] == pytest.approx(1 / 0.3)


def test_climatology_has_no_skill_and_no_lift() -> None:
    scores = evaluate(Y, np.full(10, 0.1), threshold=0.5, climatology=0.1)
    assert scores["brier_skill"] == pytest.approx(0.0)
    assert scores["pr_auc_lift"] == pytest.approx(1.0)
    assert scores["alert_rate"] == scores["recall"] == scores["f1"] == 0.0


def test_a_constant_at_the_rows_own_rate_beats_climatology_but_not_itself() -> None:
    scores = evaluate(Y, np.full(10, 0.3), threshold=0.5, climatology=0.1)
    assert scores["brier_skill"] > 0
    assert scores["brier_skill_own_rate"] == pytest.approx(0.0)


def test_figures_worked_by_hand() -> None:
    scores = evaluate(np.array([1, 0, 1, 0], np.int8), np.array([0.8, 0.6, 0.4, 0.2]), threshold=0.5, climatology=0.5)
    assert scores["pr_auc"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert scores["brier"] == pytest.approx((0.04 + 0.36 + 0.36 + 0.04) / 4)
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0.5, 0.5, 0.5)
    assert scores["log_loss"] == pytest.approx(-np.log([0.8, 0.4, 0.4, 0.8]).mean())


@pytest.mark.parametrize("spike", [0, 1])
def test_rows_of_one_class_have_no_ranks_but_a_brier_score(spike: int) -> None:
    scores = evaluate(np.full(5, spike, np.int8), np.full(5, 0.2), threshold=0.5, climatology=0.1)
    assert scores["brier"] == pytest.approx((spike - 0.2) ** 2)
    assert "pr_auc" not in scores


def test_the_mean_of_folds_is_over_those_that_define_a_metric() -> None:
    means = mean_of_folds([{"brier": 0.1, "pr_auc": 0.4}, {"brier": 0.3}])
    assert means == {"brier": pytest.approx(0.2), "pr_auc": 0.4, "folds": 2, "folds_with_spikes": 1}


def test_no_threshold_has_a_better_f1_than_the_one_chosen() -> None:
    random = np.random.default_rng(0)
    y = (random.random(60) < 0.2).astype(np.int8)
    probability = np.clip(0.2 + 0.2 * y + random.normal(scale=0.15, size=60), 0, 1)
    best = evaluate(y, probability, best_f1_threshold(y, probability), 0.2)["f1"]
    assert best >= max(evaluate(y, probability, float(one), 0.2)["f1"] for one in probability) - 1e-12
