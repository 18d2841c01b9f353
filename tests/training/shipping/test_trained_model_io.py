"""The trained form comes back from disk as it went: the same probabilities, from files that run no code."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.bundle import Calibration
from common.errors import InputError
from common.schema import CORE_1, FULL_1
from tests.training.runs import draw_rows
from training.models import KINDS, Fitted
from training.models.trees import XGBoost
from training.problem.labels import labels
from training.shipping.onnx_model import OnnxModel
from training.shipping.trained_model_io import TRAINED_FILE, TREES_FILE, read_trained, require_schema, trained_files

ROWS = draw_rows(1500, seed=4, schema=FULL_1)
Y = labels(ROWS.future_volatility, 1.0)


def fitted(kind: str) -> Fitted:
    made = KINDS[kind]
    params = dict(made.defaults(FULL_1))
    if kind == "xgboost":
        params |= {"trees": 20}
    return made.fit(ROWS, Y, params, 0).calibrated(Calibration(0.9, -0.2))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_the_same_from_disk(kind: str, tmp_path: Path) -> None:
    model = fitted(kind)
    read = read_trained(write(tmp_path, trained_files(model)))
    assert_allclose(read.probabilities(ROWS.features), model.probabilities(ROWS.features), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_agrees_with_its_graph_on_wild_rows_too(kind: str, tmp_path: Path) -> None:
    model = fitted(kind)
    wild = np.random.default_rng(0).normal(0, 1, ROWS.features.shape) * 10.0 ** np.arange(-13, 14)
    read = read_trained(write(tmp_path, trained_files(model)))
    assert_allclose(OnnxModel(model.to_onnx()).probabilities(wild), read.probabilities(wild), rtol=0, atol=1e-5)


def test_trees_that_start_from_a_rate_keep_it(tmp_path: Path) -> None:
    kind = XGBoost()
    model = kind.fit(ROWS, Y, {**kind.defaults(FULL_1), "base": "rate", "trees": 20}, 0)
    read = read_trained(write(tmp_path, trained_files(model)))
    assert read.form.linear is None
    assert read.form.constant < 0
    assert_allclose(read.probabilities(ROWS.features), model.probabilities(ROWS.features), rtol=0, atol=1e-7)


def test_the_same_fit_gives_the_same_files() -> None:
    assert trained_files(fitted("xgboost")) == trained_files(fitted("xgboost"))


def test_no_file_is_a_pickle() -> None:
    files = trained_files(fitted("xgboost"))
    assert sorted(files) == [TRAINED_FILE, TREES_FILE]
    msgspec.json.decode(files[TRAINED_FILE])
    assert files[TREES_FILE].startswith(b"{L")  # UBJSON's object


def test_damaged_trees_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path, trained_files(fitted("xgboost")))
    data = bytearray((folder / TREES_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / TREES_FILE).write_bytes(data)
    with pytest.raises(InputError, match=r"trees\.ubj is damaged"):
        read_trained(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"format": 1', b'"format": 9', "format: expected 1, got 9"),
        (b'"columns"', b'"colums"', "missing required field `columns`"),
        (b'"volatility_5s"', b'"other"', "expected columns of its features"),
    ],
)
def test_a_file_that_is_wrong_is_told(old: bytes, new: bytes, said: str, tmp_path: Path) -> None:
    files = trained_files(fitted("har"))
    folder = write(tmp_path, files)
    (folder / TRAINED_FILE).write_bytes(files[TRAINED_FILE].replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        read_trained(folder)


def test_a_form_of_other_features_does_not_stand_for_the_bundle(tmp_path: Path) -> None:
    read = read_trained(write(tmp_path, trained_files(fitted("har"))))
    require_schema(read, FULL_1)
    with pytest.raises(InputError, match="takes full/1, the bundle core/1"):
        require_schema(read, CORE_1)
