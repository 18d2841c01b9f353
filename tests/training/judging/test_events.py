"""Scores at a spike size and alerts at a level, against scikit-learn and counting."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score
from sklearn.metrics import log_loss as log_loss_of_sklearn

from training.judging.events import brier, detection, event_scores, log_loss, sizes_bps

from .normal import lively


def simulated(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probability = random.beta(0.5, 2, rows)
    return random.random(rows) < probability, probability


def test_log_loss_and_brier_are_those_of_scikit_learn() -> None:
    event, probability = simulated(500, 1)
    probability[:4] = [0.0, 1.0, 0.0, 1.0]
    assert log_loss(event, probability).mean() == pytest.approx(log_loss_of_sklearn(event, probability))
    assert brier(event, probability).mean() == pytest.approx(brier_score_loss(event, probability))


def test_an_outcome_at_the_size_is_an_event() -> None:
    forecasts = lively(3, 1)
    given = event_scores(forecasts, np.array([1.9, 2.0, 2.1]), 2.0)
    assert given.event.tolist() == [False, True, True]
    assert (given.probability == forecasts.exceedance(2.0)).all()


def test_each_row_may_have_its_own_size() -> None:
    given = event_scores(lively(2, 1), np.array([2.0, 2.0]), np.array([1.0, 3.0]))
    assert given.event.tolist() == [True, False]


def test_sizes_are_quantiles_of_the_training_outcomes() -> None:
    assert sizes_bps(np.arange(101.0)) == pytest.approx([50, 75, 90, 95, 99])


def brute_pr_auc(event: np.ndarray, probability: np.ndarray) -> float:
    """Precision at each level times the recall that the level adds."""
    area, before = 0.0, 0.0
    for level in np.unique(probability)[::-1]:
        alert = probability >= level
        recall = (alert & event).sum() / event.sum()
        area += (recall - before) * (alert & event).sum() / alert.sum()
        before = recall
    return area


def test_areas_are_those_of_counting() -> None:
    event, probability = simulated(200, 2)
    probability = probability.round(2)  # with ties
    given = detection(event, probability, 0.3)
    pairs = probability[event][:, None] - probability[~event][None, :]
    assert given.pr_auc == pytest.approx(brute_pr_auc(event, probability))
    assert given.roc_auc == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_alerts_are_counted_at_the_level_inclusive() -> None:
    event = np.array([True, True, False, False, False])
    probability = np.array([0.5, 0.4, 0.5, 0.1, 0.2])
    given = detection(event, probability, 0.5)
    assert given.counts == (2, 1, 1, 1)
    assert (given.precision, given.recall, given.f1) == (0.5, 0.5, f1_score(event, probability >= 0.5))
    assert given.event_rate == 0.4
    assert given.alert_level == 0.5
    assert given.report["calm"]["support"] == 3
    assert given.report["spike"]["recall"] == 0.5


def test_precision_without_an_alert_is_zero() -> None:
    given = detection(*simulated(100, 3), alert_level=1.1)
    assert (given.precision, given.recall, given.f1) == (0, 0, 0)


@pytest.mark.parametrize("event", [np.zeros(4, np.bool_), np.ones(4, np.bool_)])
def test_rows_of_a_single_class_define_no_area(event: np.ndarray) -> None:
    given = detection(event, np.linspace(0.1, 0.9, 4), 0.5)
    assert np.isnan([given.pr_auc, given.roc_auc]).all()
    assert sum(given.counts) == 4
