from __future__ import annotations

import numpy as np
import pytest

from common.schema import CORE_1, FULL_1
from training.models.transforms import Terms, usable

CORE = Terms.of(CORE_1, usable(CORE_1))


def test_a_market_at_another_price_level_looks_the_same() -> None:
    row = np.array([[90e3, 90e3, 1e-5, 2e-5, -3e-5, 4e-5, 2e-4, 3.0, 0.01, 0.01 / 90e3, 0.3]])
    elsewhere = row.copy()
    elsewhere[:, [0, 1, 8]] /= 1000
    assert np.array_equal(CORE.inputs(row), CORE.inputs(elsewhere))


def test_a_fall_and_a_rise_look_the_same() -> None:
    row = np.random.default_rng(0).normal(size=(5, 11))
    assert np.array_equal(CORE.inputs(row), CORE.inputs(-row))


@pytest.mark.parametrize("value", [0.0, 5e-324, 1.7e308, -1.7e308])
def test_inputs_are_finite_for_any_finite_row(value: float) -> None:
    for schema in (CORE_1, FULL_1):
        terms = Terms.of(schema, usable(schema))
        inputs = terms.inputs(np.full((1, len(schema)), value))
        assert np.isfinite(inputs).all()
        assert inputs.shape == (1, len(usable(schema)))


def test_the_time_of_day_keeps_its_sign_and_comes_last() -> None:
    terms = Terms.of(FULL_1, ("time_of_day_sin", "volatility"))
    assert terms.names == ("volatility", "time_of_day_sin")
    assert terms.logs == 1
    row = np.zeros((2, len(FULL_1)))
    row[:, FULL_1.names.index("time_of_day_sin")] = [-0.5, 0.5]
    assert terms.inputs(row)[:, 1].tolist() == [-0.5, 0.5]
