from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import TrainingError
from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.engine import FeatureEngine
from pipeline.records import Tick
from tests.training.synthetic import market, series
from training.problem.labels import future_volatility
from training.problem.leakage import check_score, check_split, rows_that_see_ahead
from training.problem.splits import SplitRules, final_split
from training.problem.ticks import NS_PER_S

RULES = SplitRules(horizon_ns=60 * NS_PER_S, window_ns=60 * NS_PER_S, final_share=0.2, folds=4)
TIME_NS = np.arange(1000) * NS_PER_S
CUTS = (200, 317, 450)


def test_a_split_that_was_purged_and_embargoed_passes() -> None:
    check_split(TIME_NS, final_split(TIME_NS, RULES), RULES)


def test_a_split_one_row_nearer_is_refused() -> None:
    split = final_split(TIME_NS, RULES)
    nearer = replace(split, train=np.append(split.train, split.train[-1] + 1))
    with pytest.raises(TrainingError, match=r"leak: training labels reach 0\.000 s into"):
        check_split(TIME_NS, nearer, RULES)


def test_a_split_without_a_purge_is_refused() -> None:
    split = final_split(TIME_NS, RULES)
    with pytest.raises(TrainingError, match=r"119\.000 s into the feature windows"):
        check_split(TIME_NS, replace(split, train=np.arange(split.test[0])), RULES)


def test_a_score_near_one_is_refused_and_an_honest_one_is_not() -> None:
    check_score("logistic", 0.64)
    with pytest.raises(TrainingError, match=r"leak: logistic scores a PR-AUC of 0\.980"):
        check_score("logistic", 0.98)


@pytest.mark.parametrize("schema", [CORE_1, FULL_1], ids=lambda schema: schema.name)
def test_no_feature_of_the_engine_sees_ahead(schema: FeatureSchema) -> None:
    def compute(count: int) -> NDArray[np.float64]:
        return engine_rows(count, schema)

    assert rows_that_see_ahead(compute, 500, CUTS) == []


def core_1(ticks: int) -> NDArray[np.float64]:
    return engine_rows(ticks, CORE_1)


def engine_rows(ticks: int, schema: FeatureSchema) -> NDArray[np.float64]:
    time_ns, mid = market(500, seed=1)
    records = [
        Tick("BTC-USD", at, 0, number, price, price - 0.005, price + 0.005, 1.0, 2.0)
        for number, (at, price) in enumerate(zip(time_ns.tolist(), mid.tolist(), strict=True))
    ]
    return FeatureEngine(schema).update(TickColumns.from_records(records[:ticks], ProductCodes())).values


def test_a_planted_feature_that_knows_the_future_is_found() -> None:
    def planted(ticks: int) -> NDArray[np.float64]:
        time_ns, mid = market(500, seed=1)
        future = future_volatility(series((time_ns[:ticks], mid[:ticks])), RULES.horizon_ns)
        return np.column_stack([core_1(ticks), future])

    assert rows_that_see_ahead(planted, 500, (200, 317)) == [(199, 11), (316, 11)]
