"""From Python: fitted models become bundles that answer as the models do, or are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from numpy.testing import assert_allclose
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from cli.models.estimator import add_estimator
from common.bundle import read_bundle
from common.errors import BundleError, InputError, TrainingError, UsageError
from common.schema import CORE_1
from server.core.bundles import load_model
from tests.cli.models.exports import Matrix, training_data
from training.shipping.conversion import PARITY_LIMIT

pytestmark = pytest.mark.slow

MATRIX, Y = training_data()
FRAME = pd.DataFrame(MATRIX, columns=[f"own {number}" for number in range(MATRIX.shape[1])])
CORE_FRAME = pd.DataFrame(MATRIX, columns=list(CORE_1.names))


def served(folder: Path, matrix: Matrix) -> Matrix:
    """What a server would answer."""
    model = load_model(folder, folder.parent.name, folder.name)
    return np.asarray(model.predictor.predict(matrix))


def trees(kind: Any, **options: Any) -> Any:
    return kind(n_estimators=20, random_state=0, **options)


def lgbm() -> Any:
    return trees(lightgbm.LGBMClassifier, num_threads=1, verbose=-1)


def some_columns() -> Any:
    picked = [("scaled", StandardScaler(), ["own 6", "own 7"]), ("as it is", "passthrough", ["own 10"])]
    return make_pipeline(ColumnTransformer(picked), LogisticRegression())


MODELS: dict[str, tuple[Callable[[], Any], Any]] = {
    "random forest": (lambda: trees(RandomForestClassifier), MATRIX),
    "random forest on a DataFrame": (lambda: trees(RandomForestClassifier), FRAME),
    "extra trees": (lambda: trees(ExtraTreesClassifier), MATRIX),
    "gradient boosting": (lambda: trees(GradientBoostingClassifier), MATRIX),
    "histogram gradient boosting": (lambda: HistGradientBoostingClassifier(max_iter=20), MATRIX),
    "scaler and logistic regression": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), MATRIX),
    "naive Bayes": (lambda: make_pipeline(MinMaxScaler(), GaussianNB()), MATRIX),
    "columns of a DataFrame": (some_columns, FRAME),
    "sigmoid calibration": (lambda: CalibratedClassifierCV(make_pipeline(StandardScaler(), GaussianNB())), MATRIX),
    "XGBoost": (lambda: trees(xgboost.XGBClassifier, n_jobs=1), MATRIX),
    "XGBoost on a DataFrame": (lambda: trees(xgboost.XGBClassifier, n_jobs=1), FRAME),
    "LightGBM": (lgbm, MATRIX),
    "LightGBM on a DataFrame": (lgbm, FRAME),
    "scaler and LightGBM": (lambda: make_pipeline(MinMaxScaler(), lgbm()), MATRIX),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.filterwarnings("ignore")  # of the libraries, about one another's versions
def test_a_fitted_model_is_served_as_it_answers(case: str, tmp_path: Path) -> None:
    make, rows = MODELS[case]
    model = make().fit(rows, Y)
    added = add_estimator(model, rows, name="mine", models_dir=tmp_path)
    expected = model.predict_proba(rows)[:, 1]
    assert np.ptp(expected) > 0.1
    assert_allclose(served(added.folder, MATRIX), expected, rtol=0, atol=PARITY_LIMIT)
    assert added.version == "1"
    manifest, _ = read_bundle(added.folder)
    assert manifest.parity_max_abs_error <= PARITY_LIMIT


@pytest.mark.filterwarnings("ignore")
def test_boosters_are_served_as_they_answer(tmp_path: Path) -> None:
    frame = xgboost.DMatrix(MATRIX, Y)
    xgb = xgboost.train({"objective": "binary:logistic", "nthread": 1}, frame, 10)
    gbm = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(MATRIX, Y), 10)
    for name, booster, expected in (("xgb", xgb, xgb.predict(frame)), ("gbm", gbm, gbm.predict(MATRIX))):
        added = add_estimator(booster, MATRIX, name=name, models_dir=tmp_path)
        assert_allclose(served(added.folder, MATRIX), expected, rtol=0, atol=PARITY_LIMIT)


@pytest.mark.filterwarnings("ignore")
def test_a_class_is_chosen_by_its_label(tmp_path: Path) -> None:
    labels = np.array(["calm", "spike"])[Y]
    model = trees(RandomForestClassifier).fit(MATRIX, labels)
    for wanted, column in (("calm", 0), ("spike", 1)):
        added = add_estimator(model, MATRIX, name=wanted, models_dir=tmp_path, positive_class=wanted)
        assert_allclose(served(added.folder, MATRIX), model.predict_proba(MATRIX)[:, column], rtol=0, atol=PARITY_LIMIT)
    with pytest.raises(UsageError, match="positive_class: expected one of calm, spike, got 'moon'"):
        add_estimator(model, MATRIX, name="moon", models_dir=tmp_path, positive_class="moon")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("XGBoost", (False, True)),  # and nothing else: it takes labels from 0 on only
        *((kind, pair) for kind in ("forest", "LightGBM") for pair in ((False, True), (-1, 1), (1.0, 2.0), ("a", "b"))),
    ],
)
def test_labels_may_be_of_any_type(kind: str, labels: tuple[Any, Any], tmp_path: Path) -> None:
    make = {"forest": lambda: trees(RandomForestClassifier), "XGBoost": lambda: trees(xgboost.XGBClassifier, n_jobs=1)}
    model = make.get(kind, lgbm)().fit(MATRIX, np.array(labels)[Y])
    added = add_estimator(model, MATRIX, name="mine", models_dir=tmp_path)
    assert_allclose(served(added.folder, MATRIX), model.predict_proba(MATRIX)[:, 1], rtol=0, atol=PARITY_LIMIT)


@pytest.mark.filterwarnings("ignore")
def test_three_classes_of_lightgbm(tmp_path: Path) -> None:
    model = lgbm().fit(MATRIX, Y + (MATRIX[:, 7] > 5))
    added = add_estimator(model, MATRIX, name="mine", models_dir=tmp_path, positive_class=1)
    assert_allclose(served(added.folder, MATRIX), model.predict_proba(MATRIX)[:, 1], rtol=0, atol=PARITY_LIMIT)


@pytest.mark.filterwarnings("ignore")
def test_one_of_three_classes_has_to_be_named(tmp_path: Path) -> None:
    model = trees(RandomForestClassifier).fit(MATRIX, Y + (MATRIX[:, 7] > 5))
    with pytest.raises(UsageError, match="positive_class: expected one of 0, 1, 2, got None"):
        add_estimator(model, MATRIX, name="mine", models_dir=tmp_path)
    added = add_estimator(model, MATRIX, name="mine", models_dir=tmp_path, positive_class=2)
    assert_allclose(served(added.folder, MATRIX), model.predict_proba(MATRIX)[:, 2], rtol=0, atol=PARITY_LIMIT)


@pytest.mark.filterwarnings("ignore")
def test_columns_of_core_1_in_another_order_are_placed(tmp_path: Path) -> None:
    frame = CORE_FRAME[list(reversed(CORE_1.names))[:6]]
    model = trees(RandomForestClassifier).fit(frame, Y)
    added = add_estimator(model, frame, name="mine", models_dir=tmp_path, schema="core/1")
    assert added.schema.hash == CORE_1.hash
    assert_allclose(served(added.folder, MATRIX), model.predict_proba(frame)[:, 1], rtol=0, atol=PARITY_LIMIT)


def test_a_frame_with_the_columns_of_core_1_takes_core_1(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(CORE_FRAME, Y)
    assert add_estimator(model, CORE_FRAME, name="mine", models_dir=tmp_path).schema.hash == CORE_1.hash


# Conversions that are silently wrong


def prices(count: int = 4000) -> tuple[Matrix, Any]:
    """Rows whose first column is a price: float32 keeps 8 decimals less of it than float64."""
    random = np.random.default_rng(5)
    matrix = random.normal(size=(count, 11))
    matrix[:, 0] = 60_000 + random.normal(0, 2, count)
    return matrix, (np.sin(5 * matrix[:, 0]) + 0.2 * matrix[:, 5] > 0).astype(int)


@pytest.mark.filterwarnings("ignore")
def test_a_scaler_in_front_of_xgboost_is_refused(tmp_path: Path) -> None:
    matrix, y = prices()
    model = make_pipeline(StandardScaler(), trees(xgboost.XGBClassifier, n_jobs=1)).fit(matrix, y)
    with pytest.raises(TrainingError, match=r"no ONNX graph reproduces Pipeline on 4,000 rows, within 1e-05: .*0\.\d"):
        add_estimator(model, matrix, name="mine", models_dir=tmp_path)
    assert not (tmp_path / "mine" / "1").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_random_forest_of_lightgbm_is_exact_or_refused(tmp_path: Path) -> None:
    """onnxmltools 1.16 sums its trees where LightGBM takes their mean."""
    forest = lightgbm.LGBMClassifier(
        boosting_type="rf", bagging_freq=1, bagging_fraction=0.5, n_estimators=10, num_threads=1, verbose=-1
    ).fit(MATRIX, Y)
    with contextlib.suppress(TrainingError):
        add_estimator(forest, MATRIX, name="mine", models_dir=tmp_path)
    for folder in (tmp_path / "mine").glob("1"):
        assert_allclose(
            served(folder, MATRIX), np.asarray(forest.predict_proba(MATRIX))[:, 1], rtol=0, atol=PARITY_LIMIT
        )


class Shifted(LogisticRegression):
    """Answers otherwise than the coefficients say, as a conversion that forgets a step would."""

    def predict_proba(self, rows: Any) -> Any:
        honest = super().predict_proba(rows)
        return np.where(np.asarray(rows)[:, 2:3] > 1e-5, honest[:, ::-1], honest)


@pytest.mark.filterwarnings("ignore")
def test_a_difference_on_some_rows_only_is_refused(tmp_path: Path) -> None:
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
    from skl2onnx.operator_converters.linear_classifier import convert_sklearn_linear_classifier

    options = {"zipmap": [True, False, "columns"], "nocl": [True, False], "raw_scores": [True, False]}
    update_registered_converter(
        Shifted, "TestShifted", calculate_linear_classifier_output_shapes, convert_sklearn_linear_classifier,
        options=options | {"output_class_labels": [False, True]},
    )  # fmt: skip
    model = Shifted().fit(MATRIX, Y)
    with pytest.raises(TrainingError, match="it differs by"):
        add_estimator(model, MATRIX, name="mine", models_dir=tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration_is_exact_or_refused(method: str, tmp_path: Path) -> None:
    """Calibration around a pipeline and isotonic calibration have converted wrongly: whichever version is installed."""
    matrix, y = prices()
    base = make_pipeline(StandardScaler(), trees(RandomForestClassifier, max_depth=4))
    model = CalibratedClassifierCV(base, method=method, cv=3).fit(matrix, y)
    with contextlib.suppress(TrainingError, BundleError):
        add_estimator(model, matrix, name="mine", models_dir=tmp_path)
    for folder in (tmp_path / "mine").glob("1"):
        assert_allclose(served(folder, matrix), model.predict_proba(matrix)[:, 1], rtol=0, atol=PARITY_LIMIT)


# Wrong calls


def test_a_model_without_probabilities_is_refused(tmp_path: Path) -> None:
    for model in (RidgeClassifier(), trees(RandomForestRegressor)):
        with pytest.raises(UsageError, match="expected a fitted model with predict_proba, or a Booster"):
            add_estimator(model.fit(MATRIX, Y), MATRIX, name="mine", models_dir=tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_step_without_a_converter_is_named(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()).fit(np.abs(MATRIX), Y)
    with pytest.raises(TrainingError, match="Pipeline cannot be converted to ONNX: by skl2onnx in float32: "):
        add_estimator(model, np.abs(MATRIX), name="mine", models_dir=tmp_path)


@pytest.mark.parametrize(
    ("rows", "options", "reason"),
    [
        (MATRIX[0], {}, "rows: expected .rows, features., at least one of each, got shape .11,"),
        (MATRIX[:0], {}, "at least one of each"),
        (np.where(MATRIX > 6e4, np.nan, MATRIX), {}, "rows: row 0, column 0: expected a finite number, got nan"),
        ([["a"] * 11], {}, "rows: expected numbers"),
        (MATRIX[:, :5], {}, "rows: expected the 11 columns of core/1, got 5"),
        (MATRIX, {"features": ["a"]}, "features: expected 11 names, got 1"),
        (MATRIX, {"features": ["a"] * 11}, "'a' is features.0. already"),
        (MATRIX, {"schema": "core/9"}, "--schema: expected core/1 or full/1 or full/2, got 'core/9'"),
        (FRAME, {"schema": "core/1"}, "rows: expected columns of core/1, each once, got own 0"),
        (MATRIX, {"threshold": 2.0}, "threshold: expected a number from 0 to 1, got 2.0"),
        (MATRIX, {"threshold": float("nan")}, "threshold: expected a number from 0 to 1, got nan"),
        (MATRIX, {"threshold": "0.5"}, "threshold: expected a number from 0 to 1, got '0.5'"),
        (
            MATRIX,
            {"name": "core", "features": list(FRAME)},
            "feature names: name: 'core/1' is the schema of 11 other features",
        ),
        (MATRIX, {"name": "../up"}, "NAME: expected letters, digits, - and _"),
    ],
)
def test_a_wrong_argument_is_named(rows: Any, options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    model = LogisticRegression().fit(MATRIX * 0, Y)
    with pytest.raises((UsageError, InputError), match=reason):
        add_estimator(model, rows, **{"name": "mine", "models_dir": tmp_path, **options})


def test_a_refusal_leaves_nothing(tmp_path: Path) -> None:
    model = KNeighborsClassifier().fit(MATRIX, Y)
    with pytest.raises((BundleError, TrainingError)):
        add_estimator(model, MATRIX, name="nearest", models_dir=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threshold", [np.float32(0.25), np.float64(0.25), 1, 0])
def test_the_threshold_may_be_any_real_number(threshold: Any, tmp_path: Path) -> None:
    added = add_estimator(
        LogisticRegression().fit(MATRIX * 0, Y), MATRIX, name="mine", models_dir=tmp_path, threshold=threshold
    )
    assert read_bundle(added.folder)[0].decision_threshold == threshold
