"""What every kind of model owes: one suite over all of them."""

from __future__ import annotations

import getpass
import pickle
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from common.bundle import Calibration
from common.errors import InputError
from common.schema import CORE_1, FULL_1, FeatureSchema
from server.core.graph_scan import scan_graph
from server.core.predictor import Predictor
from training import MODEL_TYPES
from training.models import BASELINES, KINDS, Fitted
from training.models.base import Params, sigmoid
from training.models.graphs import ML_OPSET, OPSET
from training.models.transforms import usable
from training.problem.rows import Rows
from training.problem.schemas import MINUTES_1, QUOTES_1
from training.shipping import export
from training.shipping.onnx_model import OnnxModel

VARIANTS: dict[str, Params] = {name: {} for name in KINDS} | {
    "xgboost alone": {"base": "rate"},
    "xgboost deep": {"depth": 5, "trees": 100},
}


def fitted_of(variant: str, rows: Rows, y: NDArray[np.int8]) -> Fitted:
    kind = KINDS[variant.split()[0]]
    params = {**kind.defaults(rows.schema), **VARIANTS[variant]}
    return kind.fit(rows, y, params, seed=0).calibrated(Calibration(1.3, -0.2))


@pytest.fixture(scope="module", params=VARIANTS)
def fitted(request: pytest.FixtureRequest, rows: Rows, y: NDArray[np.int8]) -> Fitted:
    return fitted_of(request.param, rows, y)


@pytest.fixture(scope="module")
def model(fitted: Fitted) -> bytes:
    return fitted.to_onnx()


def test_the_names_offered_without_scikit_learn_are_those_of_the_kinds() -> None:
    assert set(MODEL_TYPES) == set(KINDS)
    assert all(KINDS[name].name == name for name in KINDS)
    assert set(BASELINES) < set(KINDS)


def test_every_row_gets_the_trained_forms_probability(fitted: Fitted, model: bytes, rows: Rows) -> None:
    exported = OnnxModel(model).probabilities(rows.features)
    assert export.check_parity(exported, fitted.probabilities(rows.features)) <= 1e-6


def test_calibration_goes_through_the_logit_in_both_forms(fitted: Fitted, rows: Rows) -> None:
    moved = fitted.calibrated(Calibration(0.5, 1.0))
    expected = sigmoid(0.5 * fitted.logits(rows.features) + 1.0)
    assert moved.probabilities(rows.features) == pytest.approx(expected, abs=1e-12)
    assert OnnxModel(moved.to_onnx()).probabilities(rows.features) == pytest.approx(expected, abs=1e-6)


def test_a_spike_is_likelier_where_one_follows(fitted: Fitted, rows: Rows, y: NDArray[np.int8]) -> None:
    probability = fitted.probabilities(rows.features)
    assert probability[y == 1].mean() > 1.5 * probability[y == 0].mean()


def test_the_same_rows_give_the_same_bytes(fitted: Fitted, model: bytes, rows: Rows, y: NDArray[np.int8]) -> None:
    again = KINDS[fitted.kind].fit(rows, y, fitted.params, 0).calibrated(fitted.calibration)
    assert again.to_onnx() == model


def test_a_row_gets_the_same_answer_alone_and_among_others(model: bytes, rows: Rows) -> None:
    scored = OnnxModel(model)
    alone = [scored.probabilities(rows.features[row : row + 1])[0] for row in range(256)]
    for size in (2, 32, 256):
        assert scored.probabilities(rows.features[:size]) == pytest.approx(alone[:size], abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, 1.0, -1.0, 1e-300, 1e38, -3e38])
def test_any_row_within_single_precision_gets_a_probability(model: bytes, value: float) -> None:
    width = len(FULL_1)
    rows = np.full((width + 1, width), value)
    rows[1:] = np.where(np.eye(width, dtype=bool), value, 0.0)  # one column at a time, the others nothing
    probability = OnnxModel(model).probabilities(rows)
    assert np.all((probability >= 0) & (probability <= 1))


def test_a_price_changes_nothing(model: bytes, rows: Rows) -> None:
    cheap = rows.features[:50].copy()
    cheap[:, [0, 1, 8]] *= 1e-3
    assert np.array_equal(OnnxModel(model).probabilities(cheap), OnnxModel(model).probabilities(rows.features[:50]))


def test_only_the_columns_it_names_are_looked_at(fitted: Fitted, model: bytes, rows: Rows) -> None:
    other = rows.features[:50].copy()
    unseen = [column for column, name in enumerate(FULL_1.names) if name not in fitted.columns]
    other[:, unseen] = np.random.default_rng(1).normal(size=(50, len(unseen)))
    assert np.array_equal(OnnxModel(model).probabilities(other), OnnxModel(model).probabilities(rows.features[:50]))
    assert np.array_equal(fitted.probabilities(other), fitted.probabilities(rows.features[:50]))


def test_it_travels_between_processes_as_it_is(fitted: Fitted, rows: Rows) -> None:
    travelled: Fitted = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(travelled.probabilities(rows.features), fitted.probabilities(rows.features))
    assert travelled.to_onnx() == fitted.to_onnx()


def test_on_another_schema_it_finds_its_columns_by_name(fitted: Fitted, rows: Rows) -> None:
    turned = FeatureSchema("turned", FULL_1.features[::-1])
    moved = fitted.on(turned)
    backwards = np.ascontiguousarray(rows.features[:100, ::-1])
    assert np.array_equal(moved.probabilities(backwards), fitted.probabilities(rows.features[:100]))
    assert OnnxModel(moved.to_onnx()).probabilities(backwards) == pytest.approx(
        moved.probabilities(backwards), abs=1e-6
    )


def test_the_server_takes_its_graph(fitted: Fitted, model: bytes, rows: Rows) -> None:
    assert scan_graph(model).opsets.get("") == OPSET
    answered = Predictor(model, len(FULL_1)).predict(rows.features[:32])
    assert answered == pytest.approx(fitted.probabilities(rows.features[:32]), abs=1e-6)


def test_the_graph_takes_double_and_its_versions_are_fixed(fitted: Fitted, model: bytes) -> None:
    graph = onnx.load_from_string(model)
    opsets = {one.domain: one.version for one in graph.opset_import}
    assert graph.ir_version == 8
    assert opsets == {"": OPSET} | ({"ai.onnx.ml": ML_OPSET} if fitted.kind == "xgboost" else {})
    values = [*graph.graph.input, *graph.graph.output]
    assert [value.name for value in values] == ["features", "probability"]
    assert values[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    single = {one.name for one in graph.graph.initializer if one.data_type != onnx.TensorProto.DOUBLE}
    assert not single


def test_the_bytes_say_nothing_of_who_made_them_or_where(model: bytes) -> None:
    text = model.decode("latin-1")
    assert str(Path.cwd()) not in text
    assert socket.gethostname() not in text
    assert f"/{getpass.getuser()}" not in text


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_can_be_scored_by_its_linear_form(name: str, rows: Rows, y: NDArray[np.int8]) -> None:
    fitted = fitted_of(name, rows, y)
    form = fitted.linear_form()
    assert form is not None
    logit = np.log(np.abs(rows.columns(form.columns)) + form.offsets) @ form.weights + form.bias
    assert sigmoid(logit) == pytest.approx(fitted.probabilities(rows.features), abs=1e-8)


@pytest.mark.parametrize("name", BASELINES)
def test_probabilities_are_not_inflated_by_class_weights(name: str, rows: Rows, y: NDArray[np.int8]) -> None:
    fitted = KINDS[name].fit(rows, y, KINDS[name].defaults(FULL_1), 0)
    # The intercept of an unweighted logistic regression makes the mean probability the base rate.
    assert fitted.probabilities(rows.features).mean() == pytest.approx(y.mean(), abs=1e-6)


def test_the_zscore_baseline_ranks_as_the_window_volatility_does(rows: Rows, y: NDArray[np.int8]) -> None:
    order = np.argsort(KINDS["zscore"].fit(rows, y, {}, 0).probabilities(rows.features), kind="stable")
    assert np.all(np.diff(rows.column("volatility")[order]) >= 0)


def test_har_can_have_any_three_windows() -> None:
    (windows,) = KINDS["har"].space(FULL_1).values()
    assert len(windows.values) == 20  # type: ignore[union-attr]  # of 5, 15, 30, 60, 120 and 300 s
    assert KINDS["har"].defaults(FULL_1)["windows"] == "volatility_5s+volatility+volatility_300s"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("schema", [FULL_1, QUOTES_1, MINUTES_1], ids=lambda one: one.name)
def test_every_kind_finds_its_columns_in_every_data_set(name: str, schema: FeatureSchema) -> None:
    kind = KINDS[name]
    if (name, schema.name) in {("ewma", "minutes/1"), ("har_returns", "minutes/1"), ("har_returns", "quotes/1")}:
        with pytest.raises(InputError, match=f"model {name}: schema {schema.name} has "):
            kind.columns(schema)
        return
    assert set(kind.columns(schema)) <= set(schema.names)
    assert kind.space(schema).keys() <= kind.defaults(schema).keys()


def test_ewma_says_what_a_schema_lacks() -> None:
    with pytest.raises(InputError, match="model ewma: schema minutes/1 has no feature `ewma_volatility`"):
        KINDS["ewma"].columns(MINUTES_1)


def test_har_refuses_a_schema_with_one_window() -> None:
    with pytest.raises(InputError, match="model har: schema core/1 has 1 windows of volatility, 3 are needed"):
        KINDS["har"].columns(CORE_1)


def test_har_of_returns_has_the_volatility_and_two_shorter_returns() -> None:
    (windows,) = KINDS["har_returns"].space(CORE_1).values()
    assert windows.values == (  # type: ignore[union-attr]
        "return_1s+return_5s+volatility",
        "return_1s+return_30s+volatility",
        "return_5s+return_30s+volatility",
    )
    assert KINDS["har_returns"].defaults(CORE_1)["windows"] == windows.values[1]  # type: ignore[union-attr]


def test_models_are_fitted_on_no_quantity_in_units_of_the_quote_currency() -> None:
    units = {feature.name: feature.unit for feature in FULL_1.features}
    assert {units[name] for name in usable(FULL_1)}.isdisjoint({"quote"})


def test_a_subset_of_columns_is_obeyed(rows: Rows, y: NDArray[np.int8]) -> None:
    for name in ("logistic", "xgboost"):
        fitted = KINDS[name].fit(rows, y, KINDS[name].defaults(FULL_1), 0, ("volatility", "time_of_day_cos"))
        assert set(fitted.columns) == {"volatility", "time_of_day_cos"}


def test_a_constant_feature_does_no_harm(rows: Rows, y: NDArray[np.int8]) -> None:
    features = rows.features.copy()
    features[:, FULL_1.names.index("mean_imbalance")] = 0.25
    for name in ("logistic", "xgboost"):
        fitted = KINDS[name].fit(replace(rows, features=features), y, KINDS[name].defaults(FULL_1), 0)
        exported = OnnxModel(fitted.to_onnx()).probabilities(features)
        assert export.check_parity(exported, fitted.probabilities(features)) <= 1e-6
