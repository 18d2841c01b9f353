"""Which kind ships if nobody chose a kind, and the scores that the manifest records."""

from __future__ import annotations

import numpy as np
import pytest

from common.bundle import Survival
from common.schema import CORE_1
from tests.training.forecasting.samples import sample_rows
from training.forecasting.distribution import LocationScale
from training.forecasting.parts import ForecastPart
from training.judging import summary as module
from training.judging.summary import best_kind, scored_parts, summary

ROWS = 3000
BLOCK_S = 300.0  # 50 blocks


def part(**errors: float) -> ForecastPart:
    """Forecasts of each kind that miss the log outcome by normal errors of this size."""
    rows, random = sample_rows(ROWS, CORE_1), np.random.default_rng(1)
    levels, knots = np.array([0.05, 0.5, 0.95]), np.array([-0.5, 0.0, 0.5])
    forecasts = {
        kind: LocationScale(
            np.log(rows.outcome_bps) + error * random.normal(size=ROWS), np.ones(ROWS), levels, knots, 0.05
        )
        for kind, error in errors.items()
    }
    return ForecastPart("fold 1", rows, forecasts, Survival((1.0,), (1.0,)), None, {0: 0})


def test_the_kind_with_the_smallest_crps_ships_if_it_is_shown_to_beat_har() -> None:
    kind, lead = best_kind([part(har=0.9, logistic=0.6, ridge=0.3)], BLOCK_S, 0)
    assert kind == "ridge"
    assert lead is not None
    assert lead.lies_below(0)


def test_har_ships_if_no_kind_is_shown_to_beat_it() -> None:
    assert best_kind([part(har=0.5, ridge=0.5)], BLOCK_S, 0) == ("har", None)
    assert best_kind([part(har=0.5, ridge=0.9)], BLOCK_S, 0) == ("har", None)


def test_xgboost_is_compared_and_never_chosen() -> None:
    parts = [part(har=0.9, ridge=0.5, xgboost=0.1)]
    scores = summary(parts, 5.0, BLOCK_S, 0)
    assert scores["xgboost"]["crps"] < scores["ridge"]["crps"]
    assert best_kind(parts, BLOCK_S, 0)[0] == "ridge"
    assert best_kind([part(har=0.5, xgboost=0.1)], BLOCK_S, 0) == ("har", None)


def test_scores_that_are_known_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [part(har=0.9, ridge=0.5)]
    expected = (best_kind(parts, BLOCK_S, 0), summary(parts, 5.0, BLOCK_S, 0))
    scored = scored_parts(parts)
    monkeypatch.delattr(module, "row_scores")
    assert (best_kind(parts, BLOCK_S, 0, scored), summary(parts, 5.0, BLOCK_S, 0, scored)) == expected
