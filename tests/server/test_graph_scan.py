from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from common.errors import BundleError
from server.core.graph_scan import scan_graph
from tests.server.bundles import Logistic


def external(name: str = "weights") -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret.bin"
    return tensor


def graph_with(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [], [tensor])


def in_initializer(tensor: TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph_with(tensor))


def in_constant(tensor: TensorProto) -> onnx.ModelProto:
    return with_node(helper.make_node("Constant", [], ["c"], value=tensor))


def in_tensor_list(tensor: TensorProto) -> onnx.ModelProto:
    return with_node(helper.make_node("Some", [], ["c"], values=[tensor]))


def in_branch(tensor: TensorProto) -> onnx.ModelProto:
    return with_node(helper.make_node("If", ["x"], ["y"], then_branch=graph_with(tensor)))


def in_graph_list(tensor: TensorProto) -> onnx.ModelProto:
    return with_node(helper.make_node("Some", ["x"], ["y"], bodies=[graph_with(tensor)]))


def in_nested_branches(tensor: TensorProto) -> onnx.ModelProto:
    graph = graph_with(tensor)
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=graph)], "outer", [], [])
    return helper.make_model(graph)


def in_sparse_values(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model


def in_sparse_indices(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.graph.sparse_initializer.add().indices.CopyFrom(tensor)
    return model


def in_sparse_attribute(tensor: TensorProto) -> onnx.ModelProto:
    model = with_node(helper.make_node("Constant", [], ["c"]))
    attribute = model.graph.node[0].attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.values.CopyFrom(tensor)
    return model


def in_sparse_attribute_list(tensor: TensorProto) -> onnx.ModelProto:
    model = with_node(helper.make_node("Constant", [], ["c"]))
    model.graph.node[0].attribute.add().sparse_tensors.add().values.CopyFrom(tensor)
    return model


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    function = helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 18)])
    return helper.make_model(helper.make_graph([], "g", [], []), functions=[function])


def in_function_default(tensor: TensorProto) -> onnx.ModelProto:
    function = helper.make_function("own", "f", [], [], [], [helper.make_opsetid("", 18)])
    function.attribute_proto.add().t.CopyFrom(tensor)
    return helper.make_model(helper.make_graph([], "g", [], []), functions=[function])


def in_training_start(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.training_info.add().initialization.CopyFrom(graph_with(tensor))
    return model


def in_training_step(tensor: TensorProto) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.training_info.add().algorithm.CopyFrom(graph_with(tensor))
    return model


def with_node(node: onnx.NodeProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([node], "g", [], []))


PLACES = [
    in_initializer, in_constant, in_tensor_list, in_branch, in_graph_list, in_nested_branches, in_sparse_values,
    in_sparse_indices, in_sparse_attribute, in_sparse_attribute_list, in_function, in_function_default,
    in_training_start, in_training_step,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_kept_in_another_file_is_found_wherever_a_tensor_can_be(
    place: Callable[[TensorProto], onnx.ModelProto],
) -> None:
    with pytest.raises(BundleError, match="keeps tensor 'weights' in another file"):
        scan_graph(place(external()).SerializeToString())


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_kept_inside_passes_wherever_it_is(place: Callable[[TensorProto], onnx.ModelProto]) -> None:
    scan_graph(place(numpy_helper.from_array(np.ones(3), "weights")).SerializeToString())


def test_a_tensor_that_names_a_file_is_refused_though_its_place_is_left_out() -> None:
    tensor = external()
    tensor.ClearField("data_location")
    with pytest.raises(BundleError, match="in another file"):
        scan_graph(in_initializer(tensor).SerializeToString())


def test_every_message_of_onnx_that_can_hold_a_tensor_is_entered() -> None:
    """The places above are all there are: reached from a model, by onnx's own descriptors."""
    reached = set()
    waiting = [("ModelProto", onnx.ModelProto.DESCRIPTOR)]
    seen = {"ModelProto"}
    while waiting:
        message, descriptor = waiting.pop()
        for field in descriptor.fields:
            inner = field.message_type
            if inner is None:
                continue
            if inner.name in {"TensorProto", "SparseTensorProto", "GraphProto", "NodeProto", "AttributeProto"} | {
                "FunctionProto",
                "TrainingInfoProto",
                "OperatorSetIdProto",
            }:
                reached.add((message, field.number, inner.name))
            if inner.name not in seen:
                seen.add(inner.name)
                waiting.append((inner.name, inner))
    from server.core.graph_scan import _INSIDE

    entered = {(message, number, inner) for message, fields in _INSIDE.items() for number, inner in fields.items()}
    # Opsets of functions are bound by those of the model, which ONNX Runtime checks.
    assert reached - entered == {("FunctionProto", 9, "OperatorSetIdProto")}
    assert entered <= reached


def overlong(value: int, length: int) -> bytes:
    """A varint of more bytes than it needs, which every protobuf parser takes."""
    groups = [(value >> (7 * index)) & 0x7F for index in range(length)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


@pytest.mark.parametrize("length", [1, 2, 5])
def test_an_unusual_spelling_of_the_wire_format_does_not_hide_it(length: int) -> None:
    tag = overlong(14 << 3, max(length, 1))
    tensor = tag + overlong(1, length)
    parsed = TensorProto.FromString(tensor)
    assert parsed.data_location == TensorProto.EXTERNAL
    graph = overlong(5 << 3 | 2, length) + overlong(len(tensor), length) + tensor
    model = overlong(7 << 3 | 2, length) + overlong(len(graph), length) + graph
    with pytest.raises(BundleError, match="in another file"):
        scan_graph(model)


def test_a_graph_in_two_parts_is_looked_at_in_both() -> None:
    """A parser merges a field that comes twice."""
    harmless = in_initializer(numpy_helper.from_array(np.ones(3), "a")).SerializeToString()
    with pytest.raises(BundleError, match="in another file"):
        scan_graph(in_initializer(external()).SerializeToString() + harmless)


def test_numbers_of_attributes_that_look_like_fields_are_stepped_over() -> None:
    looks = int.from_bytes(b"\x70\x01\x70\x01", "little")
    node = helper.make_node("Some", [], [], ints=[looks, 0x70, -1] * 50, floats=[1.5] * 50, strings=["p\x01"] * 9)
    assert scan_graph(with_node(node).SerializeToString()).own_domains == set()


def test_a_tensor_behind_long_runs_of_numbers_is_found() -> None:
    node = helper.make_node(
        "Some",
        [],
        [],
        a=[0.25] * 1000,
        b=list(range(-500, 500)),
        c="x",
        d=["LEAF", "BRANCH_LT", "x" * 40] * 900,
        t=external(),
    )
    with pytest.raises(BundleError, match="in another file"):
        scan_graph(with_node(node).SerializeToString())


def test_a_number_right_before_a_tensor_in_one_attribute_hides_nothing() -> None:
    model = with_node(helper.make_node("Some", [], []))
    attribute = model.graph.node[0].attribute.add()
    attribute.floats.extend([1.0, 2.0])
    attribute.ints.extend([-1, 300])
    attribute.tensors.append(external())
    with pytest.raises(BundleError, match="in another file"):
        scan_graph(model.SerializeToString())


def test_opsets_are_those_the_graph_declares() -> None:
    model = Logistic(1).graph()
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    assert scan_graph(model.SerializeToString()).opsets == {"": 18, "ai.onnx.ml": 3}


def test_the_long_name_of_the_standard_domain_is_the_same_domain() -> None:
    model = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("ai.onnx", 19)])
    assert scan_graph(model.SerializeToString()).opsets == {"": 19}


def test_operators_of_somebodys_own_library_are_refused_by_their_domain() -> None:
    model = Logistic(1).graph()
    model.opset_import.append(helper.make_opsetid("my.kernels", 1))
    with pytest.raises(BundleError, match=r"custom operators \(domain 'my.kernels'\)"):
        scan_graph(model.SerializeToString())


def test_functions_that_the_file_defines_itself_are_no_library() -> None:
    model = in_function(numpy_helper.from_array(np.ones(3), "a"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert scan_graph(model.SerializeToString()).own_domains == {"own"}


@pytest.mark.parametrize(
    "data",
    [
        b"not a model",
        b"\x3a\xff\x01",
        b"\x3b",
        b"\x80" * 20,
        b"\x00\x00",
        b"\x38\x01",
        b"\x08" + b"\x80" * 10 + b"\x01",
    ],
)
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx is no ONNX file"):
        scan_graph(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_scanned_or_refused(data: bytes) -> None:
    with suppress(BundleError):
        scan_graph(data)


WHOLE = in_branch(external()).SerializeToString()


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_file_that_a_parser_still_takes_never_hides_a_tensor_outside(at: int, byte: int) -> None:
    """Any one byte changed: where onnx's parser still finds the tensor outside, so does the scan."""
    data = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:
        return
    outside = any(
        tensor.data_location == TensorProto.EXTERNAL or tensor.external_data
        for node in model.graph.node
        for attribute in node.attribute
        for tensor in attribute.g.initializer
    )
    if outside:
        with pytest.raises(BundleError):
            scan_graph(data)
