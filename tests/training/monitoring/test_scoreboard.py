from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from common.bundle import LinearForm, Manifest, read_bundle
from common.errors import BundleError
from common.schema import CORE_1
from tests.processes import ROOT
from training.judging.evaluation.blocks import Blocks
from training.judging.evaluation.figures import Forecast, row_figures
from training.monitoring.join import Joined, Said
from training.monitoring.scoreboard import METRICS, SCHEMA, Line, Scoreboard, Served

SHIPPED, _ = read_bundle(ROOT / "models" / "volatility" / "1")
TAU = SHIPPED.label.threshold
VOLATILITY = SCHEMA.names.index("volatility")
HOUR_NS = 3600 * 10**9
START_NS = 1_764_565_200 * 10**9


def manifest(**changed: object) -> Manifest:
    return msgspec.structs.replace(SHIPPED, **changed)


HAR = LinearForm(("volatility",), (0.0,), (1.0,), -np.log(TAU), decision_threshold=0.4)


def predict(features: NDArray[np.float64]) -> NDArray[np.float64]:
    volatility = features[:, CORE_1.names.index("volatility")]
    return volatility / (volatility + TAU)


def joined(rows: int, seed: int = 1, start_ns: int = START_NS, model: str = "volatility/1") -> Joined:
    random = np.random.default_rng(seed)
    features = random.lognormal(size=(rows, len(SCHEMA)))
    features[:, VOLATILITY] = TAU * random.lognormal(size=rows)
    said = [
        Said("BTC-USD", start_ns + row * 10**9, row, model, chance, 0.3)
        for row, chance in enumerate(random.random(rows).tolist())
    ]
    return Joined(said, TAU * random.lognormal(size=rows), features)


def board(
    served: dict[str, Manifest] | None = None, shadows: tuple[str, ...] = (), windows: dict[str, float] | None = None
) -> Scoreboard:
    known = {"volatility/1": SHIPPED} if served is None else served

    def bundle(model: str) -> Served:
        if model not in known:
            raise BundleError(f"no {model}")
        return Served(known[model], predict)

    return Scoreboard(windows or {"24h": 86_400.0}, bundle, lambda name: shadows)


def by_hand(y: NDArray[np.int8], probability: NDArray[np.float64], threshold: float) -> dict[str, float]:
    whole = Blocks(np.zeros(len(y), np.int64), 1)
    found = row_figures(Forecast(y, probability, 0.1, threshold), whole, whole.once())
    return {name: float(found[name][0]) for name in METRICS}


def line(lines: list[Line], model: str, forecaster: str = "model", window: str = "24h") -> Line:
    (found,) = (one for one in lines if (one.model, one.forecaster, one.window) == (model, forecaster, window))
    return found


def test_live_figures_are_those_of_the_evaluation_whatever_the_batches() -> None:
    whole, scores = joined(1000), board()
    for start in range(0, 1000, 130):
        of = slice(start, start + 130)
        outcome = scores.add(Joined(whole.said[of], whole.future_volatility[of], whole.features[of]))
        assert outcome.tolist() == (whole.future_volatility[of] >= TAU).tolist()
    y = (whole.future_volatility >= TAU).astype(np.int8)
    probability = np.array([one.probability for one in whole.said])
    found = line(scores.lines(), "volatility/1")
    assert found.rows == 1000
    assert found.metrics == pytest.approx(by_hand(y, probability, 0.3), rel=1e-12)


def test_shadow_and_baselines_are_scored_on_the_same_rows_beside_it() -> None:
    served = {"volatility/1": manifest(baselines={"har": HAR}), "volatility/2": manifest(version="2")}
    whole, scores = joined(500), board(served, ("volatility/2",))
    scores.add(whole)
    y = (whole.future_volatility >= TAU).astype(np.int8)
    expected = predict(whole.features[:, : len(CORE_1)])
    shadow, har = line(scores.lines(), "volatility/2"), line(scores.lines(), "volatility/1", "har")
    assert (shadow.role, shadow.rows, har.role, har.rows) == ("shadow", 500, "answered", 500)
    assert shadow.metrics == pytest.approx(by_hand(y, expected, SHIPPED.decision_threshold), rel=1e-12)
    assert har.metrics == pytest.approx(by_hand(y, expected, 0.4), rel=1e-9), "sigmoid(log v - log τ) = v / (v + τ)"


def test_each_is_held_to_the_threshold_of_its_own_bundle() -> None:
    label = msgspec.structs.replace(SHIPPED.label, threshold=10 * TAU)
    scores = board({"volatility/1": SHIPPED, "volatility/2": manifest(label=label)}, ("volatility/2",))
    scores.add(joined(500))
    rates = [line(scores.lines(), model).metrics["base_rate"] for model in ("volatility/1", "volatility/2")]
    assert rates[0] > 0.4 > 0.05 > rates[1]


def test_rows_that_a_shadow_cannot_score_yet_are_counted() -> None:
    scores = board({"volatility/1": SHIPPED, "volatility/2": SHIPPED}, ("volatility/2",))
    cold = joined(100)
    cold.features[:40, 0] = np.nan
    scores.add(cold)
    assert line(scores.lines(), "volatility/2").rows == 60
    assert scores.unscored["volatility/2: not warm"] == 40


def test_a_version_whose_bundle_is_not_there_is_named_and_its_rows_are_counted() -> None:
    scores = board()
    outcome = scores.add(joined(7, model="volatility/9"))
    assert np.isnan(outcome).all()
    assert scores.lines() == []
    assert scores.unscored == {"volatility/9: no bundle": 7}
    assert scores.refused == {"volatility/9": "no volatility/9"}


def test_a_shadow_that_is_promoted_goes_on_as_the_one_that_answers() -> None:
    scores = board({"volatility/1": SHIPPED, "volatility/2": SHIPPED}, ("volatility/2",))
    scores.add(joined(50))
    scores.add(joined(60, start_ns=START_NS + HOUR_NS, model="volatility/2"))
    roles = {(one.model, one.role): one.rows for one in scores.lines()}
    assert roles == {("volatility/1", "answered"): 50, ("volatility/2", "shadow"): 50, ("volatility/2", "answered"): 60}


def test_windows_end_at_the_newest_row_and_forget_what_is_older() -> None:
    scores = board(windows={"1m": 60.0, "1h": 3600.0})
    scores.add(joined(100))
    assert [one.rows for one in scores.lines()] == [60, 100]
    scores.add(joined(10, start_ns=START_NS + 2 * HOUR_NS))
    assert [one.rows for one in scores.lines()] == [10, 10]
    (series,) = scores._series.values()
    assert len(series._time_ns) == 10


def test_an_older_recording_that_follows_begins_anew() -> None:
    scores = board(windows={"1h": 3600.0})
    scores.add(joined(100))
    scores.add(joined(20, start_ns=START_NS - 5 * HOUR_NS))
    assert [one.rows for one in scores.lines()] == [20]


def test_what_rows_of_one_class_do_not_define_is_absent() -> None:
    scores, calm = board(), joined(50)
    calm.future_volatility[:] = 0.0
    scores.add(calm)
    found = line(scores.lines(), "volatility/1").metrics
    assert "pr_auc" not in found
    assert found["base_rate"] == 0.0
    assert found["brier"] > 0
