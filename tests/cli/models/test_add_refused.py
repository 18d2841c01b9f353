"""`volcast models add`: files, options and names that are refused, each with its reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cli.main import run_command
from tests.cli.models.adding import PLAIN, add, changed, line
from tests.server.bundles import WIDTH
from tests.server.forecasts import Forecaster

pytestmark = pytest.mark.usefixtures("here")


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
        (("--schema", "core/9"), 2, "--schema: expected core/1 or full/1 or full/2, got 'core/9'"),
        (("--schema", "full/1"), 1, "takes 11 features, schema full/1 has 27"),
        (("--schema", "full/2"), 1, "takes 11 features, schema full/2 has 38"),
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


def test_the_graph_of_a_forecast_model_is_refused_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    assert add(Forecaster().graph()) == 1
    assert "inputs features, levels, spike_bps: the graph of a forecast model; its manifest must" in line(capfd)


def test_inputs_that_are_no_features_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    taken = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("age", "price")]
    nodes = [helper.make_node("Sub", ["age", "price"], ["logit"]), helper.make_node("Sigmoid", ["logit"], ["output"])]
    graph = helper.make_graph(
        nodes, "frame", taken, [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, 1])]
    )
    assert add(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)) == 1
    assert "inputs age are no features of schema core/1; name your own with --features FILE" in line(capfd)


def test_a_refusal_leaves_the_folder_of_a_model_as_it_was() -> None:
    assert add(PLAIN.proto()) == 0
    before = sorted(Path("models").rglob("*"))
    assert add(changed(PLAIN, REFUSED["logits"][0])) == 1
    assert sorted(Path("models").rglob("*")) == before
    assert [path.name for path in Path("models/mine").iterdir()] == ["1"]
