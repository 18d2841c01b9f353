"""`volcast models add --features`: schemas of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from numpy.testing import assert_allclose
from onnx import TensorProto

from common.bundle import read_bundle
from common.schema import CORE_1, SCHEMAS, FeatureSchema
from tests.cli.models.adding import add, line, served, write_features
from tests.cli.models.exports import Network, training_data

pytestmark = pytest.mark.usefixtures("here")


def test_own_features_make_a_schema_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    network = Network(width=3)
    entries = ["depth", {"name": "spread", "unit": "quote", "example": 0.01}, {"name": "age"}]
    assert add(network.proto(), "--features", write_features({"name": "book/1", "features": entries})) == 0
    manifest, _ = read_bundle(Path("models/mine/1"))
    assert [(feature.name, feature.unit) for feature in manifest.schema.features] == [
        ("depth", "1"),
        ("spread", "quote"),
        ("age", "1"),
    ]
    assert manifest.schema.name == "book/1"
    assert manifest.self_test.features == (1.0, 0.01, 1.0)
    matrix = training_data(3)[0][:20]
    assert_allclose(served(matrix), network.probabilities(matrix), rtol=0, atol=1e-5)


def test_a_list_of_names_is_enough() -> None:
    assert add(Network(width=2).proto(), "--features", write_features(["a", "b"])) == 0
    assert read_bundle(Path("models/mine/1"))[0].schema.name == "mine/1"


@pytest.mark.parametrize("name", ["core", "full"])
def test_a_model_name_does_not_make_a_second_schema_of_a_built_in_name(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert add(Network(width=2).proto(), "--features", write_features(["a", "b"]), name=name) == 1
    assert f"name: '{name}/1' is the schema of" in line(capfd)
    own = {"name": "own/1", "features": ["a", "b"]}
    assert add(Network(width=2).proto(), "--features", write_features(own), name=name) == 0


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=str)
@pytest.mark.parametrize("with_units", [False, True])
def test_a_built_in_schema_may_be_spelt_out(schema: FeatureSchema, with_units: bool) -> None:
    entries: list[Any] = [{"name": feature.name, "unit": feature.unit} for feature in schema.features]
    content = {"name": schema.name, "features": entries if with_units else list(schema.names)}
    assert add(Network(width=len(schema)).proto(), "--features", write_features(content)) == 0
    stored = read_bundle(Path("models/mine/1"))[0].schema
    assert (stored.name, stored.hash) == (schema.name, schema.hash)


def test_float16_is_adapted() -> None:
    network = Network(width=3, element=TensorProto.FLOAT16)
    assert add(network.proto(), "--features", write_features(["a", "b", "c"])) == 0
    matrix = training_data(3)[0][:20]
    assert_allclose(served(matrix), network.probabilities(matrix), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "features.json: "),
        (b"\xff", "features.json: "),
        (["a"], "takes 2 features, schema mine/1 has 1"),
        (["a", "a"], "features[1]: 'a' is features[0] already"),
        (["a", ""], "features[1]: expected a name of 1 to 128 printable characters"),
        (["a", " b"], "features[1]: expected a name"),
        (["a", "b\n"], "features[1]: expected a name"),
        (["a", "x" * 129], "features[1]: expected a name"),
        (["a", "features"], "features[1]: 'features' is the name of the whole matrix"),
        ([], "expected 1 to 4096 features, got 0"),
        (["a"] * 5000, "expected 1 to 4096 features, got 5000"),
        ([1, 2], "features.json: Expected"),
        ({"a": "b"}, "features.json: "),
        ({"features": [{"name": "a", "units": "1"}, "b"]}, "units"),
        (None, "features.json: Expected"),
        ({"name": "core/1", "features": ["a", "b"]}, "name: 'core/1' is the schema of 11 other features"),
        ({"name": "full/1", "features": ["a", "b"]}, "name: 'full/1' is the schema of 27 other features"),
        ({"name": "core/1", "features": [*CORE_1.names][::-1]}, "name: 'core/1' is the schema of 11 other features"),
        ({"name": "full/1", "features": [*CORE_1.names]}, "name: 'full/1' is the schema of 27 other features"),
        (
            {"name": "core/1", "features": [{"name": name, "unit": "m"} for name in CORE_1.names]},
            "name: 'core/1' is the schema of 11 other features",
        ),
    ],
)
def test_a_features_file_that_is_wrong_is_refused(content: Any, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert add(Network(width=2).proto(), "--features", write_features(content)) == 1
    text = line(capfd)
    assert reason in text
    assert not Path("models/mine/1").exists()
