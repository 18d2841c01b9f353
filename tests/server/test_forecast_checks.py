"""The checks of a forecast model before it is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from common.bundle import Manifest, Survival
from common.errors import BundleError
from common.schema import CORE_1, FULL_2
from server.core.arrays import Matrix
from server.core.bundles import load_model
from server.core.forecast_checks import check_forecasts
from server.core.predictor import Forecasts, Predictor
from tests.server.bundles import EXAMPLE, write_bundle
from tests.server.forecasts import SPIKE_BPS, Forecaster, forecast_of, rows_of, write_forecast

Nodes = list[onnx.NodeProto]


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(BundleError) as raised:
        load_model(write_forecast(folder, **options), "volatility", "1")
    return str(raised.value)


def node_of(nodes: Nodes, output: str) -> onnx.NodeProto:
    return next(node for node in nodes if node.output[0] == output)


@pytest.mark.parametrize("schema", [CORE_1, FULL_2], ids=["core/1", "full/2"])
def test_a_forecast_model_is_loaded(tmp_path: Path, schema: Any) -> None:
    model = load_model(write_forecast(tmp_path, schema=schema), "volatility", "1")
    assert model.forecast == forecast_of(schema)
    assert model.default_query is not None


def test_a_graph_of_the_other_kind_is_refused_with_its_inputs(tmp_path: Path) -> None:
    def without(manifest: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, forecast=None)

    text = refusal(tmp_path / "a", change=without)
    assert "inputs: expected only features, got features, levels, spike_bps: the graph of a forecast model" in text
    folder = write_bundle(
        tmp_path / "b", change=lambda manifest: msgspec.structs.replace(manifest, forecast=forecast_of(CORE_1))
    )
    expected = r"inputs: expected features, levels, spike_bps \(manifest\.forecast is set\), got features"
    with pytest.raises(BundleError, match=expected):
        load_model(folder, "volatility", "1")


def other_input(index: int, shape: list[Any]) -> onnx.ModelProto:
    graph = Forecaster().graph()
    value = graph.graph.input[index]
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.DOUBLE, shape))
    return graph


@pytest.mark.parametrize(
    ("index", "shape", "expected"),
    [
        (1, [4, 1], "input spike_bps: expected tensor(double) of shape (rows, 1)"),
        (2, ["rows", 3], "input levels: expected tensor(double) of shape (rows, levels)"),
        (2, [7, "levels"], "input levels: expected tensor(double) of shape (rows, levels)"),
    ],
)
def test_an_input_of_another_shape_is_refused(tmp_path: Path, index: int, shape: list[Any], expected: str) -> None:
    assert expected in refusal(tmp_path, graph=other_input(index, shape))


def test_a_missing_output_is_named(tmp_path: Path) -> None:
    graph = Forecaster().graph()
    del graph.graph.output[2]
    assert "outputs: expected quantile_bps, got median_bps, probability" in refusal(tmp_path, graph=graph)


def test_an_output_of_another_type_is_refused(tmp_path: Path) -> None:
    graph = Forecaster().graph()
    graph.graph.node.append(helper.make_node("Cast", ["median_bps"], ["narrow"], to=TensorProto.FLOAT))
    graph.graph.output[1].CopyFrom(helper.make_tensor_value_info("narrow", TensorProto.FLOAT, ["rows", 1]))
    node_of(list(graph.graph.node), "median_bps").output[0] = "wide"
    graph.graph.node[-1].input[0], graph.graph.node[-1].output[0] = "wide", "median_bps"
    graph.graph.output[1].name = "median_bps"
    assert "output median_bps: expected tensor(double) of shape (rows, 1)" in refusal(tmp_path, graph=graph)


def mean_over_rows(value: str, reader: str) -> Callable[[Nodes], None]:
    """`reader` reads `value` minus its mean over the batch."""

    def change(nodes: Nodes) -> None:
        at = next(index for index, node in enumerate(nodes) if node.output[0] == reader)
        nodes[at].input[list(nodes[at].input).index(value)] = "centred"
        nodes.insert(at, helper.make_node("Sub", [value, "mean"], ["centred"]))
        nodes.insert(at, helper.make_node("ReduceMean", [value, "batch"], ["mean"], keepdims=1))

    return change


@pytest.mark.parametrize(
    ("value", "reader"), [("spike_bps", "log_size"), ("levels", "deep"), ("rise", "residual"), ("mu", "log_median")]
)
def test_a_graph_that_mixes_rows_is_refused_by_the_node(tmp_path: Path, value: str, reader: str) -> None:
    graph = Forecaster().graph(mean_over_rows(value, reader))
    graph.graph.initializer.append(helper.make_tensor("batch", TensorProto.INT64, [1], [0]))
    text = refusal(tmp_path, graph=graph, change=self_test_at_zero(value))
    assert "rows can mix: node 'mean' (ReduceMean)" in text


def self_test_at_zero(value: str) -> Callable[[Manifest], Manifest]:
    """A row alone is its own mean; then its size is 0, which every volatility reaches."""

    def change(manifest: Manifest) -> Manifest:
        if value != "spike_bps":
            return manifest
        return msgspec.structs.replace(manifest, self_test=msgspec.structs.replace(manifest.self_test, probability=1.0))

    return change


def test_negative_quantiles_are_refused(tmp_path: Path) -> None:
    def change(nodes: Nodes) -> None:
        node_of(nodes, "median_bps").CopyFrom(helper.make_node("Neg", ["median"], ["median_bps"]))

    assert "forecast: median_bps: expected positive numbers" in refusal(tmp_path, graph=Forecaster().graph(change))


def test_quantiles_that_fall_with_the_level_are_refused(tmp_path: Path) -> None:
    def change(nodes: Nodes) -> None:
        node_of(nodes, "deep_rise").output[0] = "falling"
        at = next(index for index, node in enumerate(nodes) if node.output[0] == "rise")
        nodes.insert(at, helper.make_node("Neg", ["falling"], ["deep_rise"]))

    assert "forecast: quantile_bps: the quantile at level" in refusal(tmp_path, graph=Forecaster().graph(change))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"spike_bps": 0.0}, "forecast.spike_bps: expected a positive, finite number"),
        ({"horizon_s": -1.0}, "forecast.horizon_s"),
        ({"step_s": 0.0}, "forecast.step_s"),
        ({"floor_bps": -1.0}, "forecast.floor_bps"),
        ({"sizes": Survival((), ())}, "forecast.sizes: expected a share for each value"),
        ({"sizes": Survival((1.0, 2.0), (0.5,))}, "forecast.sizes: expected a share for each value"),
        ({"sizes": Survival((2.0, 1.0), (0.5, 0.4))}, "forecast.sizes.values: expected positive, finite, ascending"),
        ({"sizes": Survival((0.0, 1.0), (0.5, 0.4))}, "forecast.sizes.values"),
        ({"sizes": Survival((1.0, 2.0), (0.4, 0.5))}, "forecast.sizes.shares: expected descending"),
        ({"trailing_feature": "volatility"}, "forecast: expected both trailing_feature and multiples"),
        (
            {"trailing_feature": "moon", "multiples": Survival((1.0,), (0.5,))},
            "forecast.trailing_feature: 'moon' is no feature of schema 'core/1'",
        ),
        (
            {"trailing_feature": "volatility", "multiples": Survival((-1.0,), (0.5,))},
            "forecast.multiples.values: expected positive",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    def altered(manifest: Manifest) -> Manifest:
        assert manifest.forecast is not None
        return msgspec.structs.replace(manifest, forecast=msgspec.structs.replace(manifest.forecast, **change))

    assert expected in refusal(tmp_path, change=altered)


class Twisted:
    """The forecasts of a model, changed by a function of forecasts, sizes (rows, 1) and levels (rows, levels)."""

    def __init__(self, twist: Callable[[Forecasts, Matrix, Matrix], Forecasts]) -> None:
        self._predictor = Predictor(Forecaster().graph().SerializeToString(), len(CORE_1), SPIKE_BPS)
        self._twist = twist

    def forecast(self, matrix: Matrix, sizes: Matrix, levels: Matrix) -> Forecasts:
        return self._twist(self._predictor.forecast(matrix, sizes, levels), sizes, levels)


@pytest.mark.parametrize("name", ["probabilities", "median_bps", "quantile_bps"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_row_has_the_same_forecast_in_every_batch(name: str, batch: int) -> None:
    def twist(share: float) -> Callable[[Forecasts, Matrix, Matrix], Forecasts]:
        def apply(forecasts: Forecasts, sizes: Matrix, levels: Matrix) -> Forecasts:
            values = getattr(forecasts, name) * (1 - share * (len(forecasts.probabilities) == batch))
            return msgspec.structs.replace(forecasts, **{name: values})

        return apply

    matrix = rows_of(CORE_1, 37)
    check_forecasts(Twisted(twist(0.5e-6)), SPIKE_BPS, EXAMPLE, matrix)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=rf"rows mix: {name} of a row is .* in batches of {batch};"):
        check_forecasts(Twisted(twist(1e-4)), SPIKE_BPS, EXAMPLE, matrix)  # type: ignore[arg-type]


def test_the_row_of_the_self_test_needs_a_forecast_and_other_rows_do_not() -> None:
    matrix = rows_of(CORE_1, 9)
    predictor = Predictor(Forecaster().graph().SerializeToString(), len(CORE_1), SPIKE_BPS)
    matrix[3] = 1.7e308
    check_forecasts(predictor, SPIKE_BPS, EXAMPLE, matrix)
    with pytest.raises(BundleError, match="finite quantiles for the self-test's row"):
        check_forecasts(predictor, SPIKE_BPS, tuple(matrix[3].tolist()), matrix)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-6), (1 - 1e-6, 1.0)])
def test_a_level_near_0_or_1_without_a_quantile_is_refused(low: float, high: float) -> None:
    def twist(forecasts: Forecasts, sizes: Matrix, levels: Matrix) -> Forecasts:
        near = (low < levels) & (levels < high)
        return msgspec.structs.replace(forecasts, quantile_bps=np.where(near, np.inf, forecasts.quantile_bps))

    with pytest.raises(BundleError, match="finite quantiles for the self-test's row"):
        check_forecasts(Twisted(twist), SPIKE_BPS, EXAMPLE, rows_of(CORE_1, 9))  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.05), (20.0, 1e3)])
def test_a_size_far_from_the_default_without_a_forecast_is_refused(low: float, high: float) -> None:
    """low, high: multiples of the default size."""

    def twist(forecasts: Forecasts, sizes: Matrix, levels: Matrix) -> Forecasts:
        far = (low * SPIKE_BPS < sizes[:, 0]) & (sizes[:, 0] < high * SPIKE_BPS)
        return msgspec.structs.replace(forecasts, probabilities=np.where(far, np.nan, forecasts.probabilities))

    with pytest.raises(BundleError, match=r"expected a probability in .* at every size"):
        check_forecasts(Twisted(twist), SPIKE_BPS, EXAMPLE, rows_of(CORE_1, 9))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 16])
def test_a_graph_that_fails_for_a_number_of_levels_is_refused(count: int) -> None:
    def twist(forecasts: Forecasts, sizes: Matrix, levels: Matrix) -> Forecasts:
        if levels.shape[1] == count:
            raise RuntimeError("wrong rank")
        return forecasts

    with pytest.raises(BundleError, match=rf"cannot be run on 29 rows with {count} levels"):
        check_forecasts(Twisted(twist), SPIKE_BPS, EXAMPLE, rows_of(CORE_1, 9))  # type: ignore[arg-type]


def test_a_probability_outside_of_0_and_1_at_another_size_is_refused(tmp_path: Path) -> None:
    """The self-test has the default size only."""

    def change(nodes: Nodes) -> None:
        nodes[-1:-1] = [
            helper.make_node("Greater", ["log_size", "far"], ["is_far"]),
            helper.make_node("Where", ["is_far", "far", "sound"], ["probability"]),
        ]
        node_of(nodes, "probability").output[0] = "sound"

    graph = Forecaster().graph(change)
    graph.graph.initializer.append(helper.make_tensor("far", TensorProto.DOUBLE, [], [4.5]))
    assert "forecast: expected a probability in [0, 1]" in refusal(tmp_path, graph=graph)


def test_a_row_without_finite_quantiles_has_no_probability() -> None:
    forecasts = Forecasts(np.array([0.5, 0.5, 0.5]), np.array([1.0, np.inf, 1.0]), np.array([[1.0], [1.0], [np.nan]]))
    assert np.isfinite(forecasts.in_range().probabilities).tolist() == [True, False, False]
