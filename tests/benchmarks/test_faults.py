"""The judge of benchmarks.faults finds every kind of deviation, and the reader its age."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.faults.judge import Committed, Row, Source, Verdict, judge, topic_oracle
from benchmarks.faults.reader import Reader
from common.config import KafkaConfig
from pipeline.records import Gap, Record, Tick
from volcast.v1 import MissingReason, Prediction

EXPECTED: dict[int, Row] = {0: (b"a", False), 1: (b"b", True), 2: (b"c", True)}
PROBABILITIES = {b"b": 0.1, b"c": 0.2}


def ask(rows: Sequence[bytes]) -> list[float]:
    return [PROBABILITIES[row] for row in rows]


def answer(probability: float, missing: MissingReason = MissingReason.MISSING_REASON_UNSPECIFIED) -> Prediction:
    return Prediction(probability=probability, missing_reason=missing)


def verdict(
    rows: dict[int, list[Row]] | None = None, predictions: dict[int, list[Prediction]] | None = None
) -> tuple[int, int, int]:
    """Lost, repeated and altered, with changes to what is committed."""
    all_rows = {key: [row] for key, row in EXPECTED.items()} | (rows or {})
    all_predictions = {1: [answer(0.1)], 2: [answer(0.2)]} | (predictions or {})
    found = judge(EXPECTED, Committed(all_rows, all_predictions), ask)
    assert bool(found.faults) is bool(found.examples)
    return found.lost, found.repeated, found.altered


def test_what_equals_the_oracle_has_no_fault() -> None:
    assert verdict() == (0, 0, 0)


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        ({1: []}, (1, 0, 0)),
        ({1: [(b"b", True)] * 3}, (0, 2, 0)),
        ({1: [(b"x", True)]}, (0, 0, 1)),
        ({0: [(b"a", True)]}, (0, 0, 1)),
        ({9: [(b"a", True)]}, (0, 1, 0)),
    ],
    ids=["lost", "repeated", "altered", "other warmth", "without a tick"],
)
def test_faults_of_rows(rows: dict[int, list[Row]], faults: tuple[int, int, int]) -> None:
    assert verdict(rows=rows) == faults


@pytest.mark.parametrize(
    ("predictions", "faults"),
    [
        ({1: []}, (1, 0, 0)),
        ({1: [answer(0.1), answer(0.1)]}, (0, 1, 0)),
        ({1: [answer(0.10001)]}, (0, 0, 1)),
        ({0: [answer(0.1)]}, (0, 1, 0)),
    ],
    ids=["lost", "repeated", "altered", "of a cold row"],
)
def test_faults_of_predictions(predictions: dict[int, list[Prediction]], faults: tuple[int, int, int]) -> None:
    assert verdict(predictions=predictions) == faults


def test_a_missing_prediction_is_a_fault() -> None:
    missing = answer(0.0, MissingReason.MISSING_REASON_SERVER_UNAVAILABLE)
    found = judge(
        EXPECTED, Committed({key: [row] for key, row in EXPECTED.items()}, {1: [missing], 2: [answer(0.2)]}), ask
    )
    assert (found.faults, found.altered) == (1, 1)
    assert Verdict().faults == 0


def ticks(count: int) -> list[tuple[int, Record]]:
    return [(n, Tick("BTC-USD", n * 1_000_000_000, 1, n, 1.0 + n % 3, 1.0, 4.0, 1.0, 1.0)) for n in range(count)]


def oracle(raw: list[tuple[int, Record]], *holes: tuple[int, int, int]) -> dict[Source, Row]:
    return topic_oracle({0: raw}, holes)


def test_windows_of_the_oracle_start_anew_behind_a_hole() -> None:
    whole = oracle(ticks(200))
    with_hole = oracle(ticks(200), (0, 100, 110))
    assert whole.keys() - with_hole.keys() == {(0, offset) for offset in range(100, 110)}
    assert [offset for (_, offset), (_, warm) in with_hole.items() if warm] == [*range(60, 100), *range(170, 200)]
    gap = 110, Gap("BTC-USD", 0, 0, "retention", 0)
    by_hand = oracle([*ticks(100), gap, *((offset + 1, record) for offset, record in ticks(200)[110:])])
    assert [row for _, row in sorted(by_hand.items())] == [row for _, row in sorted(with_hole.items())]


def test_a_hole_of_another_partition_changes_nothing() -> None:
    assert oracle(ticks(200), (1, 100, 110)) == oracle(ticks(200))


def test_the_peak_age_covers_late_results_and_silence() -> None:
    reader = Reader(KafkaConfig())
    newest = reader._newest["ticks.features"]
    newest[0] = [(10.0, 9.9), (11.0, 10.9), (16.0, 11.0), (16.1, 16.0)]  # results of 10.9 to 11 wait until 16
    newest[1] = [(10.0, 9.9), (13.0, 12.9)]  # nothing is received until 12.9
    assert reader.peak_age_s("ticks.features", 10.5, 14.0) == pytest.approx(3.1)
    assert reader.peak_age_s("ticks.features", 10.5, 17.0) == pytest.approx(5.1)
    assert reader.peak_age_s("ticks.features", 17.0, 20.0) == 0.0
    assert np.isfinite(reader.peak_age_s("predictions", 0.0, 20.0))
