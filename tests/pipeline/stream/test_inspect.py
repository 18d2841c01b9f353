"""What `volcast check` finds wrong with records, and what it leaves be."""

from __future__ import annotations

import math
from typing import Any

import pytest

from common.schema import CORE_1, FULL_1, FULL_2
from pipeline.records import DeadLetter, Gap, LateTick, Tick, encode
from pipeline.stream.inspect import Inspection
from volcast.v1 import FeatureRow, MissingReason, Prediction

TICK = Tick("BTC-USD", 10, 20, 3, 1.0, 1.0, 1.0, 1.0, 1.0)
ROW = {"product_id": "BTC-USD", "event_time_ns": 10, "schema_hash": CORE_1.hash, "values": [1.0] * 11, "warm": True}


def row(**changed: object) -> bytes:
    return FeatureRow(**{**ROW, **changed}).SerializeToString()  # type: ignore[arg-type]


def test_good_records_have_no_faults_and_are_counted_by_kind() -> None:
    look = Inspection()
    look.raw(encode(TICK))
    look.raw(encode(Gap("BTC-USD", 30, 0, "sequence", 1)))
    look.features(row())
    look.features(row(event_time_ns=20, warm=False, values=[math.nan] * 11))
    look.features(row(event_time_ns=30, schema_hash=FULL_1.hash, values=[1.0] * 27))
    look.predictions(Prediction(probability=0.0, threshold=0.5).SerializeToString())
    look.predictions(Prediction(missing_reason=MissingReason.MISSING_REASON_REFUSED).SerializeToString())
    look.late_tick(encode(LateTick("repeated", "x", TICK)))
    look.dead_letter(encode(DeadLetter("not_json", "x", "y", "z")))
    assert not look.faults
    assert look.counts == {"raw": 2, "features": 3, "predictions": 2, "late": 1, "dead": 1}
    assert (look.gaps, look.late, look.dead) == ({"sequence": 1}, {"repeated": 1}, {"not_json": 1})
    assert (look.not_warm, look.missing) == (1, {"MISSING_REASON_REFUSED": 1})
    assert look.newest_event_ns == {"BTC-USD": 10}


@pytest.mark.parametrize("role", ["raw", "features", "predictions", "late_tick", "dead_letter"])
@pytest.mark.parametrize("garbage", [b"garbage", b"\xff\xff\xff", b'{"type":"x"}', b"[" * 100_000])
def test_garbage_is_a_fault_on_every_topic(role: str, garbage: bytes) -> None:
    look = Inspection()
    getattr(look, role)(garbage)
    assert look.faults.total() == 1


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (
            row(schema_hash="aaaaaaaaaaaa"),
            f"ticks.features: schema aaaaaaaaaaaa, expected {CORE_1.hash} or {FULL_1.hash} or {FULL_2.hash}",
        ),
        (row(values=[1.0] * 10), "ticks.features: 10 values, expected 11"),
        (row(schema_hash=FULL_1.hash), "ticks.features: 11 values, expected 27"),
        (row(values=[math.nan] * 11), "ticks.features: a warm row with a value that is not finite"),
    ],
)
def test_a_feature_row_that_breaks_its_contract_is_a_fault(value: bytes, fault: str) -> None:
    look = Inspection()
    look.features(value)
    assert dict(look.faults) == {fault: 1}


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan, None])
def test_a_prediction_needs_a_probability_or_a_reason(probability: float | None) -> None:
    look = Inspection()
    look.predictions(Prediction(probability=probability).SerializeToString())
    assert dict(look.faults) == {"predictions: no probability in [0, 1] and no reason": 1}


def forecast(**fields: Any) -> bytes:
    sound: dict[str, Any] = {"median_bps": 1.5, "quantile_levels": [0.1, 0.9], "quantile_bps": [1.0, 2.0]}
    return Prediction(probability=0.5, spike_bps=2.5, **(sound | fields)).SerializeToString()


def test_a_sound_distribution_is_no_fault() -> None:
    look = Inspection()
    look.predictions(forecast())
    look.predictions(forecast(quantile_levels=[], quantile_bps=[]))
    look.predictions(forecast(quantile_bps=[1.0, 1.0]))
    assert not look.faults


@pytest.mark.parametrize(
    "fields",
    [
        {"median_bps": math.nan},
        {"quantile_bps": [1.0, math.inf]},
        {"quantile_bps": [1.0]},
        {"quantile_bps": []},
        {"quantile_bps": [2.0, 1.0]},
    ],
    ids=str,
)
def test_a_distribution_with_a_wrong_quantile_or_median_is_a_fault(fields: dict[str, Any]) -> None:
    look = Inspection()
    look.predictions(forecast(**fields))
    assert dict(look.faults) == {"predictions: a quantile or the median is missing, out of order or not finite": 1}


def test_rows_repeated_after_a_kill_are_counted_and_no_fault() -> None:
    look = Inspection()
    for time_ns in (10, 20, 30, 20, 30, 40):
        look.features(row(event_time_ns=time_ns))
    assert look.went_back == 1
    assert not look.faults


def test_reasons_of_newer_versions_are_counted_and_no_faults() -> None:
    look = Inspection()
    look.raw(encode(Gap("BTC-USD", 30, 0, "solar flare", 1)))
    look.late_tick(encode(LateTick("tired", "x", TICK)))
    look.dead_letter(encode(DeadLetter("cursed", "x", "y", "z")))
    look.predictions(Prediction(missing_reason=99).SerializeToString())  # type: ignore[arg-type]
    assert not look.faults
    assert (look.gaps, look.late, look.dead) == ({"solar flare": 1}, {"tired": 1}, {"cursed": 1})
    assert look.missing == {"MISSING_REASON_99": 1}


def test_two_venues_of_one_product_do_not_go_back_in_time() -> None:
    look = Inspection()
    for venue, time_ns in (("coinbase", 20), ("binance", 10), ("coinbase", 30), ("binance", 20)):
        look.features(row(venue=venue, event_time_ns=time_ns))
    assert look.went_back == 0
    look.features(row(venue="binance", event_time_ns=19))
    assert look.went_back == 1
