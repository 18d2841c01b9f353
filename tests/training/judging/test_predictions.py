from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from training.judging.predictions import read_predictions
from training.problem.row_keys import ANY_SEQUENCE

LINES = (
    '{"product_id":"BTC-USD","event_time_ns":1775428514009945409,"probability":0.25,"threshold":0.5,'
    '"model":"volatility/1","latency_ms":1.5,"missing":null,"sequence_num":7}\n'
    '{"product_id":"ETH-USD","event_time_ns":1775428514009945410,"probability":null,"model":"volatility/1"}\n'
)


@pytest.mark.parametrize("name", ["predictions.ndjson", "predictions.ndjson.gz"])
def test_lines_of_volcast_watch_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(LINES.encode()) if name.endswith(".gz") else LINES.encode())
    found = read_predictions(path)
    assert found.product_id == ("BTC-USD", "ETH-USD")
    assert found.event_time_ns.tolist() == [1775428514009945409, 1775428514009945410]
    assert found.sequence_num.tolist() == [7, ANY_SEQUENCE]
    assert found.probability[0] == 0.25
    assert np.isnan(found.probability[1])
    assert found.model == ("volatility/1",) * 2


def test_parquet_says_the_same(tmp_path: Path) -> None:
    columns = {
        "product_id": pa.array(["BTC-USD", "ETH-USD"]).dictionary_encode(),
        "event_time_ns": [1775428514009945409, 1775428514009945410],
        "probability": [0.25, None],
        "model_name": ["volatility", "volatility"],
        "model_version": ["1", "2"],
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    found = read_predictions(tmp_path / "p.parquet")
    assert found.event_time_ns.tolist() == columns["event_time_ns"]
    assert np.isnan(found.probability[1])
    assert found.model == ("volatility/1", "volatility/2")
    assert len(found.of("volatility/2")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file holds none"),
        ("{}\n", ":1: Object missing required field `product_id`"),
        (LINES + "x\n", ":3: JSON is malformed"),
        (LINES.replace("0.25", "1.25"), r"row 1: probability: expected a number in \[0, 1\], got 1.25"),
        (LINES.replace("0.25", '"0.25"'), ":1: Expected `float | null`, got `str`"),
        (LINES.replace("1775428514009945410", "1" * 30), "expected 64 bits at most"),
    ],
)
def test_what_is_no_prediction_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "predictions.ndjson"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_predictions(path)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.ndjson: cannot be read"):
        read_predictions(tmp_path / "absent.ndjson")
    (tmp_path / "cut.ndjson.gz").write_bytes(gzip.compress(LINES.encode())[:-20])
    with pytest.raises(InputError, match=r"cut\.ndjson\.gz"):
        read_predictions(tmp_path / "cut.ndjson.gz")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a complete Parquet file"):
        read_predictions(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"product_id": ["BTC-USD"]}), tmp_path / "bare.parquet")
    with pytest.raises(InputError, match="no column event_time_ns"):
        read_predictions(tmp_path / "bare.parquet")


FORECAST = (
    '{"product_id":"BTC-USD","event_time_ns":5,"probability":0.25,"spike_bps":3.5,"base_rate":0.1,"median_bps":2.0,'
    '"quantiles":[0.1,0.9],"quantile_bps":[1.0,4.0]}\n'
    '{"product_id":"BTC-USD","event_time_ns":6,"probability":null}\n'
)


def test_forecasts_have_size_median_and_quantiles(tmp_path: Path) -> None:
    path = tmp_path / "p.ndjson"
    path.write_text(FORECAST)
    predictions = read_predictions(path)
    assert predictions.sizes_bps == (3.5,)
    assert predictions.median_bps[0] == 2.0
    assert predictions.levels == (0.1, 0.9)
    assert predictions.quantile_bps is not None
    assert predictions.quantile_bps[0].tolist() == [1.0, 4.0]
    assert np.isnan([predictions.median_bps[1], *predictions.quantile_bps[1]]).all()


def test_forecasts_in_parquet_are_read_likewise(tmp_path: Path) -> None:
    columns = {
        "product_id": ["BTC-USD"],
        "event_time_ns": [5],
        "probability": [0.25],
        "spike_bps": [3.5],
        "median_bps": [2.0],
        "quantile_levels": [[0.1, 0.9]],
        "quantile_bps": [[1.0, 4.0]],
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    predictions = read_predictions(tmp_path / "p.parquet")
    assert (predictions.sizes_bps, predictions.levels) == ((3.5,), (0.1, 0.9))
    assert predictions.quantile_bps is not None
    assert predictions.quantile_bps.tolist() == [[1.0, 4.0]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1.0,4.0]", "[1.0]", "row 1: quantile_bps: expected 2 values, a value for each level, got 1"),
        (
            '"event_time_ns":6,',
            '"event_time_ns":6,"quantiles":[0.5],"quantile_bps":[1.0],',
            "quantiles: expected the same levels in all rows",
        ),
    ],
)
def test_quantiles_that_do_not_fit_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "p.ndjson"
    path.write_text(FORECAST.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_predictions(path)
