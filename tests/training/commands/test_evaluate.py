from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.main import run_command
from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest, manifest_json, read_bundle
from common.schema import CORE_1
from tests.training.commands.said import one_line
from tests.training.synthetic import START_NS, market, write_flat, write_recording
from training.forecasting.bundle import make_bundle
from training.forecasting.kinds import kind_named
from training.forecasting.onnx_forecast import OnnxForecast
from training.judging.evaluation_result import ModelEval, decode
from training.problem.data.dataset import fingerprint
from training.problem.forecast_rows import ForecastRows
from training.problem.recordings import Recording, read_recording
from training.problem.target import NS_PER_S
from training.reporting import forecast_report
from training.shipping.bundle_forecasts import BundlePart, GraphForecasts, bundle_part

SHIPPED = Path(__file__).parents[3] / "models" / "volatility" / "3"
HOUR_NS = 3600 * NS_PER_S
QUANTILES = [0.1, 0.9]
QUOTES = "btc_quotes_5s_2021.parquet"


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take a second; their own tests draw them."""
    monkeypatch.setattr(forecast_report, "draw", lambda evaluation, part: {"reliability": b"a picture"})


def evaluate(*arguments: object) -> int:
    return run_command(["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recordings") / "BTC-USD_made_up.ndjson", *market(3000, seed=3))


@pytest.fixture(scope="module")
def rows(recording: Path) -> ForecastRows:
    return read_recording(Recording("made up", (recording,)), CORE_1)


def write(folder: Path, manifest: Manifest, model: bytes, **changes: object) -> Path:
    """A bundle whose training span ended an hour before the recording."""
    span = msgspec.structs.replace(manifest.training, start_ns=START_NS - 25 * HOUR_NS, end_ns=START_NS - HOUR_NS)
    forecast = manifest.forecast and msgspec.structs.replace(manifest.forecast, spans=())
    changes = {"training": span, "forecast": forecast, **changes}
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(model)
    (folder / MANIFEST_FILE).write_bytes(manifest_json(msgspec.structs.replace(manifest, **changes)))
    return folder


@pytest.fixture(scope="module")
def made(rows: ForecastRows) -> tuple[Manifest, bytes]:
    fitted = {kind: kind_named(kind).fit(rows) for kind in ("climatology", "har", "ridge")}
    return make_bundle("volatility", "1", fitted["ridge"], rows, baselines=fitted, alert_level=0.4)


@pytest.fixture(scope="module")
def ours(made: tuple[Manifest, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "volatility" / "1", *made)


@pytest.fixture(scope="module")
def predictions(rows: ForecastRows, made: tuple[Manifest, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the whole system for the rows, as `volcast watch --json` prints them."""
    manifest, model = made
    assert manifest.forecast is not None
    size = manifest.forecast.spike_bps
    answers = OnnxForecast(model).run(rows.features, np.full(len(rows), size), np.tile(QUANTILES, (len(rows), 1)))
    path = tmp_path_factory.mktemp("predictions") / "predictions.ndjson"
    lines = [
        {
            "product_id": "BTC-USD", "event_time_ns": time_ns, "model": "volatility/1", "probability": probability,
            "spike_bps": size, "median_bps": median, "quantiles": QUANTILES, "quantile_bps": quantiles,
        }
        for time_ns, probability, median, quantiles in zip(
            rows.time_ns.tolist(), *(answer.tolist() for answer in answers), strict=True
        )
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(out: Path) -> ModelEval:
    return decode((out / "model_eval.json").read_bytes(), "model_eval.json")


def test_a_forecast_bundle_is_scored_next_to_its_baselines(
    recording: Path, ours: Path, made: tuple[Manifest, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(recording, "--bundle", ours, "--out", tmp_path) == 0
    text = " ".join(capfd.readouterr().out.split())
    words = (f"volatility/1 ({ours})", "Ridge", "Climatology", "CRPS", "80 % interval", "PR-AUC", "wrote")
    assert [word for word in words if word not in text] == []
    result, forecast = read(tmp_path), made[0].forecast
    assert (result.source, result.kind, result.reference) == ("bundle", "ridge", "har")
    assert result.model is not None
    assert result.model.version == "1"
    assert result.data.files == (recording.name,)
    assert tuple(result.headline.models) == ("ridge", "climatology", "har")
    assert forecast is not None
    assert (result.settings.spike_bps, result.settings.alert_level) == (forecast.spike_bps, 0.4)
    assert result.headline.base_rate == pytest.approx(0.1, abs=0.01)
    assert result.headline.models["ridge"].metrics["coverage_80"] == pytest.approx(
        0.8, abs=0.01
    )  # its own training rows
    assert (tmp_path / "model_eval.html").read_text().startswith("<!doctype html>")


def test_answers_of_the_graph_are_those_of_the_trained_form(rows: ForecastRows, made: tuple[Manifest, bytes]) -> None:
    part: BundlePart = bundle_part(*made, rows)
    graph, trained = part.forecasts["ridge"], kind_named("ridge").fit(rows).forecasts(rows.features)
    assert isinstance(graph, GraphForecasts)
    sizes = np.linspace(1, 5, len(rows))
    assert graph.exceedance(sizes) == pytest.approx(trained.exceedance(sizes), abs=1e-6)
    assert graph.median_bps() == pytest.approx(trained.median_bps(), rel=1e-6)
    levels = np.array(QUANTILES)
    assert graph.quantiles_bps(levels) == pytest.approx(trained.quantiles_bps(levels), rel=1e-6)


def test_another_size_and_alert_level_may_be_chosen(recording: Path, ours: Path, tmp_path: Path) -> None:
    options = ("--spike-bps", 2, "--alert-level", 0.9, "--block", "5m")
    assert evaluate(recording, "--bundle", ours, "--out", tmp_path, *options) == 0
    result = read(tmp_path)
    assert (result.headline.spike_bps, result.settings.alert_level, result.settings.block_s) == (2, 0.9, 300)
    assert result.headline.models["ridge"].alerts.alert_level == 0.9


def test_without_a_bundle_the_version_that_answers_is_evaluated_and_named(
    recording: Path,
    made: tuple[Manifest, bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for version in ("1", "2", "3"):
        write(tmp_path / "models" / "volatility" / version, *made, version=version)
    (tmp_path / "models" / "volatility" / "labels.json").write_text('{"stable": "2", "shadow": ["3"]}')
    monkeypatch.setenv("VOLCAST_SERVER__MODELS_DIR", str(tmp_path / "models"))
    assert evaluate(recording, "--out", tmp_path, "--json") == 0
    output = capfd.readouterr().out
    result = decode(output.encode(), "stdout")
    assert result == read(tmp_path)
    assert result.model is not None
    assert result.model.version == "2"
    assert evaluate(recording, "--out", tmp_path) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "volatility/2, the version that answers by default (models/volatility/2)" in text.replace(f"{tmp_path}/", "")


def test_an_old_style_bundle_is_scored_at_its_own_size(
    recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "volatility" / "3", *read_bundle(SHIPPED))
    assert evaluate(recording, "--bundle", folder, "--out", tmp_path) == 0
    assert "it has no CRPS and no coverage" in " ".join(capfd.readouterr().out.split())
    result = read(tmp_path)
    assert (result.kind, result.reference) == ("har_returns", "har")
    assert result.settings.spike_bps == pytest.approx(2.64436)
    assert result.headline.base_rate == pytest.approx(0.1)
    metrics = result.headline.models["har_returns"].metrics
    assert {"log_loss", "brier", "pr_auc"} <= metrics.keys()
    assert "crps_log" not in metrics
    assert evaluate(recording, "--bundle", folder, "--out", tmp_path, "--spike-bps", 4) == 2
    assert "volatility/3 answers at 2.64436 bps only" in one_line(capfd)


def test_rows_of_the_training_span_are_left_out(
    recording: Path, made: tuple[Manifest, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest, model = made
    half = msgspec.structs.replace(manifest.training, start_ns=START_NS - HOUR_NS, end_ns=START_NS + 1000 * NS_PER_S)
    folder = write(tmp_path / "volatility" / "1", manifest, model, training=half)
    assert evaluate(recording, "--bundle", folder, "--out", tmp_path) == 0
    result = read(tmp_path)
    counts = result.data.counts
    assert counts["of_the_training_span"] + counts["evaluated"] == counts["rows"]
    assert result.headline.rows == counts["evaluated"]
    assert result.headline.start_ns > half.end_ns + 60 * NS_PER_S
    assert evaluate(recording, "--bundle", folder, "--out", tmp_path, "--seen") == 0
    assert read(tmp_path).headline.rows == counts["rows"]
    assert "the scores are too good" in read(tmp_path).notes[0]
    capfd.readouterr()
    whole = write(tmp_path / "volatility" / "2", manifest, model, training=manifest.training)
    assert evaluate(recording, "--bundle", whole, "--out", tmp_path) != 0
    assert "rows are from the time that volatility/1 was trained on; --seen evaluates them" in one_line(capfd)


def test_rows_between_two_recordings_of_the_training_part_are_evaluated(
    recording: Path, made: tuple[Manifest, bytes], tmp_path: Path
) -> None:
    manifest, model = made
    before = msgspec.structs.replace(manifest.training, start_ns=START_NS - 9 * HOUR_NS, end_ns=START_NS - HOUR_NS)
    after = msgspec.structs.replace(before, start_ns=START_NS + 2 * HOUR_NS, end_ns=START_NS + 3 * HOUR_NS)
    whole = msgspec.structs.replace(before, end_ns=after.end_ns)
    assert manifest.forecast is not None
    forecast = msgspec.structs.replace(manifest.forecast, spans=(before, after))
    folder = write(tmp_path / "volatility" / "1", manifest, model, training=whole, forecast=forecast)
    assert evaluate(recording, "--bundle", folder, "--out", tmp_path) == 0
    assert "of_the_training_span" not in (counts := read(tmp_path).data.counts)
    assert read(tmp_path).headline.rows == counts["rows"]
    folder = write(tmp_path / "volatility" / "2", manifest, model, training=whole)
    assert evaluate(recording, "--bundle", folder, "--out", tmp_path) == 1


def test_a_flat_recording_needs_only_its_product(ours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flat = write_flat(tmp_path / "quotes.csv", *market(3000, seed=3))
    assert evaluate(flat, "--bundle", ours, "--out", tmp_path) == 1
    assert "add --product NAME" in one_line(capfd)
    assert evaluate(flat, "--product", "BTC-USD", "--bundle", ours, "--out", tmp_path) == 0
    assert "quotes.csv: CSV, one row per tick: time=time, bid=bid, ask=ask" in capfd.readouterr().err
    data = read(tmp_path).data
    assert (data.files, data.counts["ticks"], data.products) == (("quotes.csv",), 3000, ("BTC-USD",))
    assert data.sha256 == fingerprint([flat])


def test_without_files_the_data_set_is_read(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOLCAST_DATA_DIR", str(tmp_path))
    assert evaluate("--dataset", "quotes", "--bundle", ours, "--out", tmp_path) == 1
    assert "no data for --dataset quotes" in one_line(capfd)
    time_ns, mid = market(3000, seed=3)
    times = pa.array(time_ns, pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table({"ts_utc": times, "bid": mid - 0.5, "ask": mid + 0.5}), tmp_path / QUOTES)
    assert evaluate("--dataset", "quotes", "--bundle", ours, "--out", tmp_path) == 0
    assert read(tmp_path).data.files == (QUOTES,)


def test_predictions_are_compared_with_the_bundles_own_answers(
    recording: Path, ours: Path, predictions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = predictions.read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"probability": None})
    (tmp_path / "p.ndjson").write_text("\n".join(lines[:-100]))
    assert evaluate(recording, "--bundle", ours, "--predictions", tmp_path / "p.ndjson", "--out", tmp_path) == 0
    assert "100 have none" not in (text := " ".join(capfd.readouterr().out.split()))
    assert "101 have none" in text
    result = read(tmp_path)
    assert (result.source, result.kind) == ("predictions", "given")
    joined = result.predictions
    assert joined is not None
    assert (joined.without_probability, joined.rows_unmatched) == (1, 101)
    assert joined.rows_matched == result.headline.rows == len(lines) - 101
    assert joined.max_abs_difference < 1e-9
    assert joined.max_rel_difference_median is not None
    assert joined.max_rel_difference_quantiles is not None
    assert max(joined.max_rel_difference_median, joined.max_rel_difference_quantiles) < 1e-9
    models = result.headline.models
    assert models["given"].metrics["log_loss"] == pytest.approx(models["ridge"].metrics["log_loss"])


def test_a_wrong_quantile_of_a_prediction_is_reported(
    recording: Path, ours: Path, predictions: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    lines[7]["quantile_bps"][1] *= 1.5
    (tmp_path / "p.ndjson").write_text("\n".join(map(json.dumps, lines)))
    assert evaluate(recording, "--bundle", ours, "--predictions", tmp_path / "p.ndjson", "--out", tmp_path) == 0
    joined = read(tmp_path).predictions
    assert joined is not None
    assert joined.max_rel_difference_quantiles == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"product_id": "DOGE-USD"}, (), "products: DOGE-USD; of the recording: BTC-USD"),
        ({"model": "volatility/2"}, ("--model", "volatility/3"), "none is by volatility/3; they are by volatility/2"),
        ({"spike_bps": 9.0}, ("--spike-bps", 2), "--spike-bps: the predictions are for 9 bps"),
    ],
)
def test_other_predictions_are_refused_in_a_line(
    recording: Path,
    ours: Path,
    predictions: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: dict[str, object],
    options: tuple[object, ...],
    message: str,
) -> None:
    lines = [json.loads(line) | change for line in predictions.read_text().splitlines()]
    (tmp_path / "p.ndjson").write_text("\n".join(map(json.dumps, lines)))
    options = ("--bundle", ours, "--predictions", tmp_path / "p.ndjson", "--out", tmp_path, *options)
    assert evaluate(recording, *options) != 0
    assert message in one_line(capfd)


def test_predictions_of_several_models_or_sizes_are_refused(
    recording: Path, ours: Path, predictions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = (json.loads(line) for line in predictions.read_text().splitlines())
    path = tmp_path / "p.ndjson"
    path.write_text("\n".join(map(json.dumps, (first, second | {"model": "volatility/2"}))))
    assert evaluate(recording, "--bundle", ours, "--predictions", path) != 0
    assert "they are by volatility/1, volatility/2; choose with --model" in one_line(capfd)
    path.write_text("\n".join(map(json.dumps, (first, second | {"spike_bps": 9.5}))))
    assert evaluate(recording, "--bundle", ours, "--predictions", path) != 0
    assert "spike_bps: expected a single size, got" in one_line(capfd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "volatility/1"), "set --predictions too"),
        (("--spike-bps", 0), "--spike-bps"),
        (("--alert-level", 1.5), "--alert-level"),
        (("--predictions", "absent.ndjson"), "predictions absent.ndjson: cannot be read: No such file or directory"),
        (("--bundle", "absent"), "bundle absent: manifest.json cannot be read"),
    ],
)
def test_wrong_options_are_one_line(
    options: tuple[object, ...], message: str, ours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = () if "--bundle" in options else ("--bundle", ours)
    assert evaluate(*bundle, "--out", tmp_path, *options) != 0
    assert message in one_line(capfd)


def test_a_disk_that_fills_up_leaves_none_of_the_folders_that_were_made(
    recording: Path,
    ours: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert evaluate(recording, "--bundle", ours, "--out", tmp_path / "new" / "reports") != 0
    assert "cannot be written: No space left on device" in one_line(capfd)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_examples(capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--help") == 0
    assert "volcast evaluate RECORDING --predictions predictions.ndjson --json" in capfd.readouterr().out


def test_a_schema_of_another_version_is_named(
    recording: Path, made: tuple[Manifest, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest, model = made
    renamed = msgspec.structs.replace(manifest.schema, name="core/9")
    changed = msgspec.structs.replace(manifest, schema=renamed)
    renamed = msgspec.structs.replace(renamed, hash=_hash(changed))
    folder = write(tmp_path / "volatility" / "1", manifest, model, schema=renamed)
    assert evaluate(recording, "--bundle", folder, "--out", tmp_path) != 0
    assert "takes schema core/9" in one_line(capfd)


def _hash(manifest: Manifest) -> str:
    from common.schema import Feature, FeatureSchema

    features = tuple(Feature(feature.name, feature.unit, "") for feature in manifest.schema.features)
    return FeatureSchema(manifest.schema.name, features).hash
