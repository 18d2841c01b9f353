from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import InputError
from training.drift.summary import MIN_ROWS, OUTCOME, PROBABILITY, Stretch, compare, stretch_psis

ROWS = 4000


def columns(seed: int, **scales: float) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    names = ("price", "volatility", "return_5s", PROBABILITY, OUTCOME)
    return {name: scales.get(name, 1.0) * random.lognormal(size=ROWS) for name in names}


def stretch(name: str, seed: int, **scales: float) -> Stretch:
    return Stretch(name, 0, 10**9, columns(seed, **scales))


def regimes(seed: int, rows: int, length: int) -> NDArray[np.float64]:
    """Values whose level changes with each stretch of `length` rows."""
    random = np.random.default_rng(seed)
    return np.exp(np.repeat(random.normal(size=-(-rows // length)), length)[:rows] + 0.1 * random.normal(size=rows))


def test_similar_rows_have_not_drifted() -> None:
    assert compare(stretch("then", 1), stretch("now", 2)).drifted == ()


def test_moved_columns_are_named_the_farthest_first() -> None:
    summary = compare(stretch("then", 1), stretch("now", 2, volatility=2.0, probability=3.0))
    assert summary.drifted == (PROBABILITY, "volatility")
    assert [each.column for each in summary.columns][:2] == [PROBABILITY, "volatility"]


@pytest.mark.parametrize("column", ["price", OUTCOME])
def test_price_levels_and_outcomes_are_shown_and_not_judged(column: str) -> None:
    summary = compare(stretch("then", 1), stretch("now", 2, **{column: 5.0}))
    assert summary.drifted == ()
    assert [each.column for each in summary.columns if each.beyond] == [column]


def test_only_features_that_the_model_uses_are_judged() -> None:
    now = stretch("now", 2, price=5.0, volatility=5.0)
    assert compare(stretch("then", 1), now, inputs=("price", "return_5s")).drifted == ("price",)


def test_no_psi_below_the_threshold_is_drift() -> None:
    then, now = stretch("then", 1), stretch("now", 2, volatility=1.8)
    (moved,) = (each.psi for each in compare(then, now).columns if each.column == "volatility")
    assert moved is not None
    assert compare(then, now, moved * 0.99).drifted == ("volatility",)
    assert compare(then, now, moved * 1.01).drifted == ()


def test_a_market_of_regimes_drifts_only_beyond_the_regimes_of_the_reference() -> None:
    then, usual, wild = (Stretch(str(seed), 0, 1, {"volatility": regimes(seed, 4000, 200)}) for seed in (1, 2, 3))
    wild.columns["volatility"][:] *= 1000
    (column,) = compare(then, Stretch("now", 0, 1, {"volatility": usual.columns["volatility"][:400]})).columns
    assert column.psi is not None
    assert column.psi > 0.25, "the custom for independent rows would alarm"
    assert not column.beyond
    assert compare(then, wild).drifted == ("volatility",)


def test_the_limit_shrinks_with_the_length_of_the_stretch() -> None:
    values = regimes(4, 6000, 50)
    assert stretch_psis(values, 100).max() > 2 * stretch_psis(values, 2000).max()


def test_a_stretch_of_the_reference_is_compared_with_the_rest() -> None:
    values = np.repeat([0.0, 1.0], 500) + np.linspace(0, 1e-3, 1000)
    psis = stretch_psis(values, 500)
    assert psis[0] == psis[-1] > 5  # each half against the other half
    assert psis[len(psis) // 2] < 0.1


def test_a_column_without_numbers_has_no_psi_and_its_share_of_missing_values() -> None:
    now = stretch("now", 2)
    now.columns["volatility"][:] = np.nan
    now.columns["return_5s"][:1000] = np.inf
    by_name = {each.column: each for each in compare(stretch("then", 1), now).columns}
    volatility, returned = by_name["volatility"], by_name["return_5s"]
    assert (volatility.psi, volatility.limit, volatility.current_missing) == (None, None, 1.0)
    assert (returned.current_missing, returned.reference_missing) == (0.25, 0.0)


def test_a_stretch_that_is_too_short_is_refused() -> None:
    few = Stretch("now", 0, 1, {"volatility": np.ones(MIN_ROWS - 1)})
    with pytest.raises(InputError, match="now: 99 rows; a comparison needs at least 100"):
        compare(stretch("then", 1), few)
