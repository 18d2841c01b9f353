from __future__ import annotations

import getpass
import socket
from pathlib import Path

import numpy as np
import onnx
import pytest

from common.errors import TrainingError
from training import export
from training.dataset import Dataset
from training.experiment import Experiment


@pytest.fixture(scope="module")
def model(trained: Experiment) -> bytes:
    return export.to_onnx(trained.model.fitted)


def test_every_row_gets_the_trained_forms_probability(model: bytes, dataset: Dataset, trained: Experiment) -> None:
    exported = export.onnx_probabilities(model, dataset.rows.features)
    assert export.check_parity(exported, trained.model.fitted.probabilities(dataset.rows)) <= 1e-8


def test_a_row_gets_the_same_answer_alone_and_among_others(model: bytes, dataset: Dataset) -> None:
    together = export.onnx_probabilities(model, dataset.rows.features[:50])
    alone = [export.onnx_probabilities(model, dataset.rows.features[row : row + 1])[0] for row in range(50)]
    assert together == pytest.approx(alone, abs=1e-14)


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, 1.0, -1.0, 1e-300, 1e300, 1.7e308, -1.7e308])
def test_any_finite_row_gets_a_probability(model: bytes, value: float) -> None:
    rows = np.full((12, 11), value)
    rows[1:] = np.where(np.eye(11, dtype=bool), value, 0.0)  # one column at a time, the others nothing
    probability = export.onnx_probabilities(model, rows)
    assert np.all((probability >= 0) & (probability <= 1))


def test_a_price_changes_nothing(model: bytes, dataset: Dataset) -> None:
    rows = dataset.rows.features[:20].copy()
    before = export.onnx_probabilities(model, rows)
    rows[:, [0, 1, 8]] *= 1e-3
    assert np.array_equal(export.onnx_probabilities(model, rows), before)


def test_the_same_fit_gives_the_same_bytes(model: bytes, trained: Experiment) -> None:
    assert export.to_onnx(trained.model.fitted) == model


def test_the_graph_is_double_and_its_versions_are_fixed(model: bytes) -> None:
    graph = onnx.load_from_string(model)
    assert (graph.ir_version, [(one.domain, one.version) for one in graph.opset_import]) == (8, [("", 18)])
    values = [*graph.graph.input, *graph.graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.DOUBLE}
    assert {constant.data_type for constant in graph.graph.initializer} == {onnx.TensorProto.DOUBLE}
    assert [value.name for value in values] == ["features", "probability"]


def test_the_bytes_say_nothing_of_who_made_them_or_where(model: bytes) -> None:
    text = model.decode("latin-1")
    assert str(Path.cwd()) not in text
    assert socket.gethostname() not in text
    assert f"/{getpass.getuser()}" not in text


def test_an_export_that_differs_on_one_row_is_refused() -> None:
    trained = np.linspace(0, 1, 100)
    exported = trained.copy()
    exported[42] += 2e-5
    with pytest.raises(TrainingError, match=r"differs from the trained form by 2e-05 on row 42 of 100"):
        export.check_parity(exported, trained)


def test_an_export_that_gives_no_number_is_refused() -> None:
    with pytest.raises(TrainingError, match="by nan"):
        export.check_parity(np.array([np.nan, 0.5]), np.array([0.5, 0.5]))
