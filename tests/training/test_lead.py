"""What ships is the best kind whose lead on HAR is more than chance, and HAR where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.lead import lead, what_ships
from training.scored import Scored
from training.ticks import NS_PER_S

BLOCK_S = 360.0
ROWS = 6000


def fold(number: int, noise: dict[str, float]) -> Scored:
    """A row a second, a fifth of them spikes, and kinds that see them through more or less noise."""
    random = np.random.default_rng(number)
    volatility = random.gamma(2.0, 1.0, ROWS)
    threshold = float(np.quantile(volatility, 0.8))
    said = {}
    for kind, much in noise.items():
        score = volatility - threshold + much * np.random.default_rng([number, len(kind)]).normal(size=ROWS)
        said[kind] = 1 / (1 + np.exp(-score))
    return Scored(
        part=f"fold {number}",
        time_ns=(np.arange(ROWS, dtype=np.int64) + number * 2 * ROWS) * NS_PER_S,
        product=np.zeros(ROWS, np.int64),
        y=(volatility >= threshold).astype(np.int8),
        future_volatility=volatility,
        threshold=threshold,
        climatology=0.1,
        probabilities=said,
        decision_thresholds=dict.fromkeys(said, 0.5),
    )


def folds(**noise: float) -> list[Scored]:
    return [fold(number, noise) for number in (1, 2, 3)]


def test_a_lead_is_that_of_the_means_within_its_interval() -> None:
    found = lead(folds(logistic=1.0, har=3.0), "logistic", "har", BLOCK_S, seed=0)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.point < found.high
    assert found.shown
    assert not found.lost
    back = lead(folds(logistic=1.0, har=3.0), "har", "logistic", BLOCK_S, seed=0)
    assert back.lost
    assert back.point == pytest.approx(-found.point)
    assert str(found) == f"{found.point:+.4f}, paired 95 % interval {found.low:+.4f} to {found.high:+.4f}"


def test_a_quiet_fold_changes_nothing() -> None:
    known = folds(logistic=1.0, har=3.0)
    quiet = replace(known[-1], y=np.zeros(ROWS, np.int8), future_volatility=np.zeros(ROWS), part="fold 4")
    assert lead([*known, quiet], "logistic", "har", BLOCK_S, 0) == lead(known, "logistic", "har", BLOCK_S, 0)


def test_spikes_in_one_block_give_no_interval() -> None:
    one = fold(1, {"logistic": 1.0, "har": 3.0})
    volatility = np.where(np.arange(ROWS) < 20, 9.0, 0.0)
    once = replace(one, y=(volatility >= one.threshold).astype(np.int8), future_volatility=volatility)
    found = lead([once], "logistic", "har", BLOCK_S, seed=0)
    assert (found.low, found.high, found.shown, found.lost) == (None, None, False, False)
    assert "too few blocks" in str(found)


def test_what_is_shown_to_beat_har_ships() -> None:
    kind, leads = what_ships(folds(har=3.0, logistic=1.0), ["har", "logistic"], None, BLOCK_S, 0)
    assert kind == "logistic"
    assert leads["logistic"].shown


@pytest.mark.parametrize(
    ("servable", "ships"),
    [
        (["zscore", "har", "har_returns", "logistic"], "har"),
        (["zscore", "har_returns", "logistic"], "har_returns"),
        (["zscore", "logistic"], "zscore"),
    ],
)
def test_har_ships_where_a_lead_may_be_chance(servable: list[str], ships: str) -> None:
    known = folds(zscore=4.0, har=2.0, har_returns=2.1, logistic=1.99)
    kind, leads = what_ships(known, servable, None, BLOCK_S, 0)
    assert (kind, list(leads)) == (ships, ["logistic"])
    assert not leads["logistic"].shown


def test_what_was_asked_for_ships_and_its_lead_is_told() -> None:
    known = folds(har=1.0, logistic=3.0)
    kind, leads = what_ships(known, ["har", "logistic"], "logistic", BLOCK_S, 0)
    assert kind == "logistic"
    assert leads["logistic"].lost


def test_har_is_no_rival_of_its_own_kinds() -> None:
    known = folds(har=2.0, har_returns=1.0, logistic=3.0)
    assert what_ships(known, ["har", "har_returns", "logistic"], None, BLOCK_S, 0) == ("har", {})
    assert what_ships(known, ["har_returns", "logistic"], None, BLOCK_S, 0) == ("har_returns", {})


def test_folds_of_one_class_show_nothing() -> None:
    quiet = [
        replace(one, y=np.zeros(ROWS, np.int8), future_volatility=np.zeros(ROWS)) for one in folds(har=1, xgboost=1)
    ]
    assert what_ships(quiet, ["har", "xgboost"], None, BLOCK_S, 0) == ("har", {})
