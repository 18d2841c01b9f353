"""The worker sends its spike size and levels with each frame, and predictions carry the distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.errors import RequestError, UsageError
from common.schema import CORE_1
from pipeline.records import Tick
from pipeline.stream.forecast import MIN_RETRY_S, Forecaster
from tests.pipeline.stream.fakes import DEFAULT_BPS, Bench, Clock, FakeStream, answer, distribution, messages_of
from tests.pipeline.stream.test_forecast import rows
from tests.pipeline.stream.ticks import market
from volcast.v1 import MissingReason, PredictResponse

LEVELS = (0.1, 0.5, 0.9)
NO_DISTRIBUTION = "model volatility/3 forecasts no distribution and takes no such field"


def ticks() -> list[Tick]:
    return market(800)


def forecaster(stream: FakeStream, **query: Any) -> Forecaster:
    return Forecaster(stream, CORE_1.hash, limit_rows=100_000, timeout_s=1.0, **query)


def refusing(stream: FakeStream, field: str, text: str = NO_DISTRIBUTION) -> None:
    stream.failure = lambda: RequestError.of(field, text)


def test_each_frame_carries_the_spike_size_and_the_levels() -> None:
    stream = FakeStream()
    stream.forecasts = True
    here = forecaster(stream, spike_bps=4.0, quantiles=LEVELS)
    here.submit(rows(3))
    here.submit(rows(2, 3))
    assert stream.queries == [{"spike_bps": 4.0, "quantiles": LEVELS}] * 2


def test_without_settings_frames_carry_no_question() -> None:
    stream = FakeStream()
    forecaster(stream).submit(rows(3))
    assert stream.queries == [{}]


def test_predictions_carry_the_distribution_of_their_row() -> None:
    bench = Bench([messages_of(ticks())], spike_bps=4.0, quantiles=LEVELS)
    bench.stream.forecasts = True
    bench.run()
    warm = [np.array(row.values) for row in bench.delivery.features() if row.warm]
    predictions = bench.delivery.predictions()
    assert len(predictions) == len(warm) > 50
    by_offset = {row.source_offset: np.array([row.values]) for row in bench.delivery.features()}
    for prediction in predictions:
        expected = distribution(by_offset[prediction.source_offset], 4.0, LEVELS)
        assert (prediction.spike_bps, prediction.base_rate) == (4.0, 0.125)
        assert [prediction.median_bps] == list(expected.median_bps)
        assert tuple(prediction.quantile_levels) == LEVELS
        assert list(prediction.quantile_bps) == list(expected.quantile_bps)


def test_without_levels_predictions_carry_size_median_and_base_rate() -> None:
    bench = Bench([messages_of(ticks())])
    bench.stream.forecasts = True
    prediction = bench.run().delivery.predictions()[0]
    assert (prediction.spike_bps, prediction.base_rate) == (DEFAULT_BPS, 0.125)
    assert prediction.median_bps >= 1
    assert not prediction.quantile_levels
    assert not prediction.quantile_bps


def test_predictions_of_a_model_without_a_distribution_have_no_such_fields() -> None:
    prediction = Bench([messages_of(ticks())]).run().delivery.predictions()[0]
    names = {descriptor.name for descriptor, _ in prediction.ListFields()}
    assert "probability" in names
    assert not names & {"spike_bps", "median_bps", "quantile_levels", "quantile_bps", "base_rate"}


def test_rows_of_a_partition_that_left_take_their_medians_along() -> None:
    stream = FakeStream()
    stream.forecasts = True
    here = forecaster(stream, quantiles=LEVELS)
    here.submit(rows(2).followed_by(rows(3, 2, partition=1)))
    here.drop({0})
    (settled,) = here.settle()
    expected = distribution(settled.rows.values, DEFAULT_BPS, LEVELS)
    assert settled.rows.offset.tolist() == [2, 3, 4]
    assert settled.median_bps.tolist() == list(expected.median_bps)
    assert settled.quantile_bps.reshape(-1).tolist() == list(expected.quantile_bps)
    assert settled.probabilities.tolist() == answer(settled.rows.values)


@pytest.mark.parametrize(("field", "key"), [("spike_bps", "worker.spike_bps"), ("quantiles", "worker.quantiles")])
def test_a_model_that_refuses_the_question_ends_the_worker_with_the_key(field: str, key: str) -> None:
    bench = Bench([messages_of(ticks())], spike_bps=4.0, quantiles=LEVELS)
    refusing(bench.stream, field)
    with pytest.raises(UsageError) as raised:
        bench.run()
    assert str(raised.value) == f"{key}: {NO_DISTRIBUTION}"
    assert bench.worker.totals.missing.total() == 0


def test_a_fault_of_a_level_names_the_key(clock: Clock) -> None:
    stream = FakeStream()
    refusing(stream, "quantiles[1]", "expected ascending levels")
    here = forecaster(stream, quantiles=LEVELS)
    here.submit(rows(1))
    with pytest.raises(UsageError, match=r"^worker\.quantiles\[1\]: expected ascending levels$"):
        here.settle()


def test_after_an_answer_rows_wait_while_a_model_refuses_the_question(clock: Clock) -> None:
    stream = FakeStream()
    stream.forecasts = True
    here = forecaster(stream, spike_bps=4.0)
    here.submit(rows(2))
    assert len(here.settle()) == 1
    refusing(stream, "spike_bps")  # the model was swapped
    here.submit(rows(3, 2))
    assert here.settle() == []
    assert here.backlog_rows == 3
    stream.failure = None
    clock.now_s += MIN_RETRY_S
    (settled,) = here.settle()
    assert settled.rows.offset.tolist() == [2, 3, 4]
    assert settled.missing == MissingReason.MISSING_REASON_UNSPECIFIED


def test_a_fault_of_the_rows_is_still_a_refusal_of_these_rows() -> None:
    stream = FakeStream()
    refusing(stream, "packed.values", "expected a finite number, got nan")
    here = forecaster(stream, spike_bps=4.0)
    here.submit(rows(2))
    (settled,) = here.settle()
    assert settled.missing == MissingReason.MISSING_REASON_REFUSED


@pytest.mark.parametrize(
    "change",
    [
        PredictResponse(median_bps=[1.0]),
        PredictResponse(quantile_bps=[1.0]),
    ],
)
def test_an_answer_with_too_many_values_is_refused(change: PredictResponse) -> None:
    class Longer(FakeStream):
        def poll(self, timeout_s: float) -> Any:
            polled = super().poll(timeout_s)
            if polled is not None:
                polled.response.MergeFrom(change)
            return polled

    stream = Longer()
    stream.forecasts = True
    here = forecaster(stream, quantiles=LEVELS)
    here.submit(rows(2))
    (settled,) = here.settle()
    assert settled.missing == MissingReason.MISSING_REASON_REFUSED


def test_an_older_server_that_ignores_the_question_is_not_believed() -> None:
    here = forecaster(FakeStream(), spike_bps=4.0)
    here.submit(rows(2))
    (settled,) = here.settle()
    assert settled.missing == MissingReason.MISSING_REASON_REFUSED
