"""The clients' requests carry the spike size and the levels of quantiles."""

from __future__ import annotations

import numpy as np

from clients.requests import named_request, packed_request, quantile_rows
from tests.server.bundles import rows
from volcast.v1 import PredictRequest, PredictResponse


def test_a_request_without_spike_size_and_quantiles_has_no_such_bytes() -> None:
    request = packed_request(rows(2), 2, "abc")
    assert {field.name for field, _ in request.ListFields()} == {"packed"}
    assert request == packed_request(rows(2), 2, "abc", spike_bps=0.0, spike_multiple=0.0, quantiles=())


def test_named_and_packed_requests_carry_spike_size_and_quantiles() -> None:
    packed = packed_request(rows(2), 2, "abc", spike_bps=2.5, quantiles=[0.1, 0.9])
    named = named_request([{"price": 1.0}], spike_multiple=3.0, quantiles=np.array([0.25, 0.5]))
    packed.ClearField("packed")
    named.ClearField("named")
    assert packed == PredictRequest(spike_bps=2.5, quantiles=[0.1, 0.9])
    assert named == PredictRequest(spike_multiple=3.0, quantiles=[0.25, 0.5])


def test_quantiles_of_a_response_are_rows_of_levels() -> None:
    values = np.arange(6.0)
    assert quantile_rows(PredictResponse(median_bps=[1.0, 2.0, 3.0], quantile_bps=values)) == [[0, 1], [2, 3], [4, 5]]
    assert quantile_rows(PredictResponse(median_bps=[1.0, 2.0])) == [[], []]
    assert quantile_rows(PredictResponse(probabilities=[0.5])) == []
