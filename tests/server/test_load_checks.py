"""The test with different rows, on predictors that mix them in a way that the graph's operators do not show."""

from __future__ import annotations

import re
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
from server.core.load_checks import (
    PROBE_ROWS,
    WARM_UP_ROWS,
    _self_test,
    _warm_up,
    check_model,
    check_rows_are_independent,
    probe_rows,
)
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


def refusal(term: Callable[[Matrix], Vector | float], manifest: Manifest) -> str:
    """Why a predictor with this term is refused; empty if it is accepted."""
    try:
        check_rows_are_independent(cast(Predictor, Mixing(term)), manifest)
    except BundleError as error:
        return str(error)
    return ""


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
    assert re.search("rows mix: a row scores .* alone and .* in a batch of", refusal(term, manifest))


@pytest.mark.parametrize(("difference", "refused"), [(0.9e-6, False), (1.1e-6, True)])
def test_differences_up_to_a_millionth_are_rounding(difference: float, refused: bool, manifest: Manifest) -> None:
    def term(matrix: Matrix) -> float:
        return difference * (len(matrix) > 1)

    assert ("rows mix" in refusal(term, manifest)) == refused


def test_a_row_without_a_probability_is_no_difference(manifest: Manifest) -> None:
    median = np.median(probe_rows(manifest)[:, 1])
    assert refusal(lambda matrix: np.where(matrix[:, 1] > median, np.nan, 0.0), manifest) == ""


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


class Answers:
    """A predictor that gives `probability` to each row of a batch."""

    def __init__(self, probability: Callable[[int], Vector]) -> None:
        self._probability = probability
        self.batches: list[int] = []

    def predict(self, matrix: Matrix) -> Vector:
        self.batches.append(len(matrix))
        return self._probability(len(matrix))

    raw = predict


def test_the_warm_up_runs_the_usual_sizes(manifest: Manifest) -> None:
    answers = Answers(lambda rows: np.full(rows, manifest.self_test.probability))
    _warm_up(cast(Predictor, answers), manifest)
    assert answers.batches == [1, 2, 32, 256]


@pytest.mark.parametrize("at", WARM_UP_ROWS)
def test_a_warm_up_that_gives_other_probabilities_is_refused(manifest: Manifest, at: int) -> None:
    expected = manifest.self_test.probability

    def wrong_number(rows: int) -> Vector:
        return np.full(rows + (rows == at), expected)

    def off(difference: float) -> Callable[[int], Vector]:
        return lambda rows: np.append(np.full(rows - 1, expected), expected - difference * (rows == at))

    with pytest.raises(BundleError, match=f"warm-up: expected {at} probabilities for {at} rows, got {at + 1}"):
        _warm_up(cast(Predictor, Answers(wrong_number)), manifest)
    _warm_up(cast(Predictor, Answers(off(0.9e-6))), manifest)
    with pytest.raises(BundleError, match=rf"warm-up: a row scores 1\.1e-06 off when it is one of {at}"):
        _warm_up(cast(Predictor, Answers(off(1.1e-6))), manifest)
    with pytest.raises(BundleError, match="a row scores nan off"):
        _warm_up(cast(Predictor, Answers(off(np.nan))), manifest)


def self_test(manifest: Manifest, *values: float) -> None:
    _self_test(cast(Predictor, Answers(lambda rows: np.array(values))), manifest, len(manifest.schema.features))


@pytest.mark.parametrize(
    ("difference", "accepted"), [(0.0, True), (0.9e-6, True), (-0.9e-6, True), (1.1e-6, False), (-1.1e-6, False)]
)
def test_the_self_test_allows_a_millionth(manifest: Manifest, difference: float, accepted: bool) -> None:
    expected = manifest.self_test.probability
    if accepted:
        self_test(manifest, expected + difference)
    else:
        with pytest.raises(BundleError, match=rf"self-test: expected probability {expected:.9g}, got 0\."):
            self_test(manifest, expected + difference)


def test_the_self_test_expects_a_single_probability(manifest: Manifest) -> None:
    expected = manifest.self_test.probability
    for values, got in (((), "none"), ((expected, 0.25), f"{expected:.9g}, 0.25"), ((np.nan,), "nan")):
        with pytest.raises(BundleError, match=f"self-test: expected probability .*, got {got}$"):
            self_test(manifest, *values)
    with pytest.raises(BundleError, match=r"got 0\.5, 0\.5, 0\.5$"):
        self_test(manifest, *[0.5] * 5)


@pytest.mark.parametrize(("value", "refused"), [(1.0 + 2e-5, True), (-2e-5, True), (1.0 + 0.9e-5, False)])
def test_the_self_test_names_a_value_outside_of_0_and_1(manifest: Manifest, value: float, refused: bool) -> None:
    reason = r"expected a probability in \[0, 1\], got" if refused else "expected probability"
    with pytest.raises(BundleError, match=reason):
        self_test(manifest, value)


def test_the_self_test_has_as_many_features_as_the_schema(manifest: Manifest) -> None:
    width = len(manifest.schema.features)
    with pytest.raises(BundleError, match=rf"self_test.features: expected {width + 1} values, got {width}"):
        _self_test(cast(Predictor, Answers(np.zeros)), manifest, width + 1)


def test_the_opset_is_the_manifests(manifest: Manifest) -> None:
    graph = Logistic(1).graph()
    with pytest.raises(BundleError, match=r"opset: the manifest has 17, model\.onnx uses 18"):
        check_model(graph.SerializeToString(), msgspec.structs.replace(manifest, opset=17))
    del graph.opset_import[:]
    graph.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    with pytest.raises(BundleError, match=r"opset: the manifest has 18, model\.onnx uses none"):
        check_model(graph.SerializeToString(), manifest)


def test_a_batch_with_another_number_of_probabilities_is_refused(manifest: Manifest) -> None:
    answers = Answers(lambda rows: np.full(rows - (rows == 8), 0.5))
    with pytest.raises(BundleError, match=f"rows mix: expected {PROBE_ROWS} probabilities for {PROBE_ROWS} rows"):
        check_rows_are_independent(cast(Predictor, answers), manifest)


def test_rows_are_scored_alone_and_in_batches_of_each_size_in_both_orders(manifest: Manifest) -> None:
    answers = Answers(lambda rows: np.full(rows, 0.5))
    check_rows_are_independent(cast(Predictor, answers), manifest)
    batches = [2] * 18 + [1] + [3] * 12 + [1] + [8] * 4 + [5] + [37]
    assert answers.batches == [1] * 37 + batches * 2


def test_a_model_that_scores_by_the_order_is_refused_with_the_order(manifest: Manifest) -> None:
    matrix = probe_rows(manifest)

    def term(given: Matrix) -> float:
        return 1e-3 * (len(given) == 2 and bool((given[0] == matrix[-1]).all()))

    assert "in a batch of 2 different rows in reverse order" in refusal(term, manifest)


def test_the_probe_stays_near_the_self_test_and_is_the_same_each_time(manifest: Manifest) -> None:
    matrix, base = probe_rows(manifest), np.array(manifest.self_test.features)
    ratio = matrix[:, base != 0] / base[base != 0]
    assert 0.5 <= ratio.min() < 0.6
    assert 1.9 < ratio.max() <= 2
    np.testing.assert_array_equal(matrix, probe_rows(manifest))


def test_the_probe_mixes_rows_near_the_self_test_with_typical_rows(manifest: Manifest) -> None:
    bins = Bins((5.0, 6.0), (0.5, 0.25, 0.25))
    reference = DriftReference(4, {manifest.schema.features[2].name: bins}, bins, 0.1, {})
    matrix = probe_rows(msgspec.structs.replace(manifest, reference=reference))
    assert [value in (5.0, 6.0) for value in matrix[:, 2]] == [False] * 18 + [True] * 19
    none = DriftReference(4, {manifest.schema.features[2].name: Bins((), (1.0,))}, bins, 0.1, {})
    np.testing.assert_array_equal(probe_rows(msgspec.structs.replace(manifest, reference=none)), probe_rows(manifest))


def test_an_error_of_the_model_names_the_number_of_rows(manifest: Manifest) -> None:
    def fails(rows: int) -> Vector:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no memory")

    with pytest.raises(BundleError, match=r"self-test: the model cannot be run on 1 rows: .*no memory"):
        _warm_up(cast(Predictor, Answers(fails)), manifest)
