from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import InputError
from training.drift.summary import FUTURE_VOLATILITY, LEAST_ROWS, PROBABILITY, DriftSummary, Stretch, compare

ROWS = 4000


def columns(seed: int, **scales: float) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    names = ("price", "volatility", "return_5s", PROBABILITY, FUTURE_VOLATILITY)
    return {name: scales.get(name, 1.0) * random.lognormal(size=ROWS) for name in names}


def stretch(name: str, seed: int, **scales: float) -> Stretch:
    return Stretch(name, 0, 10**9, columns(seed, **scales))


def psi_of(summary: DriftSummary) -> dict[str, float | None]:
    return {one.column: one.psi for one in summary.columns}


def test_what_is_alike_has_not_drifted() -> None:
    summary = compare(stretch("then", 1), stretch("now", 2))
    assert summary.drifted == ()
    assert {one.verdict for one in summary.columns} == {"none"}


def test_what_has_moved_is_named_the_farthest_first() -> None:
    summary = compare(stretch("then", 1), stretch("now", 2, volatility=2.0, probability=3.0))
    assert summary.drifted == (PROBABILITY, "volatility")
    assert [one.column for one in summary.columns][:2] == [PROBABILITY, "volatility"]


@pytest.mark.parametrize("column", ["price", FUTURE_VOLATILITY])
def test_price_levels_and_what_was_to_be_predicted_are_shown_and_not_judged(column: str) -> None:
    summary = compare(stretch("then", 1), stretch("now", 2, **{column: 5.0}))
    assert summary.drifted == ()
    assert [one.verdict for one in summary.columns if one.column == column] == ["large"]


def test_of_a_model_s_features_those_it_looks_at_are_judged() -> None:
    now = stretch("now", 2, price=5.0, volatility=5.0)
    assert compare(stretch("then", 1), now, inputs=("price", "return_5s")).drifted == ("price",)


def test_the_threshold_decides() -> None:
    then, now = stretch("then", 1), stretch("now", 2, volatility=1.5)
    (moved,) = (one.psi for one in compare(then, now).columns if one.column == "volatility")
    assert moved is not None
    assert compare(then, now, moved).drifted == ("volatility",)
    assert compare(then, now, moved * 1.001).drifted == ()


def test_a_column_without_numbers_is_unknown_and_its_rate_of_missing_values_is_said() -> None:
    now = stretch("now", 2)
    now.columns["volatility"][:] = np.nan
    now.columns["return_5s"][:1000] = np.inf
    found = {one.column: one for one in compare(stretch("then", 1), now).columns}
    assert (found["volatility"].psi, found["volatility"].verdict, found["volatility"].current_missing) == (
        None,
        "unknown",
        1.0,
    )
    assert (found["return_5s"].current_missing, found["return_5s"].reference_missing) == (0.25, 0.0)


def test_a_stretch_that_is_too_short_is_refused() -> None:
    few = Stretch("now", 0, 1, {"volatility": np.ones(LEAST_ROWS - 1)})
    with pytest.raises(InputError, match="now: 99 rows; a comparison needs at least 100"):
        compare(stretch("then", 1), few)
