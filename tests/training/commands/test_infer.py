"""`volcast infer`: the same probabilities as the model's, in every form, and what a call costs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from cli.main import run_command
from common.model_store import ModelStore
from tests.training.runs import Made, first
from training.shipping.trained_form import trained_files

ROWS = 50


@pytest.fixture(scope="module")
def made() -> Made:
    return first()


@pytest.fixture(autouse=True)
def _here(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ModelStore(Path("models"), "volatility").put(made.manifest, made.model, trained_files(made.fitted))


def infer(*arguments: object) -> int:
    return run_command(["infer", *map(str, arguments)])


def parquet(made: Made, path: str = "rows.parquet", **changed: Any) -> str:
    """The first rows as `volcast features` writes them: more columns than are needed, the second row not warm."""
    features = made.rows.features[:ROWS].copy()
    features[1] = np.nan
    columns: dict[str, Any] = {
        "product_id": pa.array(["BTC-USD"] * ROWS).dictionary_encode(),
        "event_time_ns": made.rows.time_ns[:ROWS],
        "warm": [True] * ROWS,
        **{name: features[:, number] for number, name in enumerate(made.rows.schema.names)},
        "another": np.zeros(ROWS),
    }
    pq.write_table(pa.table(columns | changed), path)
    return path


def expected(made: Made) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.where(np.arange(ROWS) == 1, np.nan, at_default_size(made, made.rows.features[:ROWS]))


def at_default_size(made: Made, features: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    assert made.manifest.forecast is not None
    return made.fitted.forecasts(features).exceedance(made.manifest.forecast.spike_bps)


def as_floats(values: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if value in (None, "") else float(value) for value in values])


def test_parquet_in_parquet_out(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert infer(parquet(made), "--out", "out.parquet", "--json") == 0
    table = pq.read_table("out.parquet")
    assert table.column_names == ["product_id", "event_time_ns", "probability", "spike"]
    assert_allclose(as_floats(table["probability"].to_pylist()), expected(made), rtol=0, atol=1e-6)
    assert table["spike"].to_pylist()[1] is None
    said = json.loads(capfd.readouterr().out)
    assert (said["rows"], said["scored"], said["not_finite"]) == (ROWS, ROWS - 1, 1)
    assert said["spikes"] == int(np.sum(expected(made) >= 0.5))


@pytest.mark.parametrize("suffix", ["csv", "json", "ndjson"])
def test_every_form_holds_the_same(made: Made, suffix: str) -> None:
    assert infer(parquet(made), "--out", f"out.{suffix}") == 0
    text = Path(f"out.{suffix}").read_text()
    if suffix == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
    elif suffix == "json":
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.splitlines()]
    assert_allclose(as_floats([row["probability"] for row in rows]), expected(made), rtol=0, atol=1e-6)
    assert [row["product_id"] for row in rows] == ["BTC-USD"] * ROWS


@pytest.mark.parametrize("nested", [True, False])
def test_json_lines_in_and_on_standard_output(
    made: Made, nested: bool, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    lines = []
    for row in made.rows.features[:3].tolist():
        features = dict(zip(made.rows.schema.names, row, strict=True))
        lines.append(json.dumps({"product_id": "BTC-USD", **({"features": features} if nested else features)}))
    Path("rows.ndjson").write_text("\n".join(lines) + "\n\n")
    assert infer("rows.ndjson") == 0
    said = capfdbinary.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    found = [row["probability"] for row in rows]
    assert_allclose(found, at_default_size(made, made.rows.features[:3]), rtol=0, atol=1e-6)
    assert b"3 of 3 rows scored by volatility/1" in said.err


def test_a_null_feature_gets_no_answer(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = dict.fromkeys(made.rows.schema.names, 1e-4)
    Path("rows.ndjson").write_text(json.dumps(row) + "\n" + json.dumps(row | {"price": None}) + "\n")
    assert infer("rows.ndjson", "--out", "out.json") == 0
    assert [one["probability"] is None for one in json.loads(Path("out.json").read_text())] == [False, True]


def test_the_benchmark_times_both_forms(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert infer(parquet(made), "--benchmark", "--batch-sizes", "1,64", "--json") == 0
    said = json.loads(capfd.readouterr().out)
    assert [batch["rows"] for batch in said["batches"]] == [1, 64]
    for batch in said["batches"]:
        assert batch["ratio"] == pytest.approx(batch["trained_us"] / batch["onnx_us"])
        assert batch["onnx_us"] > 0.1
    assert said["max_abs_difference"] < 1e-6
    assert (said["called"], said["trained"]) == ("InferenceSession.run", "models/volatility/1")


def test_the_benchmark_is_a_table_and_needs_no_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert infer("--benchmark", "--batch-sizes", "1") == 0
    said = capfd.readouterr().out
    assert "volatility/1 (har): median time of a call, one thread" in said
    assert "ONNX Runtime by InferenceSession.run" in said
    assert "the two differ by" in said


def test_the_benchmark_says_where_there_is_no_trained_form(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    Path("models/volatility/1/trained.json").unlink()
    assert infer("--benchmark", "--batch-sizes", "1") == 0
    said = capfd.readouterr().out
    assert "trained form, µs" not in said
    assert "no trained form of a forecast is kept beside models/volatility/1, and no run in data/runs made it" in said
    assert "`models promote` puts trained.json beside a bundle; --trained names another folder" in said


def test_a_file_without_the_features_names_them(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(parquet(made)).drop_columns(["price", "volatility"])
    pq.write_table(table, "rows.parquet")
    assert infer("rows.parquet", "--out", "out.csv") == 1
    line = capfd.readouterr().err
    assert "schema core/1 84feff5ea705 needs columns that are not there: price, volatility" in line
    assert sorted(path.name for path in Path().iterdir()) == ["models", "rows.parquet"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.parquet", b"PAR1", "not a complete Parquet file: expected a footer that can be read"),
        ("rows.ndjson", b"{\n", "rows.ndjson:1:"),
        ("rows.ndjson", b"\n", "no row in it"),
        ("rows.ndjson", b"[1]\n", "rows.ndjson:1: Expected `object`"),
    ],
)
def test_a_damaged_file_is_one_line(name: str, content: bytes, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path(name).write_bytes(content)
    assert infer(name, "--out", "out.parquet") == 1
    line = capfd.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not Path("out.parquet").exists()


def test_rows_of_another_schema_are_refused_whatever_their_columns_are(
    made: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(parquet(made))
    named = {b"volcast.schema.name": b"core/9", b"volcast.schema.hash": b"0123456789ab"}
    pq.write_table(table.replace_schema_metadata(named), "rows.parquet")
    assert infer("rows.parquet", "--out", "out.csv") == 1
    said = capfd.readouterr().err
    assert f"expected rows of schema core/1 ({made.rows.schema.hash}), got core/9 (0123456789ab)" in said
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("option", ["--bundle", "--model-path"])
def test_a_bundle_is_named_as_in_the_other_commands_or_by_the_older_name(
    made: Made, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ModelStore(Path("elsewhere"), "other").put(made.manifest, made.model, {})
    assert infer(parquet(made), option, "elsewhere/other/1", "--out", "out.csv", "--json") == 0
    assert json.loads(capfd.readouterr().out)["model"] == "other"


def test_text_in_a_feature_is_told(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert infer(parquet(made, price=["much"] * ROWS)) == 1
    assert "column price: expected numbers" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a FILE of rows, or --benchmark"),
        (("rows.ndjson", "--json"), "name a file with --out"),
        (("rows.ndjson", "--out", "out.xlsx"), "expected a name that ends in .parquet, .csv, .json, .ndjson, or -"),
        (("--benchmark", "--batch-sizes", "1,x"), "is no list of batch sizes"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert infer(*arguments) == 2
    assert said in capfd.readouterr().err
