from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from common import bundle
from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest
from common.errors import BundleError
from server.core.bundles import fingerprint, load_model, scan_folder
from server.core.models import Repository
from server.core.requests import Selection
from tests.server.bundles import WIDTH, Logistic, write_bundle


def refused(folder: Path) -> str:
    with pytest.raises(BundleError) as raised:
        load_model(folder, "volatility", "1")
    return str(raised.value)


def opset(version: int) -> onnx.ModelProto:
    model = Logistic(1).graph()
    model.opset_import[0].version = version
    return model


def says(**fields: Any) -> Callable[[Manifest], Manifest]:
    return lambda manifest: msgspec.structs.replace(manifest, **fields)


def test_an_opset_that_onnx_runtime_does_not_know_is_said_with_the_one_it_takes(tmp_path: Path) -> None:
    reason = refused(write_bundle(tmp_path, graph=opset(99), change=says(opset=99)))
    assert re.search(r"opset: ONNX Runtime [\d.]+ takes \S+ up to \d\d, model\.onnx is newer", reason)


def test_an_opset_other_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    assert "opset: the manifest has 18, model.onnx uses 17" in refused(write_bundle(tmp_path, graph=opset(17)))


def test_tensors_in_another_file_are_refused_though_onnx_runtime_would_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded from bytes, it looks for them in the working directory."""
    model = Logistic(1).graph()
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    assert "keeps tensor 'weights' in another file" in refused(write_bundle(tmp_path, graph=model))


def test_operators_of_a_library_are_refused(tmp_path: Path) -> None:
    model = Logistic(1).graph()
    model.graph.node[-1].domain = "my.kernels"
    model.opset_import.append(helper.make_opsetid("my.kernels", 1))
    assert "custom operators (domain 'my.kernels')" in refused(write_bundle(tmp_path, graph=model))


def test_a_file_in_onnx_runtimes_own_format_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    data = b"\x18\x00\x00\x00ORTM" + bytes(64)
    (folder / MODEL_FILE).write_bytes(data)
    path = folder / MANIFEST_FILE
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    path.write_bytes(msgspec.json.encode(says(model_sha256=hashlib.sha256(data).hexdigest())(manifest)))
    assert "is no ONNX file" in refused(folder)


def mixing(nodes: list[onnx.NodeProto], **constants: list[int]) -> onnx.ModelProto:
    """Logistic regression, right for one row, whose answer "alone" goes on through `nodes`."""
    model = Logistic(1).graph()
    model.graph.node[-1].output[0] = "alone"
    model.graph.node.extend(nodes)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return model


# The constant 1, computed so that ONNX Runtime cannot fold it and detect the fault by itself.
CONSTANT_ONE = [
    helper.make_node("ReduceSum", ["alone"], ["all"], keepdims=0),
    helper.make_node("Ceil", ["all"], ["up"]),
    helper.make_node("Min", ["up", "up"], ["low"]),
    helper.make_node("Div", ["low", "up"], ["unit"]),
    helper.make_node("Cast", ["unit"], ["whole"], to=TensorProto.INT64),
]


def test_a_graph_that_mixes_the_rows_of_a_batch_is_refused(tmp_path: Path) -> None:
    spread = helper.make_node("ReduceSum", ["alone", "axis"], ["sum"], keepdims=1)
    ends = helper.make_node("Max", ["alone", "sum"], ["probability"])
    graph = mixing([spread, ends], axis=[0])
    assert "off when it is one of 2" in refused(write_bundle(tmp_path, graph=graph))


def test_a_graph_that_takes_one_row_only_is_refused_with_the_number_it_failed_on(tmp_path: Path) -> None:
    shape = helper.make_node("Mul", ["whole", "ones"], ["shape"])
    graph = mixing(
        [*CONSTANT_ONE, shape, helper.make_node("Reshape", ["alone", "shape"], ["probability"])], ones=[1, 1]
    )
    assert "cannot be run on 2 rows" in refused(write_bundle(tmp_path, graph=graph))


def test_the_numbers_of_onnx_runtimes_error_are_kept(tmp_path: Path) -> None:
    """They come last, after a place in its source and a signature."""
    shape = helper.make_node("Mul", ["whole", "ones"], ["shape"])
    graph = mixing(
        [*CONSTANT_ONE, shape, helper.make_node("Reshape", ["alone", "shape"], ["probability"])], ones=[1, 1]
    )
    reason = refused(write_bundle(tmp_path, graph=graph))
    assert "Input shape:{2,1}, requested shape:{1,1}" in reason
    assert "onnxruntime_src" not in reason


@pytest.mark.parametrize(("offset", "value"), [(-1.5, "-"), (6.5, "6.")])
def test_a_self_test_outside_0_to_1_is_refused_with_the_value(tmp_path: Path, offset: float, value: str) -> None:
    graph = mixing([helper.make_node("Add", ["alone", "offset"], ["probability"])])
    graph.graph.initializer.append(numpy_helper.from_array(np.array(offset), "offset"))
    assert f"self-test: expected a probability in [0, 1], got {value}" in refused(write_bundle(tmp_path, graph=graph))


def test_a_graph_that_answers_for_one_row_of_several_is_refused(tmp_path: Path) -> None:
    end = helper.make_node("Mul", ["whole", "ones"], ["end"])
    first = helper.make_node("Slice", ["alone", "start", "end"], ["probability"])
    graph = mixing([*CONSTANT_ONE, end, first], ones=[1], start=[0])
    assert "expected 2 probabilities for 2 rows, got 1" in refused(write_bundle(tmp_path, graph=graph))


def test_a_self_test_of_another_model_is_refused_even_by_a_little(tmp_path: Path) -> None:
    def shifted(manifest: Manifest) -> Manifest:
        test = manifest.self_test
        return msgspec.structs.replace(
            manifest, self_test=msgspec.structs.replace(test, probability=test.probability + 2e-6)
        )

    assert "self-test: expected probability" in refused(write_bundle(tmp_path, change=shifted))


def linked(what: str) -> Callable[[Path, Path], None]:
    def put(folder: Path, outside: Path) -> None:
        target = folder / what if what else folder
        elsewhere = outside / (what or "1")
        shutil.move(target, elsewhere)
        target.symlink_to(elsewhere)

    return put


def fifo(what: str) -> Callable[[Path, Path], None]:
    def put(folder: Path, outside: Path) -> None:
        (folder / what).unlink()
        os.mkfifo(folder / what)

    return put


def to_itself(folder: Path, outside: Path) -> None:
    (folder / MODEL_FILE).unlink()
    (folder / MODEL_FILE).symlink_to(folder / MODEL_FILE)


def is_a_folder(folder: Path, outside: Path) -> None:
    (folder / MODEL_FILE).unlink()
    (folder / MODEL_FILE).mkdir()


def deep_json(folder: Path, outside: Path) -> None:
    (folder / MANIFEST_FILE).write_bytes(b'{"x":' + b"[" * 100_000)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (linked(MODEL_FILE), "model.onnx is a link that leads outside its folder"),
        (linked(MANIFEST_FILE), "manifest.json is a link that leads outside its folder"),
        (linked(""), "the folder is a link that leads outside the models folder"),
        (fifo(MODEL_FILE), "model.onnx is no plain file"),
        (fifo(MANIFEST_FILE), "manifest.json is no plain file"),
        (to_itself, "model.onnx cannot be read: "),
        (is_a_folder, "model.onnx cannot be read: Is a directory"),
        (deep_json, "manifest.json: "),
    ],
)
def test_a_bundle_that_reaches_outside_or_is_no_plain_files_is_refused_and_the_other_serves(
    tmp_path: Path, change: Callable[[Path, Path], None], reason: str
) -> None:
    models, outside = tmp_path / "models", tmp_path / "outside"
    outside.mkdir()
    write_bundle(models)
    change(write_bundle(models, version="2"), outside)
    repository = Repository("volatility")
    (failure,) = repository.load(models).failures
    assert reason in failure.reason
    assert (failure.name, failure.version) == ("volatility", "2")
    assert repository.resolve(Selection()).version == "1"


def test_a_name_that_leads_outside_is_not_even_listed(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_bundle(models)
    write_bundle(tmp_path / "outside", "jumps")
    (models / "jumps").symlink_to(tmp_path / "outside" / "jumps")
    repository = Repository("volatility")
    (failure,) = repository.load(models).failures
    assert (failure.name, failure.version) == ("jumps", "")
    assert "leads outside the models folder" in failure.reason
    assert list(repository.snapshot.models) == [("volatility", "1")]


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    """A mounted volume is made of them: model.onnx -> ..data/model.onnx; and so is a folder that is switched."""
    models = tmp_path / "releases" / "7"
    folder = write_bundle(models)
    (folder / "..data").mkdir()
    for name in (MODEL_FILE, MANIFEST_FILE):
        shutil.move(folder / name, folder / "..data" / name)
        (folder / name).symlink_to(Path("..data") / name)
    (tmp_path / "models").symlink_to(models)
    repository = Repository("volatility")
    assert repository.load(tmp_path / "models").failures == ()
    assert repository.resolve(Selection()).version == "1"


@pytest.mark.parametrize(("limit", "file"), [("MAX_MODEL_BYTES", MODEL_FILE), ("MAX_MANIFEST_BYTES", MANIFEST_FILE)])
def test_a_file_over_its_limit_is_refused_and_one_at_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, file: str
) -> None:
    folder = write_bundle(tmp_path)
    size = (folder / file).stat().st_size
    monkeypatch.setattr(bundle, limit, size)
    load_model(folder, "volatility", "1")
    monkeypatch.setattr(bundle, limit, size - 1)
    assert f"{file}: expected at most {size - 1} bytes" in refused(folder)


@pytest.mark.parametrize("named", [{"name": "../volatility"}, {"version": "../1"}, {"name": "/etc"}, {"version": "/1"}])
def test_a_manifest_that_names_another_place_is_refused(tmp_path: Path, named: dict[str, str]) -> None:
    assert "the folder volatility/1" in refused(write_bundle(tmp_path, change=says(**named)))


@pytest.mark.parametrize("name", ["läufe", "a\nb", "x" * 129, os.fsdecode(b"\xff\xfe")])
def test_a_folder_with_a_name_that_no_answer_could_carry_is_refused_by_it(tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path)
    for folder in (tmp_path / name / "1", tmp_path / "volatility" / name):
        folder.mkdir(parents=True)
        (folder / MANIFEST_FILE).touch()
    failures = scan_folder(tmp_path).failures
    assert {(failure.name, failure.version) for failure in failures} == {
        (ascii(name)[1:-1], ""),
        ("volatility", ascii(name)[1:-1]),
    }
    assert all("printable ASCII" in failure.reason for failure in failures)


def test_the_disks_own_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "lost+found" / "#7").mkdir(parents=True)
    write_bundle(tmp_path)
    assert list(scan_folder(tmp_path).bundles) == [("volatility", "1")]


def test_folders_without_a_bundle_file_are_ignored(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    for folder in ("__pycache__", "volatility/__pycache__", "volatility/empty", "l\u00e4ufe/1", "notes/1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "__pycache__" / "load.cpython-311.pyc").touch()
    (tmp_path / "volatility" / "__pycache__" / "load.cpython-311.pyc").touch()
    repository = Repository("volatility")
    assert repository.load(tmp_path).failures == ()
    assert list(repository.snapshot.models) == [("volatility", "1")]


@pytest.mark.parametrize("file", [MODEL_FILE, MANIFEST_FILE])
def test_a_folder_with_half_a_bundle_is_refused_by_the_missing_file(tmp_path: Path, file: str) -> None:
    folder = write_bundle(tmp_path)
    (folder / file).unlink()
    (failure,) = Repository("volatility").load(tmp_path).failures
    assert f"{file} cannot be read: No such file" in failure.reason


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda models: touch(models / "volatility" / "1" / MODEL_FILE),
        lambda models: touch(models / "volatility" / "1" / MANIFEST_FILE),
        lambda models: (models / "volatility" / "1" / MODEL_FILE).unlink(),
        lambda models: (models / "volatility" / "labels.json").write_text("{}"),
        lambda models: write_bundle(models, version="2"),
        lambda models: write_bundle(models, "jumps"),
        lambda models: shutil.rmtree(models / "volatility" / "1"),
        lambda models: (models / "volatility" / "2").mkdir(),
        lambda models: shutil.rmtree(models),
    ],
)
def test_a_change_that_matters_changes_the_fingerprint(tmp_path: Path, change: Callable[[Path], object]) -> None:
    models = tmp_path / "models"
    write_bundle(models)
    before = fingerprint(models)
    assert fingerprint(models) == before
    change(models)
    assert fingerprint(models) != before


def test_a_file_put_in_place_of_another_changes_the_fingerprint_whatever_its_time(tmp_path: Path) -> None:
    path = write_bundle(tmp_path) / MODEL_FILE
    before = fingerprint(tmp_path)
    seen = path.stat()
    copy = path.with_name(".copy")
    copy.write_bytes(bytes(seen.st_size))
    os.utime(copy, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    copy.rename(path)
    assert fingerprint(tmp_path) != before


def test_a_graph_wider_than_its_schema_is_refused(tmp_path: Path) -> None:
    graph = Logistic(1).graph(width=WIDTH + 1)
    assert "input features: expected" in refused(write_bundle(tmp_path, graph=graph))
