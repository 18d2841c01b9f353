"""`volcast models add` in the folder of a test, and what a server would answer then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from cli.main import run_command
from server.core.bundles import load_model
from tests.cli.models.exports import Matrix, Network

PLAIN = Network()


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


def write_features(content: Any) -> str:
    Path("features.json").write_bytes(content if isinstance(content, bytes) else msgspec.json.encode(content))
    return "features.json"


def changed(network: Network, change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    proto: onnx.ModelProto = network.proto()
    change(proto)
    return proto
