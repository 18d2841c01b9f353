"""The test with different rows, on predictors that mix them in a way that the graph's operators do not show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from common.bundle import Bins, DriftReference, Manifest, read_bundle
from common.errors import BundleError
from server.core.arrays import Matrix, Vector
from server.core.bundles import load_model
from server.core.load_checks import PROBE_ROWS, check_model, check_rows_are_independent, probe_rows
from server.core.predictor import Predictor
from tests.server.bundles import Logistic, write_bundle


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_bundle(write_bundle(tmp_path))[0]


class Mixing:
    """Logistic regression with a term that depends on the batch."""

    def __init__(self, term: Callable[[Matrix], Vector | float]) -> None:
        self._term = term

    def predict(self, matrix: Matrix) -> Vector:
        return Logistic(1).predict(matrix) + self._term(matrix)


def check(term: Callable[[Matrix], Vector | float], manifest: Manifest) -> None:
    check_rows_are_independent(cast(Predictor, Mixing(term)), manifest)


@pytest.mark.parametrize(
    "term",
    [
        lambda matrix: 1e-3 * (matrix[:, 1] - matrix[:, 1].mean()) / matrix[:, 1].mean(),
        lambda matrix: 1e-5 * np.arange(len(matrix)),
        lambda matrix: 1e-5 * (len(matrix) == 8),
        lambda matrix: 1e-5 * (len(matrix) == PROBE_ROWS),
        lambda matrix: 1e-5 * (matrix[:, 1] > matrix[0, 1]),
        lambda matrix: 1e-5 * (matrix[:, 1] > matrix[-1, 1]),
        lambda matrix: np.where(np.arange(len(matrix)) == 36, np.nan, 0.0),
    ],
    ids=["mean", "place", "size of 8", "full size", "first row", "last row", "no probability"],
)
def test_rows_that_score_differently_beside_others_are_refused(
    term: Callable[[Matrix], Vector | float], manifest: Manifest
) -> None:
    with pytest.raises(BundleError, match=r"rows mix: a row scores .* alone and .* in a batch of"):
        check(term, manifest)


@pytest.mark.parametrize(("difference", "refused"), [(0.9e-6, False), (1.1e-6, True)])
def test_differences_up_to_a_millionth_are_rounding(difference: float, refused: bool, manifest: Manifest) -> None:
    def term(matrix: Matrix) -> float:
        return difference * (len(matrix) > 1)

    if refused:
        with pytest.raises(BundleError, match="rows mix"):
            check(term, manifest)
    else:
        check(term, manifest)


def test_a_row_without_a_probability_is_no_difference(manifest: Manifest) -> None:
    check(lambda matrix: np.where(matrix[:, 1] > np.median(probe_rows(manifest)[:, 1]), np.nan, 0.0), manifest)


def test_the_probe_has_different_rows_even_of_zeros(manifest: Manifest) -> None:
    test = msgspec.structs.replace(manifest.self_test, features=(0.0,) * 11)
    matrix = probe_rows(msgspec.structs.replace(manifest, self_test=test))
    assert all(len(np.unique(matrix[:, column])) == PROBE_ROWS for column in range(11))


def test_the_probe_has_typical_values_of_the_training_part(manifest: Manifest) -> None:
    bins = Bins((5.0, 6.0, 7.0), (0.25, 0.25, 0.25, 0.25))
    name = manifest.schema.features[2].name
    reference = DriftReference(4, {name: bins}, bins, 0.1, {})
    matrix = probe_rows(msgspec.structs.replace(manifest, reference=reference))
    assert set(matrix[PROBE_ROWS // 2 :, 2]) == {5.0, 6.0, 7.0}


def test_features_minus_their_mean_over_the_batch_are_refused_by_the_node(tmp_path: Path) -> None:
    """One row alone is its own mean: the self-test and copies of its row do not show it."""
    model = Logistic(1).graph()
    model.graph.node[0].input[0] = "centred_features"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch"))
    model.graph.node.insert(0, helper.make_node("Sub", ["features", "mean_row"], ["centred_features"]))
    model.graph.node.insert(0, helper.make_node("ReduceMean", ["features", "batch"], ["mean_row"], keepdims=1))
    alone = float(Logistic(1).predict(np.zeros((1, 11)))[0])

    def promise(manifest: Manifest) -> Manifest:
        test = msgspec.structs.replace(manifest.self_test, probability=alone)
        return msgspec.structs.replace(manifest, self_test=test)

    folder = write_bundle(tmp_path, graph=model, change=promise)
    with pytest.raises(BundleError, match=r"rows can mix: node 'mean_row' \(ReduceMean\): it reduces over the rows"):
        load_model(folder, "volatility", "1")


def test_bytes_that_are_not_on_disk_yet_are_checked_by_the_same_function(manifest: Manifest) -> None:
    graph = Logistic(1).graph()
    assert isinstance(check_model(graph.SerializeToString(), manifest), Predictor)
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    broken.graph.node[-1].op_type = "Tanh"
    with pytest.raises(BundleError, match=r"^self-test: expected"):
        check_model(broken.SerializeToString(), manifest)
