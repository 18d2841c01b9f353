"""An ONNX file as somebody exported it, made self-contained: one graph, no other files, known opsets."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import external_data_helper, inliner, version_converter

from common.bundle import MAX_MODEL_BYTES
from common.errors import BundleError, InputError
from server.core.graph_scan import scan_graph

MIN_IR_VERSION = 8  # from 4 on, constants need not be inputs
DEFAULT_OPSET = 18  # for a graph of machine-learning operators only, which imports no other
MAX_REASON = 400  # characters of ONNX Runtime's text
_MAX_IR = re.compile(r"max supported IR version: (\d+)")
_MAX_OPSET = re.compile(r"official support for domain \S+ is till opset (\d+)")


def read_source(path: Path) -> tuple[Any, list[str]]:
    """The ModelProto and a line for each change. Raises InputError or BundleError."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # reading a pipe would wait for its writer
            raise InputError(f"{path}: is no plain file")
        if state.st_size > MAX_MODEL_BYTES:
            raise InputError(f"{path}: expected at most {MAX_MODEL_BYTES} bytes, got {state.st_size}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    model = parse(data, str(path))
    changes = _embed_external_data(model, path)
    try:
        return model, changes + _simplify(model)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None


def source_of(model: bytes) -> tuple[Any, list[str]]:
    """As `read_source`, of a graph in memory. Raises BundleError."""
    proto = parse(model, "graph")
    return proto, _simplify(proto)


def parse(data: bytes, source: str) -> Any:
    """The ModelProto. Raises BundleError if the bytes are no ONNX."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's DecodeError, whose module differs between its implementations
        raise BundleError(f"{source}: is no ONNX file") from None
    if not (model.graph.node and model.graph.output):
        raise BundleError(f"{source}: is no ONNX file, or holds an empty graph")
    return model


def load(model: Any) -> onnxruntime.InferenceSession:
    """A session on one thread. Raises BundleError with the runtime's reason."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise BundleError(f"ONNX Runtime cannot load the graph: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """The runtime's reason without its prefix and C++ locations."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    text = re.sub(r"/\S+?\.(?:cc|h):\d+ .*?\) (?=[A-Z])", "", text)
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON // 2]} … {text[-MAX_REASON // 2 :]}"


def _simplify(model: Any) -> list[str]:
    """Changes the model in place; returns a line for each change. Raises BundleError."""
    changes = []
    if model.functions:
        count = len(model.functions)
        model.CopyFrom(_inlined(model))
        changes.append(f"{count} function{'s' if count > 1 else ''} inlined")
    model.ClearField("training_info")
    _drop_unused_domains(model)
    scan_graph(model.SerializeToString())
    return changes + _fit_runtime(model)


def _inlined(model: Any) -> Any:
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # whatever a broken function makes the inliner raise
        raise BundleError(f"its functions cannot be inlined: {one_line(error)}") from None


def _drop_unused_domains(model: Any) -> None:
    """Exporters import domains that no node uses; every import has to be one that the server knows."""
    used = {_domain(node.domain) for node in _messages(model.graph, onnx.NodeProto)}
    kept = {_domain(opset.domain): opset.version for opset in model.opset_import if _domain(opset.domain) in used}
    kept.setdefault("", _imported(model, "") or DEFAULT_OPSET)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in kept.items())


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _imported(model: Any, domain: str) -> int:
    return max((opset.version for opset in model.opset_import if _domain(opset.domain) == domain), default=0)


def _fit_runtime(model: Any) -> list[str]:
    """Lowers versions that ONNX Runtime does not know yet, and raises those that it has dropped."""
    changes = []
    if model.ir_version < MIN_IR_VERSION:
        model.ir_version = MIN_IR_VERSION
    try:
        load(model)
    except BundleError as error:
        newest_ir = _MAX_IR.search(str(error))
        if newest_ir is not None and model.ir_version > int(newest_ir[1]):
            changes.append(f"IR version {model.ir_version} lowered to {newest_ir[1]}")
            model.ir_version = int(newest_ir[1])
            return changes + _fit_runtime(model)
        opset, newest = _imported(model, ""), _MAX_OPSET.search(str(error))
        target = int(newest[1]) if newest else DEFAULT_OPSET
        if not (newest or "Could not find an implementation" in str(error)) or opset == target:
            raise
        reason = f"ONNX Runtime takes opsets up to {target}, the graph uses {opset}" if newest else str(error)
        model.CopyFrom(_converted(model, target, reason))
        changes.append(f"opset {opset} converted to {target}")
        load(model)
    return changes


def _converted(model: Any, target: int, reason: str) -> Any:
    try:
        return version_converter.convert_version(model, target)
    except Exception:  # whatever the converter raises on an operator without an adapter
        raise BundleError(f"{reason}; it cannot be converted to opset {target}: export it with that opset") from None


def _embed_external_data(model: Any, path: Path) -> list[str]:
    """Reads tensors that lie in files beside the graph into it. Raises BundleError."""
    outside = [tensor for tensor in _messages(model, onnx.TensorProto) if tensor.external_data or tensor.data_location]
    if not outside:
        return []
    locations = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    try:
        size = sum((path.parent / location).stat().st_size for location in locations)
        if size > MAX_MODEL_BYTES:
            raise BundleError(f"{path}: its external data has {size} bytes, at most {MAX_MODEL_BYTES} fit in a bundle")
        for tensor in outside:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    except BundleError:
        raise
    except Exception as error:  # a missing file, one outside the folder, or a tensor that is longer than its file
        named = ", ".join(sorted(locations)) or "none named"
        raise BundleError(f"{path}: its external data ({named}) cannot be read: {one_line(error)}") from None
    return [f"data of {', '.join(sorted(locations))} embedded"]


def _messages(message: Any, kind: Any) -> Iterator[Any]:
    """Every message of that kind anywhere inside."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if _is_repeated(value) else (value,):
            if isinstance(part, kind):
                yield part
            yield from _messages(part, kind)


def _is_repeated(value: Any) -> bool:
    return not hasattr(value, "ListFields")
