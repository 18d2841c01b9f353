from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.errors import ModelNotFoundError, RequestError
from common.schema import CORE_1
from server.core.dataplane import DataPlane, Result
from server.core.models import Repository
from server.core.requests import PredictInput, Selection
from server.core.rows import PackedInput
from tests.server.bundles import Logistic, rows, write_bundle


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    models = tmp_path_factory.mktemp("models")
    write_bundle(models, seed=2)
    write_bundle(models, version="3", seed=3)
    (models / "volatility" / "labels.json").write_text('{"stable": "1"}')
    repository = Repository("volatility")
    repository.load(models)
    ticks = count(1000, 10)
    return DataPlane(repository, max_rows=100, now_ns=lambda: next(ticks))


def request(matrix: np.ndarray, selection: Selection | None = None) -> PredictInput:
    packed = PackedInput(CORE_1.hash, 2, len(matrix), np.asarray(matrix, "<f8").tobytes())
    return PredictInput(packed, selection or Selection())


def test_a_request_is_scored_by_the_model_it_asks_for(plane: DataPlane) -> None:
    (result,) = plane.compute([plane.prepare(request(rows(3)), 0)]).outcomes
    assert isinstance(result, Result)
    assert_allclose(result.probabilities, Logistic(2).predict(rows(3)), rtol=0, atol=1e-12)
    assert result.model is plane.repository.resolve(Selection())


def test_waiting_and_computing_are_told_apart(plane: DataPlane) -> None:
    arrived_ns = plane.now_ns()
    (result,) = plane.compute([plane.prepare(request(rows(1)), arrived_ns)]).outcomes
    assert isinstance(result, Result)
    assert (result.queue_ns, result.compute_ns) == (10, 10)


def test_an_unknown_model_is_found_out_before_its_rows_are_looked_at(plane: DataPlane) -> None:
    with pytest.raises(ModelNotFoundError):
        plane.prepare(PredictInput(None, Selection(name="moon")), 0)


def test_a_request_without_rows_is_refused_by_field(plane: DataPlane) -> None:
    with pytest.raises(RequestError, match="rows: expected `named` or `packed` rows, got none"):
        plane.prepare(PredictInput(None), 0)


def test_a_row_the_model_has_no_probability_for_is_the_callers_fault(plane: DataPlane) -> None:
    matrix = rows(3)
    matrix[1] = 1.7e308  # infinite once divided by its scale, and then infinity less infinity
    (error,) = plane.compute([plane.prepare(request(matrix), 0)]).outcomes
    assert isinstance(error, RequestError)
    assert "rows: row 1: outside the range of model volatility/1" in str(error)


def test_jobs_of_several_models_and_one_at_fault_are_answered_in_order(plane: DataPlane) -> None:
    matrix = rows(6)
    out_of_range = matrix[2:3].copy()
    out_of_range[0] = 1.7e308
    requests = [request(matrix[:2]), request(out_of_range), request(matrix[3:], Selection(version="3"))]
    first, second, third = plane.compute([plane.prepare(request, 0) for request in requests]).outcomes
    assert isinstance(first, Result)
    assert isinstance(third, Result)
    assert_allclose(first.probabilities, Logistic(2).predict(matrix[:2]), rtol=0, atol=1e-12)
    assert isinstance(second, RequestError)
    assert_allclose(third.probabilities, Logistic(3).predict(matrix[3:]), rtol=0, atol=1e-12)
