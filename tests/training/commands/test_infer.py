"""`volcast infer`: predictions of the model, in every file format, and the time of a call."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from cli.main import run_command
from common.bundle import Manifest
from common.model_store import ModelStore
from common.schema import CORE_1
from tests.training.forecasting.samples import sample_rows
from tests.training.monitoring.bundles import OLD_STYLE, SPIKE_BPS
from tests.training.synthetic import market, write_recording
from training.forecasting.bundle import make_bundle
from training.forecasting.form import FittedForecast
from training.forecasting.kinds import kind_named
from training.problem.forecast_rows import ForecastRows
from training.shipping.trained_form import trained_files

ROWS = 50
COLUMNS = [
    "probability", "spike", "threshold", "model", "spike_bps", "base_rate", "median_bps", "quantiles", "quantile_bps",
]  # fmt: skip


@dataclass(frozen=True)
class Made:
    manifest: Manifest
    model: bytes
    fitted: FittedForecast
    rows: ForecastRows


@cache
def make() -> Made:
    rows = sample_rows(1000, CORE_1)
    fitted = kind_named("ridge").fit(rows)
    return Made(*make_bundle("volatility", "1", fitted, rows, spike_bps=SPIKE_BPS), fitted, rows)


@pytest.fixture
def made() -> Made:
    return make()


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


def expected(made: Made, size: float = SPIKE_BPS) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Probabilities of the trained form; the second row has a feature that is not finite."""
    probability = made.fitted.forecasts(made.rows.features[:ROWS]).exceedance(size)
    probability[1] = np.nan
    return probability


def as_floats(values: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if value in (None, "") else float(value) for value in values])


def test_parquet_in_parquet_out(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert infer(parquet(made), "--out", "out.parquet", "--json") == 0
    table = pq.read_table("out.parquet")
    assert table.column_names == ["product_id", "event_time_ns", *COLUMNS]
    assert_allclose(as_floats(table["probability"].to_pylist()), expected(made), rtol=0, atol=1e-6)
    assert table["spike"].to_pylist()[1] is None
    output = json.loads(capfd.readouterr().out)
    assert (output["rows"], output["scored"], output["not_finite"]) == (ROWS, ROWS - 1, 1)
    assert output["spikes"] == int(np.sum(expected(made) >= 0.5))


def test_size_and_quantiles_are_those_of_the_options(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--spike-bps", 3.5, "--quantiles", "0.1,0.9", "--out", "out.ndjson", "--json")
    assert infer(parquet(made), *options) == 0
    summary = json.loads(capfd.readouterr().out)
    lines = [json.loads(line) for line in Path("out.ndjson").read_text().splitlines()]
    forecasts = made.fitted.forecasts(made.rows.features[:ROWS])
    quantiles, median = forecasts.quantiles_bps(np.array([0.1, 0.9])), forecasts.median_bps()
    assert [name for name in lines[1] if lines[1][name] is None] == [
        "probability",
        "spike",
        "median_bps",
        "quantile_bps",
    ]
    assert_allclose(as_floats([line["probability"] for line in lines]), expected(made, 3.5), rtol=0, atol=1e-6)
    for line, row, middle in [*zip(lines, quantiles, median, strict=True)][2:]:
        assert_allclose(line["quantile_bps"], row, rtol=1e-6)
        assert line["median_bps"] == pytest.approx(middle, rel=1e-6)
        assert (line["spike_bps"], line["quantiles"], line["model"]) == (3.5, [0.1, 0.9], "volatility/1")
        assert line["base_rate"] == summary["base_rate"]
    assert summary["base_rate"] == pytest.approx(np.mean(made.rows.outcome_bps >= 3.5), abs=0.01)


def test_an_old_style_model_gives_a_probability_at_its_own_size(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    ModelStore(Path("old"), "volatility").put(*OLD_STYLE, {})
    assert infer(parquet(made), "--bundle", "old/volatility/1", "--out", "out.parquet") == 0
    assert pq.read_table("out.parquet").column_names == ["product_id", "event_time_ns", "probability", "spike"]
    for option in (("--spike-bps", "2"), ("--quantiles", "0.5")):
        assert infer(parquet(made), "--bundle", "old/volatility/1", *option) == 2
        assert f"{option[0]}: volatility/1 gives a probability at its own size only" in capfd.readouterr().err
    assert infer("--bundle", "old/volatility/1", "--benchmark", "--batch-sizes", "1") == 0
    assert "volatility/1 forecasts no distribution: no trained form is compared" in capfd.readouterr().out


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
    output = capfdbinary.readouterr()
    rows = [json.loads(line) for line in output.out.splitlines()]
    probabilities = [row["probability"] for row in rows]
    assert_allclose(probabilities, made.fitted.forecasts(made.rows.features[:3]).exceedance(SPIKE_BPS), atol=1e-6)
    assert b"3 of 3 rows scored by volatility/1" in output.err


def test_a_null_feature_gets_no_answer(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = dict.fromkeys(made.rows.schema.names, 1e-4)
    Path("rows.ndjson").write_text(json.dumps(row) + "\n" + json.dumps(row | {"price": None}) + "\n")
    assert infer("rows.ndjson", "--out", "out.json") == 0
    assert [line["probability"] is None for line in json.loads(Path("out.json").read_text())] == [False, True]


def test_the_benchmark_times_both_forms(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert infer(parquet(made), "--benchmark", "--batch-sizes", "1,64", "--json") == 0
    output = json.loads(capfd.readouterr().out)
    assert [batch["rows"] for batch in output["batches"]] == [1, 64]
    for batch in output["batches"]:
        assert batch["ratio"] == pytest.approx(batch["trained_us"] / batch["onnx_us"])
        assert batch["onnx_us"] > 0.1
    assert output["max_abs_difference"] < 1e-6
    assert (output["called"], output["trained"]) == ("InferenceSession.run", "models/volatility/1")


def test_the_benchmark_is_a_table_and_needs_no_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert infer("--benchmark", "--batch-sizes", "1") == 0
    output = capfd.readouterr().out
    assert "volatility/1 (ridge): median time of a call, one thread" in output
    assert "ONNX Runtime by InferenceSession.run" in output
    assert "both forms differ by" in output


def test_the_benchmark_says_where_there_is_no_trained_form(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    Path("models/volatility/1/trained.json").unlink()
    assert infer("--benchmark", "--batch-sizes", "1") == 0
    output = capfd.readouterr().out
    assert "trained form, µs" not in output
    assert "no trained form is kept beside models/volatility/1, and no run in data/runs made it" in output
    assert "`models promote` puts trained.json beside a bundle; --trained FOLDER names one" in output


def test_a_file_without_the_features_names_them(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(parquet(made)).drop_columns(["price", "volatility"])
    pq.write_table(table, "rows.parquet")
    assert infer("rows.parquet", "--out", "out.csv") == 1
    line = capfd.readouterr().err
    assert "schema core/1 84feff5ea705 needs columns that are not there: price, volatility" in line
    assert sorted(path.name for path in Path().iterdir()) == ["models", "rows.parquet"]


@pytest.mark.parametrize("name", ["messages.ndjson", "messages.ndjson.gz", "ticks.csv", "ticks.parquet"])
def test_for_a_recording_the_command_that_makes_rows_is_named(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = Path(name)
    times = [f"2025-12-01T00:00:0{second}Z" for second in range(3)]
    rows = {"product": ["BTC-USD"] * 3, "time": times, "bid": [99.0, 98.0, 97.0], "ask": [100.0, 99.0, 98.0]}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(rows), path)
    elif path.suffix == ".csv":
        with path.open("w") as file:
            csv.writer(file).writerows([rows, *zip(*rows.values(), strict=True)])
    else:
        write_recording(path, *market(60, seed=1))
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    assert infer(name, "--out", "out.parquet") == 1
    command = f"volcast features --data-file {name} --schema core/1 --out features.parquet"
    line = capfd.readouterr().err
    assert line == f"volcast: {name}: expected rows of features, got a recording; first run `{command}`\n"


@pytest.mark.parametrize(
    ("name", "content", "output"),
    [
        ("rows.parquet", b"PAR1", "not a complete Parquet file: expected a footer that can be read"),
        ("rows.ndjson", b"{\n", "rows.ndjson:1:"),
        ("rows.ndjson", b"\n", "no row in it"),
        ("rows.ndjson", b"[1]\n", "rows.ndjson:1: Expected `object`"),
    ],
)
def test_a_damaged_file_is_one_line(name: str, content: bytes, output: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path(name).write_bytes(content)
    assert infer(name, "--out", "out.parquet") == 1
    line = capfd.readouterr().err
    assert output in line
    assert line.count("\n") == 1
    assert not Path("out.parquet").exists()


def test_rows_of_another_schema_are_refused_whatever_their_columns_are(
    made: Made, capfd: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(parquet(made))
    named = {b"volcast.schema.name": b"core/9", b"volcast.schema.hash": b"0123456789ab"}
    pq.write_table(table.replace_schema_metadata(named), "rows.parquet")
    assert infer("rows.parquet", "--out", "out.csv") == 1
    output = capfd.readouterr().err
    assert f"expected rows of schema core/1 ({made.rows.schema.hash}), got core/9 (0123456789ab)" in output
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("option", ["--bundle", "--model-path"])
def test_a_bundle_is_named_as_in_the_other_commands_or_by_the_older_name(
    made: Made, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ModelStore(Path("elsewhere"), "other").put(made.manifest, made.model, {})
    assert infer(parquet(made), option, "elsewhere/other/1", "--out", "out.csv", "--json") == 0
    assert json.loads(capfd.readouterr().out)["model"] == "other"


def test_text_in_a_feature_is_named(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    assert infer(parquet(made, price=["much"] * ROWS)) == 1
    assert "column price: expected numbers" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ((), "name a FILE of rows, or --benchmark"),
        (("rows.ndjson", "--json"), "name a file with --out"),
        (("rows.ndjson", "--out", "out.xlsx"), "expected a name that ends in .parquet, .csv, .json, .ndjson, or -"),
        (("--benchmark", "--batch-sizes", "1,x"), "is no list of batch sizes"),
        (("rows.ndjson", "--quantiles", "0.5,x"), "is no list of levels"),
        (("rows.ndjson", "--quantiles", "0.5,0.5"), "expected at most 16 ascending levels in (0, 1)"),
        (("rows.ndjson", "--quantiles", "0.5,1"), "expected at most 16 ascending levels in (0, 1)"),
        (("rows.ndjson", "--quantiles", "0,0.5"), "expected at most 16 ascending levels in (0, 1)"),
        (("rows.ndjson", "--quantiles", ",".join(f"{n / 18}" for n in range(1, 18))), "at most 16 ascending levels"),
        (("rows.ndjson", "--spike-bps", "-1"), "'--spike-bps': expected a number above 0, got -1"),
        (("rows.ndjson", "--spike-bps", "inf"), "'--spike-bps': expected a number above 0, got inf"),
        (("rows.ndjson", "--spike-bps", "nan"), "'--spike-bps': expected a number above 0, got nan"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], output: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert infer(*arguments) == 2
    assert output in capfd.readouterr().err
