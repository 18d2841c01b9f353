"""`volcast models verify` and a server come to the same result, since both call one load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cli.main import run_command
from common.bundle import Manifest
from server.core.models import Repository
from tests.server.bundles import WIDTH, Logistic, other_schema, write_bundle


def one_row_only() -> onnx.ModelProto:
    """A graph whose Reshape fixes the batch size, behind a free batch axis of input and output."""
    graph = Logistic(1).graph()
    shape = numpy_helper.from_array(np.array([1, 1], np.int64), "one")
    graph.graph.initializer.append(shape)
    (sigmoid,) = (node for node in graph.graph.node if node.op_type == "Sigmoid")
    sigmoid.output[0] = "any"
    graph.graph.node.append(helper.make_node("Reshape", ["any", "one"], ["probability"]))
    return graph


def other_opset(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, opset=17)


def other_self_test(manifest: Manifest) -> Manifest:
    test = msgspec.structs.replace(manifest.self_test, probability=0.123)
    return msgspec.structs.replace(manifest, self_test=test)


def other_name(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, name="elsewhere")


def same(manifest: Manifest) -> Manifest:
    return manifest


BUNDLES: dict[str, tuple[onnx.ModelProto | None, Callable[[Manifest], Manifest]]] = {
    "sound": (None, same),
    "another schema": (None, other_schema),
    "batch fixed by Reshape": (one_row_only(), same),
    "opset of the manifest": (None, other_opset),
    "self-test": (None, other_self_test),
    "name of the manifest": (None, other_name),
    "input of another name": (Logistic(1).graph(input_name="x"), same),
    "input of another type": (Logistic(1).graph(input_type=TensorProto.FLOAT), same),
    "one feature too many": (Logistic(1).graph(width=WIDTH + 1), same),
    "fixed batch": (Logistic(1).graph(rows=1), same),
    "output of another name": (Logistic(1).graph(output_name="y"), same),
}


@pytest.mark.parametrize("case", BUNDLES)
def test_verify_and_the_server_agree(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph, change = BUNDLES[case]
    write_bundle(tmp_path, graph=graph, change=change)
    failures = Repository("volatility").load(tmp_path).failures
    code = run_command(["models", "verify", "volatility", "1", "--models-dir", str(tmp_path)])
    assert code == bool(failures)
    assert (code == 0) == (case in ("sound", "another schema"))
    if failures:
        assert " ".join(failures[0].reason.split()) in " ".join(capfd.readouterr().out.split())


def test_a_link_that_leads_out_of_the_models_folder_is_refused_as_by_the_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = write_bundle(tmp_path / "elsewhere")
    models = tmp_path / "models"
    (models / "volatility").mkdir(parents=True)
    (models / "volatility" / "1").symlink_to(elsewhere)
    assert run_command(["models", "verify", "volatility", "1", "--models-dir", str(models)]) == 1
    assert "leads outside the models folder" in capfd.readouterr().out


def test_a_bundle_elsewhere_is_verified_under_the_name_of_its_manifest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path).rename(tmp_path / "bundle")
    assert run_command(["models", "verify", "--path", str(folder)]) == 0
    assert "a server loads volatility/1" in capfd.readouterr().out


def test_a_model_over_the_latency_budget_is_reported_and_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path)
    monkeypatch.setenv("VOLCAST_GATE__MAX_LATENCY_US", "0.001")
    assert run_command(["models", "verify", "volatility", "1", "--models-dir", str(tmp_path)]) == 0
    assert "which the promotion gate refuses" in capfd.readouterr().out


def test_verify_takes_a_name_and_version_or_a_path(tmp_path: Path) -> None:
    for arguments in (["volatility"], ["volatility", "1", "--path", str(tmp_path)], []):
        assert run_command(["models", "verify", *arguments]) == 2
