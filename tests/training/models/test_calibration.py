from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from training.models.base import IDENTITY, sigmoid
from training.models.calibration import MINIMUM_SLOPE, calibrate, fit_calibration


def drawn(count: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that come as slope · logit + intercept says."""
    random = np.random.default_rng(seed)
    logit = random.normal(-2, 1.5, size=count)
    return logit, (random.uniform(size=count) < sigmoid(slope * logit + intercept)).astype(np.int8)


def test_it_finds_what_the_labels_were_drawn_with() -> None:
    logit, y = drawn(200_000, 0.6, -0.8)
    calibration = fit_calibration(logit, y)
    assert calibration.slope == pytest.approx(0.6, abs=0.02)
    assert calibration.intercept == pytest.approx(-0.8, abs=0.05)


def test_it_agrees_with_scikit_learns_regression_where_rows_are_many() -> None:
    logit, y = drawn(50_000, 1.4, 0.3)
    other = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], y)
    calibration = fit_calibration(logit, y)
    assert calibration.slope == pytest.approx(other.coef_[0, 0], abs=0.01)
    assert calibration.intercept == pytest.approx(other.intercept_[0], abs=0.02)


def test_probabilities_have_the_mean_of_the_labels_afterwards() -> None:
    logit, y = drawn(50_000, 0.7, 1.0)
    calibration = fit_calibration(logit, y)
    assert sigmoid(calibration.slope * logit + calibration.intercept).mean() == pytest.approx(y.mean(), abs=2e-3)


def test_good_probabilities_are_left_alone() -> None:
    calibration = fit_calibration(*drawn(100_000, 1.0, 0.0))
    assert calibration.slope == pytest.approx(1.0, abs=0.03)
    assert calibration.intercept == pytest.approx(0.0, abs=0.05)


def test_few_rows_move_it_little() -> None:
    logit, y = drawn(20, 0.2, 2.0)
    alone = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], y)
    calibration = fit_calibration(logit, y)
    assert abs(calibration.slope - 1) < 0.6 * abs(alone.coef_[0, 0] - 1)
    assert abs(calibration.intercept) < 0.6 * abs(alone.intercept_[0])


def test_an_order_of_rows_is_never_turned_around() -> None:
    logit, y = drawn(5_000, -1.0, -2.0)
    calibration = fit_calibration(logit, y)
    assert calibration.slope == pytest.approx(MINIMUM_SLOPE)
    assert sigmoid(calibration.slope * logit + calibration.intercept).mean() == pytest.approx(y.mean(), abs=0.01)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_teaches_nothing(label: int) -> None:
    assert fit_calibration(np.linspace(-1, 1, 50), np.full(50, label, np.int8)) == IDENTITY
    assert fit_calibration(np.empty(0), np.empty(0, np.int8)) == IDENTITY


def test_a_correction_that_holds_fold_after_fold_is_taken() -> None:
    folds = [drawn(5_000, 0.6, -0.8, seed) for seed in range(3)]
    logits, labelled = zip(*folds, strict=True)
    assert calibrate(logits, labelled) == fit_calibration(np.concatenate(logits), np.concatenate(labelled))


def test_a_correction_that_one_fold_contradicts_is_not() -> None:
    folds = [drawn(5_000, 1.0, intercept, seed) for seed, intercept in enumerate((-0.8, 0.0, 1.5))]
    assert calibrate(*zip(*folds, strict=True)) == IDENTITY


def test_one_fold_is_no_proof() -> None:
    logit, y = drawn(5_000, 0.6, -0.8)
    assert calibrate([logit], [y]) == IDENTITY


def test_a_fold_without_a_spike_is_no_trial() -> None:
    first, last = drawn(5_000, 0.6, -0.8, 0), drawn(5_000, 0.6, -0.8, 1)
    quiet = (np.full(1_000, -4.0), np.zeros(1_000, np.int8))
    assert calibrate([first[0], quiet[0]], [first[1], quiet[1]]) == IDENTITY
    assert calibrate([first[0], quiet[0], last[0]], [first[1], quiet[1], last[1]]).slope == pytest.approx(0.6, abs=0.1)
