from __future__ import annotations

import numpy as np
import pytest

from common.schema import CORE_1
from training import MODEL_TYPES
from training.experiment import Experiment
from training.inputs import COLUMNS, OFFSETS, model_inputs
from training.models import MODELS


def test_the_names_offered_without_scikit_learn_are_those_of_the_models() -> None:
    assert set(MODEL_TYPES) == set(MODELS)


def test_inputs_hold_no_quantity_in_units_of_the_quote_currency() -> None:
    assert {CORE_1.features[column].unit for column in COLUMNS}.isdisjoint({"quote"})


def test_a_market_at_another_price_level_looks_the_same() -> None:
    row = np.array([[90e3, 90e3, 1e-5, 2e-5, -3e-5, 4e-5, 2e-4, 3.0, 0.01, 0.01 / 90e3, 0.3]])
    elsewhere = row.copy()
    elsewhere[:, [0, 1, 8]] /= 1000
    assert np.array_equal(model_inputs(row), model_inputs(elsewhere))


def test_a_fall_and_a_rise_look_the_same() -> None:
    row = np.random.default_rng(0).normal(size=(5, 11))
    assert np.array_equal(model_inputs(row), model_inputs(-row))


@pytest.mark.parametrize("value", [0.0, 5e-324, 1.7e308, -1.7e308])
def test_inputs_are_finite_for_any_finite_row(value: float) -> None:
    assert np.isfinite(model_inputs(np.full((1, 11), value))).all()
    assert model_inputs(np.full((1, 11), value)).shape == (1, len(OFFSETS))


def test_the_linear_form_is_the_trained_form(trained: Experiment) -> None:
    fitted, rows = trained.model.fitted, trained.final.test
    weights, bias = fitted.linear_form()
    logit = fitted.kind.inputs(rows) @ weights + bias
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(fitted.probabilities(rows), abs=1e-12)


@pytest.mark.parametrize("name", ["logistic", "zscore", "ewma", "har_logit"])
def test_probabilities_are_not_inflated_by_class_weights(trained: Experiment, name: str) -> None:
    fitted = trained.candidates[name].fitted
    # The intercept of an unweighted logistic regression makes the mean probability the base rate.
    assert fitted.probabilities(trained.final.train).mean() == pytest.approx(trained.final.train_y.mean(), abs=1e-6)


def test_the_zscore_baseline_ranks_as_the_window_volatility_does(trained: Experiment) -> None:
    test = trained.final.test
    order = np.argsort(trained.candidates["zscore"].fitted.probabilities(test), kind="stable")
    assert np.all(np.diff(test.har[order, 2]) >= 0)
