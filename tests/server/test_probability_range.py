"""A value outside [0, 1] is no probability: its row is answered like a row without one, on every path."""

from __future__ import annotations

from pathlib import Path

import grpc
import httpx
import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal
from onnx import helper, numpy_helper

from common.errors import RequestError
from common.schema import CORE_1
from server.core.dataplane import DataPlane, ModelRun, Result
from server.core.models import Repository
from server.core.predictor import Predictor, in_range
from server.core.requests import PredictInput, Selection
from server.core.rows import PackedInput
from server.core.shadow import ShadowScorer
from tests.server.bundles import EXAMPLE, WIDTH, Logistic, rows, write_bundle
from tests.server.conformance.calls import SERVICE, code_of, frame, packed
from tests.server.conformance.test_open_inference import SERVICE as OIP
from tests.server.conformance.test_open_inference import infer
from tests.server.processes import running, serve
from volcast.v1 import PredictResponse, StreamPredictResponse

FACTOR = 8.0  # the second feature moves the result out of [0, 1]


def out_of_range_graph() -> onnx.ModelProto:
    """Logistic regression plus a term that is 0 for the self-test's row."""
    model = Logistic(1).graph()
    model.graph.node[-1].output[0] = "inside"
    constants = {"one": np.array([1]), "base": np.array(EXAMPLE[1]), "factor": np.array(FACTOR / EXAMPLE[1])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["features", "one"], ["column"], axis=1),
            helper.make_node("Sub", ["column", "base"], ["distance"]),
            helper.make_node("Mul", ["distance", "factor"], ["term"]),
            helper.make_node("Add", ["inside", "term"], ["probability"]),
        ]
    )
    return model


def matrix(*factors: float) -> np.ndarray:
    """Rows like the self-test's, with the second feature times a factor: 1 is inside, 2 and 0.5 are outside."""
    made = np.tile(np.array(EXAMPLE), (len(factors), 1))
    made[:, 1] *= factors
    return made


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(out_of_range_graph().SerializeToString(), WIDTH)


@pytest.mark.parametrize("rows", [3, 65])
def test_such_a_row_has_no_probability_however_it_is_scored(predictor: Predictor, rows: int) -> None:
    asked = matrix(*([1.0, 2.0, 0.5] * rows)[:rows])
    expected = np.isclose(asked[:, 1], EXAMPLE[1])
    assert_array_equal(np.isfinite(predictor.predict(asked)), expected)
    assert_array_equal(np.isfinite(in_range(predictor.raw_bound(asked))), expected)


@pytest.mark.parametrize(("factor", "inside"), [(1.0, True), (2.0, False), (0.5, False)])
def test_such_a_row_has_no_probability_in_bound_buffers(predictor: Predictor, factor: float, inside: bool) -> None:
    buffers = predictor.bind(1)
    assert buffers.fill(matrix(factor).tobytes())
    buffers.run()
    assert np.isfinite(buffers.probability) == inside
    assert np.isfinite(buffers.output).tolist() == [inside]


@pytest.mark.parametrize(("excess", "expected"), [(5e-6, 1.0), (-1 - 5e-6, 0.0), (2e-5, None), (-1 - 2e-5, None)])
def test_rounding_of_float32_sums_is_cut_to_the_range(excess: float, expected: float | None) -> None:
    constant = numpy_helper.from_array(np.array([[1 + excess]]), "value")
    nodes = [
        helper.make_node("ReduceMax", ["features", "axis"], ["best"]),
        helper.make_node("Mul", ["best", "nil"], ["zero"]),
        helper.make_node("Add", ["zero", "value"], ["probability"]),
    ]
    model = Logistic(1).graph()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    axis, nil = numpy_helper.from_array(np.array([1]), "axis"), numpy_helper.from_array(np.array(0.0), "nil")
    model.graph.initializer.extend([constant, axis, nil])
    predictor = Predictor(model.SerializeToString(), WIDTH)
    for values in (predictor.predict(rows(2)), in_range(predictor.raw_bound(rows(2)))):
        assert np.isnan(values).all() if expected is None else values.tolist() == [expected] * 2
    buffers = predictor.bind(1)
    buffers.run()
    assert np.isnan(buffers.probability) if expected is None else buffers.probability == expected


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_bundle(tmp_path, graph=out_of_range_graph())
    return tmp_path


def test_the_data_plane_refuses_the_request_with_such_a_row_and_answers_the_others(models: Path) -> None:
    repository = Repository("volatility")
    repository.load(models)
    plane = DataPlane(repository, 1000, lambda: 0)
    jobs = []
    for asked in (matrix(1.0), matrix(1.0, 2.0), matrix(1.0, 1.0)):
        source = PackedInput(CORE_1.hash, 2, len(asked), asked.astype("<f8").tobytes())
        jobs.append(plane.prepare(PredictInput(source), 0))
    computed = plane.compute(jobs)
    first, second, third = computed.outcomes
    assert isinstance(first, Result)
    assert isinstance(second, RequestError)
    assert "rows: row 1: outside the range of model volatility/1: it has no probability" in str(second)
    assert isinstance(third, Result)


def test_a_shadow_counts_such_a_row_as_failed(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    write_bundle(tmp_path, version="2", graph=out_of_range_graph())
    (tmp_path / "volatility" / "labels.json").write_text('{"stable": "1", "shadow": ["2"]}')
    repository = Repository("volatility")
    assert repository.load(tmp_path).failures == ()
    shadows = ShadowScorer(repository)
    stable, asked = repository.resolve(Selection()), matrix(1.0, 2.0, 0.5)
    run = ModelRun(stable, asked, stable.predictor.predict(asked), 0)
    shadows.offer(run)
    assert shadows.score_some() == 3
    agreement = shadows.agreements["volatility", "2"]
    assert (agreement.rows, agreement.failed_rows) == (1, 2)


@pytest.mark.process
def test_both_fronts_answer_such_a_row_with_an_error_on_every_path(front: str, models: Path) -> None:
    inside, outside = packed(matrix(1.0)).SerializeToString(), packed(matrix(2.0)).SerializeToString()
    with serve(models, VOLCAST_SERVER__FRONT=front) as server, grpc.insecure_channel(server.address) as channel:
        predict = channel.unary_unary(SERVICE + "Predict", bytes, bytes)
        for raw in [inside] * 3:  # parsed; then by its template
            (probability,) = PredictResponse.FromString(predict(raw, timeout=20)).probabilities
            assert 0 <= probability <= 1
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as raised:
                predict(outside, timeout=20)
            assert code_of(raised.value) == grpc.StatusCode.INVALID_ARGUMENT
        many = packed(matrix(*[1.0] * 70, 2.0)).SerializeToString()
        with pytest.raises(grpc.RpcError) as raised:
            predict(many, timeout=20)
        assert code_of(raised.value) == grpc.StatusCode.INVALID_ARGUMENT
        frames = [frame(at, packed(matrix(factor))) for at, factor in enumerate([1.0, 2.0, 1.0, 0.5] * 5, 1)]
        stream = channel.stream_stream(SERVICE + "StreamPredict", bytes, bytes)
        replies = [
            StreamPredictResponse.FromString(raw)
            for raw in stream(iter([each.SerializeToString() for each in frames]), timeout=20)
        ]
        assert [reply.WhichOneof("result") for reply in replies] == ["response", "error"] * 10
        request = infer(1)
        request.raw_input_contents[0] = matrix(2.0).astype("<f8").tobytes()
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(OIP + "ModelInfer", bytes, bytes)(request.SerializeToString(), timeout=20)
        assert code_of(raised.value) == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.process
def test_rest_answers_such_a_row_with_an_error(models: Path) -> None:
    with (
        serve(models) as server,
        running("gateway", "--port", "0", "--server", server.address) as gateway,
        httpx.Client(base_url=f"http://{gateway.address}", trust_env=False, timeout=20) as client,
    ):
        for factor, status in ((1.0, 200), (2.0, 422), (0.5, 422)):
            features = dict(zip(CORE_1.names, matrix(factor)[0].tolist(), strict=True))
            assert client.post("/predict", json=features).status_code == status
            tensor = {"name": "features", "datatype": "FP64", "shape": [1, WIDTH], "data": matrix(factor)[0].tolist()}
            answer = client.post("/v2/models/volatility/infer", json={"inputs": [tensor]})
            assert answer.status_code == (200 if status == 200 else 400)
