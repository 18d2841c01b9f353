"""`volcast models add`: variants of files that are adapted, and the folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from cli.main import run_command
from cli.models import add as adding
from cli.models.adapt import adapt
from cli.models.plan import plan
from cli.models.source import read_source
from common.bundle import read_bundle
from common.errors import BundleError
from common.labels import Labels
from common.model_store import ModelStore
from common.schema import CORE_1
from tests.cli.models.adding import PLAIN, add, changed, line, served
from tests.cli.models.exports import Network, forest, sklearn_export, xgboost_export
from tests.server.bundles import Logistic, rows, write_bundle
from training.monitoring.bundles import BundleFolder
from training.problem.target import Target

pytestmark = pytest.mark.usefixtures("here")


def as_function(proto: onnx.ModelProto) -> None:
    """Puts the nodes into a function of the file, as torch's newer exporter does."""
    nodes = list(proto.graph.node)
    body = [*nodes[:-1], helper.make_node("Sigmoid", [nodes[-1].input[0]], ["result"])]
    function = helper.make_function(
        "pkg.torch", "mlp", ["x", "w1", "b1", "w2", "b2"], ["result"], body, [helper.make_opsetid("", 17)]
    )
    function.node[0].input[0] = "x"
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("pkg.torch", 1))
    del proto.graph.node[:]
    proto.graph.node.append(helper.make_node("mlp", ["input", "w1", "b1", "w2", "b2"], ["output"], domain="pkg.torch"))


def with_reserved_names(proto: onnx.ModelProto) -> None:
    """Calls inner tensors as the bundle calls its input and output."""
    text = {"/Relu_output_0": "features", "/Gemm_output_0": "probability", "w1": "volcast_wide"}
    for node in proto.graph.node:
        node.input[:] = [text.get(name, name) for name in node.input]
        node.output[:] = [text.get(name, name) for name in node.output]
    for constant in proto.graph.initializer:
        constant.name = text.get(constant.name, constant.name)


def with_the_bundles_own_names(proto: onnx.ModelProto) -> None:
    proto.CopyFrom(Network().proto(taken="features", given="probability"))


def with_constants_as_inputs(proto: onnx.ModelProto) -> None:
    """As files of IR version 3 and below have to."""
    proto.ir_version = 3
    for constant in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))


def without_shapes(proto: onnx.ModelProto) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.ClearField("shape")


def with_unused_domain(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("pkg.onnxscript.torch_lib", 1))


def with_flat_output(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axes"))
    proto.graph.node[-1].output[0] = "column"
    proto.graph.node.append(helper.make_node("Squeeze", ["column", "axes"], ["output"]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch"]))


def with_more_outputs(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Cast", ["/Relu_output_0"], ["hidden"], to=TensorProto.INT32))
    proto.graph.node.append(helper.make_node("Less", ["output", "b2"], ["is_calm"]))
    proto.graph.output.append(helper.make_tensor_value_info("hidden", TensorProto.INT32, ["batch", 8]))
    proto.graph.output.append(helper.make_tensor_value_info("is_calm", TensorProto.BOOL, ["batch", 1]))


def with_unused_input(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Neg", ["mask"], ["negative_mask"]))
    proto.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 3]))
    proto.graph.output.append(helper.make_tensor_value_info("negative_mask", TensorProto.INT64, ["batch", 3]))
    proto.graph.output[-1].type.tensor_type.elem_type = TensorProto.FLOAT


def with_newer_ir(proto: onnx.ModelProto) -> None:
    proto.ir_version = 99


def with_newest_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = onnx.defs.onnx_opset_version()


ADAPTED: dict[str, tuple[Network, Callable[[onnx.ModelProto], None]]] = {
    "batch of another name": (Network(rows="N"), lambda proto: None),
    "batch fixed to 1": (Network(rows=1), lambda proto: None),
    "batch fixed to 16": (Network(rows=16), lambda proto: None),
    "float64": (Network(element=TensorProto.DOUBLE), lambda proto: None),
    "two columns of Softmax": (Network(columns=2, last="Softmax"), lambda proto: None),
    "opset 11": (Network(opset=11), lambda proto: None),
    "opset 7": (Network(opset=7), lambda proto: None),
    "the newest opset of onnx": (PLAIN, with_newest_opset),
    "IR version too new": (PLAIN, with_newer_ir),
    "constants listed as inputs": (PLAIN, with_constants_as_inputs),
    "a function": (PLAIN, as_function),
    "reserved names inside": (PLAIN, with_reserved_names),
    "no shapes": (PLAIN, without_shapes),
    "an import that no node uses": (PLAIN, with_unused_domain),
    "an output of one dimension": (PLAIN, with_flat_output),
    "more outputs": (PLAIN, with_more_outputs),
    "names that the bundle has too": (PLAIN, with_the_bundles_own_names),
}


@pytest.mark.parametrize("case", ADAPTED)
def test_a_variant_is_adapted_and_answers_as_the_network(case: str) -> None:
    network, change = ADAPTED[case]
    assert add(changed(network, change)) == 0
    matrix = rows(40, 5)
    expected = network.probabilities(matrix, network.columns - 1)
    assert_allclose(served(matrix), expected, rtol=0, atol=1e-5)


def test_a_graph_that_fits_already_keeps_its_bytes_meaning() -> None:
    assert add(Logistic(2).graph()) == 0
    matrix = rows(9)
    assert_allclose(served(matrix), Logistic(2).predict(matrix), rtol=0, atol=1e-12)


def test_a_column_of_more_than_two_classes_is_chosen_by_number(capfd: pytest.CaptureFixture[str]) -> None:
    network = Network(columns=3, last="Softmax")
    assert add(network.proto()) == 1
    assert "output output has 3 columns: choose one with --output output:COLUMN" in line(capfd)
    assert add(network.proto(), "--output", "output:2") == 0
    matrix = rows(12)
    assert_allclose(served(matrix), network.probabilities(matrix, 2), rtol=0, atol=1e-5)


def test_a_class_is_chosen_by_its_label(capfd: pytest.CaptureFixture[str]) -> None:
    model, matrix = forest(("calm", "spike"))
    export = sklearn_export(model)
    assert add(export.model, "--output", "output_probability:calm") == 0
    assert "column 0 of 2 of output output_probability (class calm)" in capfd.readouterr().out
    assert_allclose(served(matrix[:20]), 1 - export.probabilities(matrix[:20]), rtol=0, atol=1e-6)


def test_zipmap_as_columns_needs_the_name_of_the_column(capfd: pytest.CaptureFixture[str]) -> None:
    export = sklearn_export(forest()[0], zipmap="columns")
    assert add(export.model) == 1
    assert "name the probability with --output NAME[:COLUMN]; outputs: output_label int64 [?], i0" in line(capfd)
    assert add(export.model, "--output", "i1") == 0
    matrix = rows(20)
    assert_allclose(served(matrix), export.probabilities(matrix), rtol=0, atol=1e-6)


def test_xgboost_is_adapted() -> None:
    export = xgboost_export()
    assert add(export.model) == 0
    matrix = rows(50)
    assert_allclose(served(matrix), export.probabilities(matrix), rtol=0, atol=1e-6)


def test_an_input_of_another_output_is_left_out() -> None:
    assert add(changed(PLAIN, with_unused_input), "--output", "output") == 0
    matrix = rows(10)
    assert_allclose(served(matrix), PLAIN.probabilities(matrix), rtol=0, atol=1e-5)


def test_a_branch_that_reads_outer_tensors_keeps_them() -> None:
    """An If whose branches read a tensor of the graph, with reserved names inside and outside."""
    proto = PLAIN.proto(given="net")
    empty = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["net"], ["branch"])], "then", [], [empty])
    other = helper.make_tensor_value_info("probability", TensorProto.FLOAT, None)
    negative = helper.make_graph([helper.make_node("Neg", ["net"], ["probability"])], "else", [], [other])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "features"))
    proto.graph.node.append(helper.make_node("If", ["features"], ["out"], then_branch=branch, else_branch=negative))
    proto.graph.output[0].name = "out"
    Path("model.onnx").write_bytes(proto.SerializeToString())
    source, _ = read_source(Path("model.onnx"))
    graph = adapt(source, plan(source, CORE_1), rows(8))
    assert_allclose(graph.probabilities, PLAIN.probabilities(rows(8)), rtol=0, atol=1e-5)


def test_an_output_may_have_a_colon_in_its_name() -> None:
    assert add(PLAIN.proto(given="Identity:0"), "--output", "Identity:0") == 0


def test_inputs_of_a_dataframe_are_taken_from_columns(capfd: pytest.CaptureFixture[str]) -> None:
    """As skl2onnx writes them: one input of [rows, 1] for each column, here a few of core/1 and out of order."""
    names, kinds = ("volatility", "spread_rel", "trade_intensity"), (TensorProto.FLOAT, TensorProto.DOUBLE)
    taken = [helper.make_tensor_value_info(name, kinds[index % 2], [None, 1]) for index, name in enumerate(names)]
    nodes = [helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.DOUBLE) for name in names]
    nodes += [
        helper.make_node("Concat", [f"{name}_wide" for name in names], ["all"], axis=1),
        helper.make_node("Gemm", ["all", "weights"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["output"]),
    ]
    weights = np.array([[900.0], [1e6], [-0.2]])
    graph = helper.make_graph(
        nodes, "frame", taken, [helper.make_tensor_value_info("output", TensorProto.DOUBLE, [None, 1])],
        [numpy_helper.from_array(weights, "weights")],
    )  # fmt: skip
    assert add(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)) == 0
    assert "features that the graph does not take: price, midprice, return_1s" in capfd.readouterr().out
    matrix = rows(30)
    logit = matrix[:, [CORE_1.names.index(name) for name in names]] @ weights
    assert_allclose(served(matrix), 1 / (1 + np.exp(-logit[:, 0])), rtol=0, atol=1e-6)


@pytest.mark.parametrize("element", [TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL])
def test_inputs_of_whole_numbers_are_fed_too(element: int) -> None:
    taken = [helper.make_tensor_value_info(name, element, ["n"]) for name in ("price", "trade_intensity")]
    nodes = [helper.make_node("Cast", [value.name], [f"{value.name}_f"], to=TensorProto.FLOAT) for value in taken]
    nodes += [
        helper.make_node("Sub", ["trade_intensity_f", "price_f"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes, "whole", taken, [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n"])]
    )
    assert add(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)) == 0


def test_external_data_is_embedded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proto = PLAIN.proto()
    external_data_helper.convert_model_to_external_data(proto, location="weights.bin", size_threshold=0)
    onnx.save(proto, str(tmp_path / "big.onnx"))
    assert run_command(["models", "add", "big.onnx", "--name", "mine"]) == 0
    assert "data of weights.bin embedded" in capfd.readouterr().out
    matrix = rows(10)
    assert_allclose(served(matrix), PLAIN.probabilities(matrix), rtol=0, atol=1e-5)


def test_the_first_version_answers_and_later_ones_have_no_label(capfd: pytest.CaptureFixture[str]) -> None:
    store = ModelStore(Path("models"), "mine")
    for number in (1, 2, 3):
        assert add(Network(seed=number).proto(), "--json") == 0
        report = json.loads(capfd.readouterr().out)
        assert report["version"] == str(number)
        assert report["label"] == ("stable" if number == 1 else "")
    assert store.labels() == Labels("1")


def test_a_version_of_another_model_is_not_touched(capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_bundle(Path("models"), version="7")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert add(PLAIN.proto(), name="volatility") == 0
    assert "added as volatility version 8" in capfd.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert ModelStore(Path("models"), "volatility").labels() == Labels("7")


def test_versions_without_an_order_need_a_label_first(capfd: pytest.CaptureFixture[str]) -> None:
    for version in ("calm", "wild"):
        write_bundle(Path("models"), "mine", version)
    assert add(PLAIN.proto()) == 2
    assert "model mine: its versions calm, wild have no order and there is no labels.json" in line(capfd)
    store = ModelStore(Path("models"), "mine")
    assert list(store.versions()) == ["calm", "wild"]
    store.write_labels(Labels("calm"))
    assert add(PLAIN.proto()) == 0
    assert store.labels() == Labels("calm")


@pytest.mark.parametrize(("versions", "following"), [(("9", "10"), "11"), (("v9", "v10"), "v11")])
def test_the_next_version_follows_the_newest(versions: tuple[str, ...], following: str) -> None:
    for version in versions:
        write_bundle(Path("models"), "mine", version)
    assert add(PLAIN.proto()) == 0
    store = ModelStore(Path("models"), "mine")
    assert list(store.versions()) == [*versions, following]
    assert store.labels() == Labels(versions[-1])


def test_the_same_file_again_is_the_same_version(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert add(PLAIN.proto()) == 0
    assert "is already mine version 1" in capfd.readouterr().out
    assert list(ModelStore(Path("models"), "mine").versions()) == ["1"]


def test_the_bundle_appears_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the load checks run no server sees a version, and a refusal leaves no file."""
    seen: list[Sequence[str]] = []

    def refuse(folder: Path, name: str, version: str) -> None:
        seen.append([path.name for path in folder.parent.iterdir() if not path.name.startswith(".")])
        assert read_bundle(folder)[0].version == version
        raise BundleError("refused by the server")

    monkeypatch.setattr(adding, "load_model", refuse)
    assert add(PLAIN.proto()) == 1
    assert seen == [[]]
    assert not Path("models").exists()


def test_the_manifest_tells_threshold_schema_and_self_test() -> None:
    assert add(PLAIN.proto(), "--threshold", "0.3") == 0
    manifest, model = read_bundle(Path("models/mine/1"))
    assert manifest.is_added
    assert (manifest.decision_threshold, manifest.schema.hash, manifest.opset) == (0.3, CORE_1.hash, 17)
    row = np.array([manifest.self_test.features])
    assert_allclose(served(row), [manifest.self_test.probability], rtol=0, atol=1e-9)
    assert onnx.load_from_string(model).graph.input[0].name == "features"


def test_other_outputs_and_their_nodes_are_left_out() -> None:
    assert add(changed(PLAIN, with_more_outputs)) == 0
    _, model = read_bundle(Path("models/mine/1"))
    graph = onnx.load_from_string(model).graph
    assert "Less" not in {node.op_type for node in graph.node}
    assert [value.name for value in graph.output] == ["probability"]


def test_the_report_names_every_change(capfd: pytest.CaptureFixture[str]) -> None:
    assert add(sklearn_export(forest()[0]).model) == 0
    text = capfd.readouterr().out
    for change in (
        "input X (float) fed from features (float64)",
        "output output_label left out",
        "probability is column 1 of 2 of output output_probability (class 1)",
    ):
        assert change in text


def test_what_needs_a_label_refuses_an_added_bundle(capfd: pytest.CaptureFixture[str]) -> None:
    assert add(PLAIN.proto()) == 0
    assert run_command(["evaluate", "--bundle", "models/mine/1"]) == 1
    reason = (
        "mine/1 was added from an ONNX file: it records no label and no training data, which volcast evaluate needs"
    )
    assert reason in line(capfd)
    with pytest.raises(BundleError, match="which volcast monitor needs"):
        BundleFolder(Path("models"), Target()).bundle("mine/1")


def test_the_list_shows_an_added_version_without_figures(capfd: pytest.CaptureFixture[str]) -> None:
    assert add(PLAIN.proto()) == 0
    capfd.readouterr()
    assert run_command(["models", "list", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["models"]
    assert (row["kind"], row["label"], row["error"]) == ("onnx", "stable", "")
    assert "trained_until" not in row
