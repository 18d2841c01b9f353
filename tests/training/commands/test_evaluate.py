from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.main import run_command
from common.bundle import MANIFEST_FILE, MODEL_FILE, LinearForm, Manifest, read_bundle
from common.schema import CORE_1
from tests.training.commands.said import one_line
from tests.training.synthetic import START_NS, market, write_recording
from training.judging.evaluation.result import ModelEval, decode
from training.problem.data import load
from training.problem.ticks import NS_PER_S
from training.reporting import evaluation_report as reports
from training.reporting.evaluation_plots import pictures
from training.shipping.onnx_model import OnnxModel
from training.shipping.scoring import score

SHIPPED = Path(__file__).parents[3] / "models" / "volatility" / "1"
HOUR_NS = 3600 * NS_PER_S
FEW = ("--resamples", 40)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take a second; one test draws them."""
    monkeypatch.setattr(reports, "pictures", lambda evaluation, parts: {"reliability.png": b"a picture"})


def evaluate(*arguments: object) -> int:
    return run_command(["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recordings") / "BTC-USD_made_up.ndjson", *market(1500, seed=3))


def bundle(folder: Path, **changes: object) -> Path:
    """The shipped model with a manifest of our own: trained the day before, beside one baseline."""
    manifest, model = read_bundle(SHIPPED)
    before = msgspec.structs.replace(manifest.training, start_ns=START_NS - 25 * HOUR_NS, end_ns=START_NS - HOUR_NS)
    baseline = LinearForm(("volatility",), (1e-6,), (3.0,), 22.0, decision_threshold=0.3)
    label = msgspec.structs.replace(manifest.label, threshold=1.6e-4)
    ours = msgspec.structs.replace(
        manifest, **{"training": before, "baselines": {"har": baseline}, "label": label, **changes}
    )
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(model)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(ours))
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("models") / "volatility" / "1")


@pytest.fixture(scope="module")
def predictions(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the whole system would have said of every tick."""
    rows = load([recording], schema=CORE_1, sample_period_s=0).rows
    said = OnnxModel((SHIPPED / MODEL_FILE).read_bytes()).probabilities(rows.features)
    path = tmp_path_factory.mktemp("predictions") / "predictions.ndjson"
    lines = [
        {"product_id": "BTC-USD", "event_time_ns": time_ns, "probability": one, "model": "volatility/1"}
        for time_ns, one in zip(rows.time_ns.tolist(), said.tolist(), strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(out: Path) -> ModelEval:
    return decode((out / "model_eval.json").read_bytes(), "model_eval.json")


def test_writes_the_report_and_says_what_it_comes_to(
    recording: Path, ours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "pictures", pictures)
    assert evaluate(recording, "--bundle", ours, "--out", tmp_path, *FEW) == 0
    text = " ".join(capfd.readouterr().out.split())
    words = ("PR-AUC", "HAR logit", "ECE", "median lead time", "PR-AUC, 95 %", "wrote")
    assert [word for word in words if word not in text] == []
    found = read(tmp_path)
    assert (found.source, found.primary, found.reference) == ("bundle", "logistic", "har")
    assert found.model is not None
    assert found.model.version == "1"
    assert found.data.files == (recording.name,)
    assert found.headline.label_threshold == 1.6e-4
    assert found.headline.models["har"].decision_threshold == 0.3
    assert (tmp_path / "model_eval.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "model_eval" / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_bundle_the_version_that_answers_is_judged_and_named(
    recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2", "3"):
        bundle(tmp_path / "models" / "volatility" / version, version=version)
    (tmp_path / "models" / "volatility" / "labels.json").write_text('{"stable": "2", "shadow": ["3"]}')
    monkeypatch.setenv("VOLCAST_SERVER__MODELS_DIR", str(tmp_path / "models"))
    assert evaluate(recording, "--out", tmp_path, *FEW) == 0
    found = read(tmp_path)
    assert found.model is not None
    assert found.model.version == "2"
    text = " ".join(capfd.readouterr().out.split())
    assert "volatility/2, the version that answers by default (models/volatility/2)" in text.replace(f"{tmp_path}/", "")


def test_a_bundle_that_was_named_is_named_in_the_output(
    recording: Path, ours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(recording, "--bundle", ours, "--out", tmp_path, *FEW) == 0
    assert f"volatility/1 ({ours})" in " ".join(capfd.readouterr().out.split())


def test_json_is_the_evaluation_itself(
    recording: Path, ours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(recording, "--bundle", ours, "--out", tmp_path, "--json", *FEW) == 0
    assert decode(capfd.readouterr().out.encode(), "stdout") == read(tmp_path)


def test_rows_from_the_time_of_training_are_set_aside(
    recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained_until = msgspec.structs.replace(
        read_bundle(SHIPPED)[0].training, start_ns=START_NS - HOUR_NS, end_ns=START_NS + 500 * NS_PER_S
    )
    half = bundle(tmp_path / "volatility" / "1", training=trained_until)
    assert evaluate(recording, "--bundle", half, "--out", tmp_path / "a", *FEW) == 0
    found = read(tmp_path / "a")
    assert found.headline.start_ns > START_NS + (500 + 120) * NS_PER_S  # behind the embargo
    assert found.data.counts["set_aside_seen_in_training"] > 0
    assert evaluate(recording, "--bundle", half, "--out", tmp_path / "b", "--seen", *FEW) == 0
    assert "the figures flatter" in " ".join(read(tmp_path / "b").notes)


def test_a_recording_that_was_trained_on_gives_nothing_to_evaluate(
    recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(recording, "--bundle", SHIPPED, "--out", tmp_path, *FEW) == 1
    assert "all of them from the time that the model was trained on" in one_line(capfd)
    assert not (tmp_path / "model_eval.json").exists()


def test_predictions_of_the_same_model_score_the_same(
    recording: Path, ours: Path, predictions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(recording, "--bundle", ours, "--predictions", predictions, "--out", tmp_path, *FEW) == 0
    found = read(tmp_path)
    assert found.predictions is not None
    assert found.predictions.max_abs_difference == 0.0
    assert (found.predictions.rows_unmatched, found.primary) == (0, "given")
    assert found.headline.models["given"] == found.headline.models["logistic"]
    assert "differ from the bundle's own by at most 0" in " ".join(capfd.readouterr().out.split())


def test_rows_without_a_prediction_are_counted_and_left_out(
    recording: Path, ours: Path, predictions: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    lines[200]["probability"] = None
    lines[201]["probability"] += 0.01
    columns = {name: [line[name] for line in lines[100:]] for name in ("product_id", "event_time_ns", "probability")}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    out = tmp_path / "out"
    assert evaluate(recording, "--bundle", ours, "--predictions", tmp_path / "p.parquet", "--out", out, *FEW) == 0
    given = read(out).predictions
    assert given is not None
    assert (given.without_probability, given.rows_matched + given.rows_unmatched) == (1, len(lines))
    assert given.rows_unmatched == 101
    assert given.max_abs_difference == pytest.approx(0.01)


def test_an_older_bundle_is_evaluated_without_baselines_and_it_is_said(recording: Path, tmp_path: Path) -> None:
    older = bundle(tmp_path / "volatility" / "1", baselines={})
    assert evaluate(recording, "--bundle", older, "--out", tmp_path, *FEW) == 0
    found = read(tmp_path)
    assert list(found.headline.models) == ["logistic"]
    assert any("holds no baselines" in note for note in found.notes)


def test_baselines_that_need_more_features_bring_the_wider_schema(recording: Path, tmp_path: Path) -> None:
    wider = LinearForm(("volatility_300s",), (1e-6,), (3.0,), 22.0)
    folder = bundle(tmp_path / "volatility" / "1", baselines={"har": wider})
    assert evaluate(recording, "--bundle", folder, "--out", tmp_path, *FEW) == 0
    assert list(read(tmp_path).headline.models) == ["logistic", "har"]


def _quotes_schema(manifest: Manifest) -> object:
    return msgspec.structs.replace(manifest.schema, name="core/9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "absent"], "manifest.json cannot be read"),
        (["--model", "volatility/1"], "--model chooses rows of --predictions: set --predictions too"),
        (["--predictions", "absent.ndjson"], "absent.ndjson: cannot be read"),
        (["absent.ndjson"], "absent.ndjson: no such file"),
        (["--resamples", "3"], "--resamples"),
        (["--alarms-per-hour", "0"], "--alarms-per-hour"),
    ],
)
def test_wrong_options_are_one_line(
    ours: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--bundle" in arguments else ["--bundle", ours]
    assert evaluate(*given, *arguments) != 0
    assert message in one_line(capfd)


def test_predictions_of_other_rows_are_refused(
    recording: Path, ours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "p.ndjson"
    elsewhere.write_text('{"product_id":"ETH-USD","event_time_ns":5,"probability":0.5}\n')
    assert evaluate(recording, "--bundle", ours, "--predictions", elsewhere, "--out", tmp_path, *FEW) == 1
    assert "no prediction is of a row of the recording" in one_line(capfd)


def test_predictions_of_several_models_must_be_told_apart(
    recording: Path, ours: Path, predictions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "p.ndjson"
    mixed.write_text(predictions.read_text() + predictions.read_text().replace("volatility/1", "volatility/2"))
    arguments = (recording, "--bundle", ours, "--predictions", mixed, "--out", tmp_path, *FEW)
    assert evaluate(*arguments) == 2
    assert "they are by volatility/1, volatility/2; choose with --model" in one_line(capfd)
    assert evaluate(*arguments, "--model", "volatility/3") == 1
    assert "none is by volatility/3" in one_line(capfd)
    assert evaluate(*arguments, "--model", "volatility/2") == 0


def test_a_schema_of_another_version_is_named(
    recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = bundle(tmp_path / "volatility" / "1", schema=_quotes_schema(read_bundle(SHIPPED)[0]))
    assert evaluate(recording, "--bundle", other, "--out", tmp_path) == 1
    assert "takes schema core/9" in one_line(capfd)


def test_a_disk_that_refuses_is_one_line_and_leaves_the_old_report(
    recording: Path, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model_eval.json").write_text("old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert evaluate(recording, "--bundle", ours, "--out", tmp_path, *FEW) == 1
    assert "cannot be written: No space left on device" in one_line(capfd)
    assert [path.name for path in tmp_path.iterdir()] == ["model_eval.json"]


def test_a_disk_that_fills_up_leaves_none_of_the_folders_that_were_made(
    recording: Path, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_bytes

    def full_at_the_picture(self: Path, data: bytes) -> int:
        if ".png" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full_at_the_picture)
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "a" / "b", tmp_path / "there"):
        assert evaluate(recording, "--bundle", ours, "--out", out, *FEW) == 1
        assert "cannot be written: No space left on device" in one_line(capfd)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert [path.name for path in (tmp_path / "there").iterdir() if path.is_dir()] == []


def test_help_shows_examples(capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--help") == 0
    assert "volcast evaluate RECORDING --predictions predictions.ndjson" in capfd.readouterr().out


def test_without_a_bundle_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOLCAST_SERVER__MODELS_DIR", str(tmp_path))
    assert evaluate() == 1
    assert "name one with --bundle, or make one with volcast train" in one_line(capfd)


def test_probabilities_are_those_of_the_graph(recording: Path, ours: Path) -> None:
    rows = load([recording], schema=CORE_1).rows
    manifest, model = read_bundle(ours)
    scored = score(manifest, model, rows)
    assert np.array_equal(scored.probabilities["logistic"], OnnxModel(model).probabilities(rows.features))
    logit = 3.0 * np.log(rows.column("volatility") + 1e-6) + 22.0
    assert scored.probabilities["har"] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-12)
