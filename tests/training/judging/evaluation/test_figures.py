from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from training.judging.evaluation.blocks import Blocks
from training.judging.evaluation.episodes import NS_PER_S, Line
from training.judging.evaluation.figures import METRICS, Forecast, areas, equal_mass_edges, figures, row_figures

Y = np.array([0, 0, 1, 0, 1, 0, 0, 1, 0, 0], np.int8)


def at_hand(rows: int, seed: int, ties: bool) -> tuple[NDArray[np.int8], NDArray[np.float64], Blocks]:
    random = np.random.default_rng(seed)
    y = (random.random(rows) < 0.2).astype(np.int8)
    probability = np.clip(0.2 + 0.2 * y + random.normal(scale=0.2, size=rows), 0, 1)
    return y, probability.round(1) if ties else probability, Blocks.of(np.arange(rows), 10)


def value(y: NDArray[np.int8], probability: NDArray[np.float64], threshold: float = 0.5) -> dict[str, float]:
    blocks = Blocks.of(np.arange(len(y)) * NS_PER_S, 300 * NS_PER_S)
    found = row_figures(Forecast(y, probability, 0.1, threshold), blocks, blocks.once())
    return {name: float(one[0]) for name, one in found.items()}


@pytest.mark.parametrize("ties", [False, True])
def test_figures_are_scikit_learns(ties: bool) -> None:
    y, probability, blocks = at_hand(2000, 3, ties)
    found = {
        name: one[0] for name, one in row_figures(Forecast(y, probability, 0.1, 0.4), blocks, blocks.once()).items()
    }
    alert = probability >= 0.4
    theirs = {
        "base_rate": y.mean(),
        "pr_auc": average_precision_score(y, probability),
        "pr_auc_lift": average_precision_score(y, probability) / y.mean(),
        "roc_auc": roc_auc_score(y, probability),
        "brier": brier_score_loss(y, probability),
        "brier_skill": 1 - brier_score_loss(y, probability) / brier_score_loss(y, np.full(2000, 0.1)),
        "brier_skill_own_rate": 1 - brier_score_loss(y, probability) / np.var(y),
        "log_loss": log_loss(y, probability),
        "mean_probability": probability.mean(),
        "alert_rate": alert.mean(),
        "precision": precision_score(y, alert),
        "recall": recall_score(y, alert),
        "f1": f1_score(y, alert),
    }
    assert {name: found[name] for name in theirs} == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_a_draw_counts_a_blocks_rows_as_often_as_it_drew_it(ties: bool) -> None:
    y, probability, blocks = at_hand(500, 4, ties)
    draws = blocks.draws(5, seed=0)
    found = row_figures(Forecast(y, probability, 0.1, 0.4), blocks, draws)
    for number, draw in enumerate(draws):
        weight = draw[blocks.of_row]
        theirs = (
            average_precision_score(y, probability, sample_weight=weight),
            roc_auc_score(y, probability, sample_weight=weight),
            brier_score_loss(y, probability, sample_weight=weight),
            f1_score(y, probability >= 0.4, sample_weight=weight),
        )
        ours = tuple(found[name][number] for name in ("pr_auc", "roc_auc", "brier", "f1"))
        assert ours == pytest.approx(theirs, rel=1e-12)


def test_expected_calibration_error_is_the_mean_distance_of_the_reliability_curve() -> None:
    y, probability, _ = at_hand(3000, 5, ties=False)
    observed, mean = calibration_curve(y, probability, n_bins=15)
    rows = np.histogram(probability, np.linspace(0, 1, 16))[0]
    assert value(y, probability)["ece"] == pytest.approx(np.sum(np.abs(observed - mean) * rows[rows > 0]) / 3000)


def test_bins_of_equal_mass_are_as_full_as_one_another() -> None:
    probability = np.random.default_rng(0).random(3000) ** 4
    rows = np.bincount(np.searchsorted(equal_mass_edges(probability, 15), probability, side="right"))
    assert rows.tolist() == [200] * 15


def test_a_constant_has_no_lift_and_no_skill_and_its_calibration_error_is_its_distance() -> None:
    found = value(Y, np.full(10, 0.1))
    assert found["pr_auc_lift"] == pytest.approx(1.0)
    assert found["roc_auc"] == pytest.approx(0.5)
    assert found["brier_skill"] == pytest.approx(0.0)
    assert found["ece"] == found["ece_equal_mass"] == pytest.approx(0.2)
    assert found["recall"] == found["f1"] == 0.0
    assert np.isnan(found["precision"])  # no alert, so none of them was right or wrong


def test_perfect_probabilities_score_perfectly() -> None:
    found = value(Y, Y.astype(float))
    assert [found[name] for name in ("pr_auc", "roc_auc", "f1", "brier_skill", "brier", "ece")] == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("spike", [0, 1])
def test_rows_of_one_class_have_no_ranks_but_a_brier_score(spike: int) -> None:
    found = value(np.full(5, spike, np.int8), np.full(5, 0.2))
    assert found["brier"] == pytest.approx((spike - 0.2) ** 2)
    names = ("pr_auc", "pr_auc_lift", "roc_auc", "brier_skill_own_rate")
    assert np.isnan([found[name] for name in names]).all()


@pytest.mark.parametrize("alike", [0, 1])
def test_a_draw_of_one_class_defines_no_area(alike: int) -> None:
    draws = np.array([[1.0, 0.0], [0.0, 1.0]])
    pr_auc, roc_auc = areas(
        np.array([1, 0, alike, alike], np.int8), np.array([0.9, 0.1, 0.5, 0.2]), np.array([0, 0, 1, 1]), draws
    )
    assert pr_auc[0] == roc_auc[0] == 1.0
    assert np.isnan([pr_auc[1], roc_auc[1]]).all()


def test_events_are_counted_by_the_hour() -> None:
    rows = 7200
    time_ns = np.arange(rows) * NS_PER_S
    y = np.zeros(rows, np.int8)
    y[[1000, 1001, 3000]] = 1
    probability = np.zeros(rows)
    probability[[1000, 3000, 5000, 6000]] = 0.9
    blocks, line = Blocks.of(time_ns, 300 * NS_PER_S), Line.of(np.zeros(rows, np.int64), time_ns, 60 * NS_PER_S)
    found = figures(Forecast(y, probability, 0.1, 0.5, budget_threshold=0.95), line, blocks, blocks.once())
    assert found.keys() == METRICS.keys()
    assert found["episodes_caught"] == found["episodes_caught_in_advance"] == 1.0
    assert found["alarms_per_hour"] == pytest.approx(2.0)
    assert found["false_alarms_per_hour"] == pytest.approx(1.0)
    assert found["lead_time_s"] == 60.0
    assert found["budget_episodes_caught"] == found["budget_alarms_per_hour"] == 0.0


def test_five_hundred_draws_of_sixty_thousand_rows_take_seconds() -> None:
    y, probability, _ = at_hand(60_000, 6, ties=False)
    time_ns = np.arange(60_000) * NS_PER_S
    blocks, line = Blocks.of(time_ns, 300 * NS_PER_S), Line.of(np.zeros(60_000, np.int64), time_ns, 60 * NS_PER_S)
    forecast, draws = Forecast(y, probability, 0.1, 0.5, 0.8), blocks.draws(500, 0)
    figures(forecast, line, blocks, draws[:1])  # compiles
    began = time.perf_counter()
    figures(forecast, line, blocks, draws)
    assert time.perf_counter() - began < 3  # 0.2 s on a quiet machine
