"""A trained form on disk gives the same bits, and a damaged file is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from common.errors import InputError
from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from tests.training.forecasting.samples import sample_rows
from training.forecasting.form import FittedForecast
from training.forecasting.kinds import kind_named, usable_kinds
from training.shipping.trained_form import (
    TRAINED_FILE,
    TREES_FILE,
    form_beside,
    read_trained,
    require_schema,
    trained_files,
)


def written(folder: Path, fitted: FittedForecast) -> Path:
    for name, data in trained_files(fitted).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("schema", [CORE_1, FULL_1, FULL_2], ids=lambda schema: schema.name)
def test_every_kind_comes_back_bit_for_bit(schema: FeatureSchema, tmp_path: Path) -> None:
    rows = sample_rows(1500, schema)
    for kind in usable_kinds(schema):
        fitted = kind.fit(rows)
        folder = tmp_path / kind.name
        folder.mkdir()
        read = read_trained(written(folder, fitted))
        assert (read.kind, read.design, read.trees, read.floor_bps) == (
            fitted.kind,
            fitted.design,
            fitted.trees,
            fitted.floor_bps,
        )
        for name in ("location", "log_scale", "knots", "levels"):
            assert_array_equal(getattr(read, name), getattr(fitted, name))
        assert_array_equal(read.forecasts(rows.features).location, fitted.forecasts(rows.features).location)
        assert form_beside(folder) == trained_files(fitted)


def with_field(folder: Path, name: str, value: Any) -> Path:
    path = folder / TRAINED_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    return folder


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format", 1, "format: expected 2, got 1"),
        ("location", [1.0], "weights and a knot for each level"),
        ("knots", [0.0], "weights and a knot for each level"),
        ("floor_bps", "low", "Expected `float`"),
        ("units", [{"name": "other", "weights": {"other": 1.0}, "bias": 0.0}], "no feature other"),
    ],
)
def test_a_damaged_form_is_refused(field: str, value: Any, reason: str, tmp_path: Path) -> None:
    written(tmp_path, kind_named("har").fit(sample_rows(1500)))
    with pytest.raises(InputError, match=reason):
        read_trained(with_field(tmp_path, field, value))


def test_knots_that_do_not_ascend_are_refused(tmp_path: Path) -> None:
    fitted = kind_named("har").fit(sample_rows(1500))
    written(tmp_path, fitted)
    with pytest.raises(InputError, match="expected ascending levels and knots"):
        read_trained(with_field(tmp_path, "knots", np.sort(fitted.knots)[::-1].tolist()))


def test_trees_of_another_model_are_refused(tmp_path: Path) -> None:
    fitted = kind_named("xgboost").fit(sample_rows(1500))
    (written(tmp_path, fitted) / TREES_FILE).write_bytes(fitted.trees + b" ")
    with pytest.raises(InputError, match=r"trees.json is damaged"):
        read_trained(tmp_path)


def test_a_missing_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trained.json cannot be read"):
        read_trained(tmp_path)
    assert form_beside(tmp_path) == {}


def test_a_form_of_another_schema_than_the_bundle_is_refused() -> None:
    fitted = kind_named("har").fit(sample_rows(1500))
    require_schema(fitted, FULL_2)
    with pytest.raises(InputError, match="the trained form takes full/2"):
        require_schema(fitted, CORE_1)
