"""`volcast models add`: variants of files that are adapted, files that are refused with a reason, and the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
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
from common.schema import CORE_1, SCHEMAS, FeatureSchema
from server.core.bundles import load_model
from tests.cli.models.exports import Matrix, Network, forest, sklearn_export, training_data, xgboost_export
from tests.server.bundles import WIDTH, Logistic, rows, write_bundle
from training.monitoring.bundles import BundleFolder

Volcast = Callable[..., int]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def add(model: onnx.ModelProto | bytes, *options: str, name: str = "mine") -> int:
    Path("model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return run_command(["models", "add", "model.onnx", f"--name={name}", *options])


def served(matrix: Matrix, name: str = "mine", version: str = "1") -> Matrix:
    """What a server would answer."""
    model = load_model(Path("models") / name / version, name, version)
    return np.asarray(model.predictor.predict(matrix))


def line(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    text = capfd.readouterr().err
    assert text.count("\n") == 1, text
    return text


def changed(network: Network, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    proto: onnx.ModelProto = network.proto()
    change(proto)
    return proto


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


PLAIN = Network()
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


@pytest.mark.parametrize("location", ["gone.bin", "../outside.bin", "/etc/hostname"])
def test_external_data_that_is_missing_or_elsewhere_is_refused(
    location: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path.parent / "outside.bin").write_bytes(bytes(4096))
    proto = PLAIN.proto()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(WIDTH * 8 * 4))
    assert add(proto) == 1
    assert f"its external data ({location}) cannot be read" in line(capfd)
    assert not Path("models/mine/1").exists()


def logits(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].CopyFrom(helper.make_node("Identity", ["/Gemm_1_output_0"], ["output"]))


def labels_only(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Cast", ["output"], ["label"], to=TensorProto.INT64))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch", 1]))


def fixed_inside(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, WIDTH], np.int64), "one_row"))
    proto.graph.node.insert(0, helper.make_node("Reshape", ["input", "one_row"], ["shaped"]))
    proto.graph.node[1].input[0] = "shaped"


def custom_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].domain = "com.mycompany"
    proto.opset_import.append(helper.make_opsetid("com.mycompany", 1))


def opset_of_the_future(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 99


def duplicated_tensor(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Sigmoid", ["/Gemm_1_output_0"], ["/Relu_output_0"]))


def before_it_all(proto: onnx.ModelProto, value: Any, *nodes: Any) -> None:
    """Another input, and nodes that make the network's own input of it."""
    proto.graph.node[0].input[0] = "own"
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    proto.graph.input[0].CopyFrom(value)


def three_dimensions(proto: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", WIDTH, 1])
    before_it_all(proto, value, helper.make_node("Flatten", ["input"], ["own"]))


def text_input(proto: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info("input", TensorProto.STRING, ["batch", WIDTH])
    before_it_all(proto, value, helper.make_node("Cast", ["input"], ["own"], to=TensorProto.FLOAT))


def sequence_input(proto: onnx.ModelProto) -> None:
    value = helper.make_tensor_sequence_value_info("input", TensorProto.FLOAT, [None, WIDTH])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    before_it_all(proto, value, helper.make_node("SequenceAt", ["input", "first"], ["own"]))


def no_number(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].CopyFrom(helper.make_node("Div", ["zero", "zero"], ["output"]))
    proto.graph.node.insert(0, helper.make_node("Sub", ["input", "input"], ["zero"]))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = WIDTH


def over_all_rows(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].output[0] = "each"
    proto.graph.node.append(helper.make_node("ReduceMean", ["each"], ["output"], axes=[0], keepdims=1))


REFUSED: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "logits": (logits, "expected probabilities in [0, 1], got "),
    "labels only": (labels_only, "no output can be a probability; outputs: label int64 [batch, 1]"),
    "batch fixed inside": (fixed_inside, "export it with a free batch axis"),
    "opset of the future": (opset_of_the_future, ", the graph uses 99; it cannot be converted"),
    "custom operator": (custom_operator, "custom operators (domain 'com.mycompany')"),
    "a tensor that two nodes make": (duplicated_tensor, "ONNX Runtime cannot load the graph"),
    "three dimensions": (three_dimensions, "input input: expected [rows, features], got float [batch, 11, 1]"),
    "text": (text_input, "input input: expected numbers, got string [batch, 11]"),
    "a sequence": (sequence_input, "input input: expected a tensor, got sequence"),
    "no number": (no_number, "11 columns"),
    "one value for all rows": (over_all_rows, "expected [rows], [rows, 1] or [rows, classes], got [1, 1] for"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_served_is_refused_with_its_reason(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    change, reason = REFUSED[case]
    assert add(changed(PLAIN, change)) == 1
    text = line(capfd)
    assert text.startswith("volcast: model.onnx: ")
    assert reason in text
    assert not Path("models/mine/1").exists()


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x07", b'{"a": 1}', b"ORTM" + bytes(64), bytes(range(256))])
def test_a_file_that_is_no_onnx_is_refused(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    assert add(data) == 1
    assert "model.onnx: is no ONNX file" in line(capfd)


def test_a_file_that_is_not_there_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models", "add", "gone.onnx", "--name", "mine"]) == 1
    assert "gone.onnx: cannot be read: No such file or directory" in line(capfd)
    os.mkfifo("pipe.onnx")
    assert run_command(["models", "add", "pipe.onnx", "--name", "mine"]) == 1
    assert "pipe.onnx: is no plain file" in line(capfd)
    Path("folder.onnx").mkdir()
    assert run_command(["models", "add", "folder.onnx", "--name", "mine"]) == 2


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--schema", "core/9"), 2, "--schema: expected core/1 or full/1, got 'core/9'"),
        (("--schema", "full/1"), 1, "takes 11 features, schema full/1 has 27"),
        (("--schema", "core/1", "--features", "f.json"), 2, "--schema and --features: choose one"),
        (("--features", "gone.json"), 1, "features file gone.json: cannot be read"),
        (("--output", "moon"), 2, "--output: no output 'moon'; outputs: output float [batch, 1]"),
        (("--output", "output:5"), 2, "--output: COLUMN: expected 0 to 0, got 5"),
        (("--output", "output:" + "9" * 5000), 2, "--output: COLUMN: expected a number from 0, got '999"),
        (("--output", "output:spike"), 2, "--output: COLUMN: expected a number from 0, got 'spike'"),
        (("--threshold", "1.5"), 2, "'--threshold': expected 0 to 1, got 1.5"),
        (("--threshold", "nan"), 2, "'--threshold': expected 0 to 1, got nan"),
        (("--threshold", "inf"), 2, "'--threshold': expected 0 to 1, got inf"),
        (("--threshold", "half"), 2, "'--threshold': expected 0 to 1, got half"),
    ],
)
def test_a_wrong_option_is_named(
    options: tuple[str, ...], code: int, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert add(PLAIN.proto(), *options) == code
    assert reason in line(capfd)


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/b", "é", "x" * 129, ".", "-x", "_x", "x\n"])
def test_a_name_that_no_server_takes_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert add(PLAIN.proto(), name=name) == 2
    assert "NAME: expected letters, digits, - and _" in line(capfd)
    assert not Path("models").exists()


def test_inputs_that_are_no_features_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    taken = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("age", "price")]
    nodes = [helper.make_node("Sub", ["age", "price"], ["logit"]), helper.make_node("Sigmoid", ["logit"], ["output"])]
    graph = helper.make_graph(
        nodes, "frame", taken, [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, 1])]
    )
    assert add(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)) == 1
    assert "inputs age are no features of schema core/1; name your own with --features FILE" in line(capfd)


# The models folder


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


def test_a_refusal_leaves_the_folder_of_a_model_as_it_was() -> None:
    assert add(PLAIN.proto()) == 0
    before = sorted(Path("models").rglob("*"))
    assert add(changed(PLAIN, REFUSED["logits"][0])) == 1
    assert sorted(Path("models").rglob("*")) == before
    assert [path.name for path in Path("models/mine").iterdir()] == ["1"]


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


# Features of one's own


def write_features(content: Any) -> str:
    Path("features.json").write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    return "features.json"


def test_own_features_make_a_schema_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    network = Network(width=3)
    entries = ["depth", {"name": "spread", "unit": "quote", "example": 0.01}, {"name": "age"}]
    assert add(network.proto(), "--features", write_features({"name": "book/1", "features": entries})) == 0
    manifest, _ = read_bundle(Path("models/mine/1"))
    assert [(feature.name, feature.unit) for feature in manifest.schema.features] == [
        ("depth", "1"),
        ("spread", "quote"),
        ("age", "1"),
    ]
    assert manifest.schema.name == "book/1"
    assert manifest.self_test.features == (1.0, 0.01, 1.0)
    matrix = training_data(3)[0][:20]
    assert_allclose(served(matrix), network.probabilities(matrix), rtol=0, atol=1e-5)


def test_a_list_of_names_is_enough() -> None:
    assert add(Network(width=2).proto(), "--features", write_features(["a", "b"])) == 0
    assert read_bundle(Path("models/mine/1"))[0].schema.name == "mine/1"


@pytest.mark.parametrize("name", ["core", "full"])
def test_a_model_name_does_not_make_a_second_schema_of_a_built_in_name(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert add(Network(width=2).proto(), "--features", write_features(["a", "b"]), name=name) == 1
    assert f"name: '{name}/1' is the schema of" in line(capfd)
    own = {"name": "own/1", "features": ["a", "b"]}
    assert add(Network(width=2).proto(), "--features", write_features(own), name=name) == 0


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=str)
@pytest.mark.parametrize("with_units", [False, True])
def test_a_built_in_schema_may_be_spelt_out(schema: FeatureSchema, with_units: bool) -> None:
    entries: list[Any] = [{"name": feature.name, "unit": feature.unit} for feature in schema.features]
    content = {"name": schema.name, "features": entries if with_units else list(schema.names)}
    assert add(Network(width=len(schema)).proto(), "--features", write_features(content)) == 0
    stored = read_bundle(Path("models/mine/1"))[0].schema
    assert (stored.name, stored.hash) == (schema.name, schema.hash)


def test_float16_is_adapted() -> None:
    network = Network(width=3, element=TensorProto.FLOAT16)
    assert add(network.proto(), "--features", write_features(["a", "b", "c"])) == 0
    matrix = training_data(3)[0][:20]
    assert_allclose(served(matrix), network.probabilities(matrix), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "features.json: "),
        (b"\xff", "features.json: "),
        (["a"], "takes 2 features, schema mine/1 has 1"),
        (["a", "a"], "features[1]: 'a' is features[0] already"),
        (["a", ""], "features[1]: expected a name of 1 to 128 printable characters"),
        (["a", " b"], "features[1]: expected a name"),
        (["a", "b\n"], "features[1]: expected a name"),
        (["a", "x" * 129], "features[1]: expected a name"),
        (["a", "features"], "features[1]: 'features' is the name of the whole matrix"),
        ([], "expected 1 to 4096 features, got 0"),
        (["a"] * 5000, "expected 1 to 4096 features, got 5000"),
        ([1, 2], "features.json: Expected"),
        ({"a": "b"}, "features.json: "),
        ({"features": [{"name": "a", "units": "1"}, "b"]}, "units"),
        (None, "features.json: Expected"),
        ({"name": "core/1", "features": ["a", "b"]}, "name: 'core/1' is the schema of 11 other features"),
        ({"name": "full/1", "features": ["a", "b"]}, "name: 'full/1' is the schema of 27 other features"),
        ({"name": "core/1", "features": [*CORE_1.names][::-1]}, "name: 'core/1' is the schema of 11 other features"),
        ({"name": "full/1", "features": [*CORE_1.names]}, "name: 'full/1' is the schema of 27 other features"),
        (
            {"name": "core/1", "features": [{"name": name, "unit": "m"} for name in CORE_1.names]},
            "name: 'core/1' is the schema of 11 other features",
        ),
    ],
)
def test_a_features_file_that_is_wrong_is_refused(content: Any, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert add(Network(width=2).proto(), "--features", write_features(content)) == 1
    text = line(capfd)
    assert reason in text
    assert not Path("models/mine/1").exists()


def test_what_needs_a_label_refuses_an_added_bundle(capfd: pytest.CaptureFixture[str]) -> None:
    assert add(PLAIN.proto()) == 0
    assert run_command(["evaluate", "--bundle", "models/mine/1"]) == 1
    reason = (
        "mine/1 was added from an ONNX file: it records no label and no training data, which volcast evaluate needs"
    )
    assert reason in line(capfd)
    with pytest.raises(BundleError, match="which volcast monitor needs"):
        BundleFolder(Path("models"), 60.0).bundle("mine/1")


def test_the_list_shows_an_added_version_without_figures(capfd: pytest.CaptureFixture[str]) -> None:
    assert add(PLAIN.proto()) == 0
    capfd.readouterr()
    assert run_command(["models", "list", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["models"]
    assert (row["kind"], row["label"], row["error"]) == ("onnx", "stable", "")
    assert "trained_until" not in row
