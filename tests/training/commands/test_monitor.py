"""`volcast monitor` on a real broker: predictions and outcomes from the topics."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from cli.main import run_command
from common.config import KafkaConfig, load_config
from common.model_store import ModelStore
from common.schema import CORE_1
from pipeline.features.table import compute_features
from pipeline.records import Gap, Record, Tick, encode
from pipeline.stream.kafka import Sink
from tests.processes import as_environ
from tests.training.monitoring.bundles import OLD_STYLE, forecast_bundle, write_forecast_bundle
from tests.training.synthetic import market
from training.commands.monitor import Session, metrics
from training.monitoring.bundles import BundleFolder
from training.monitoring.scoreboard import Scoreboard
from training.monitoring.served import Served
from training.problem.target import Target
from volcast.v1 import MissingReason, Prediction

pytestmark = pytest.mark.kafka

SECONDS = 400
MANIFEST, GRAPH = forecast_bundle("core/1")
SIZE = 1.5


def ticks() -> list[Record]:
    random = np.random.default_rng(5)
    records: list[Record] = [
        Tick("BTC-USD", at, at, number, mid, mid - 0.5, mid + 0.5, *random.lognormal(size=2).tolist())
        for number, (at, mid) in enumerate(zip(*(column.tolist() for column in market(SECONDS, 3)), strict=True))
    ]
    return [*records[:200], Gap("BTC-USD", records[200].event_time_ns, 0, "sequence", 3), *records[200:]]


def predictions() -> list[Prediction]:
    """The predictions of a worker for each warm row."""
    rows = compute_features(ticks(), CORE_1).rows
    warm = np.flatnonzero(rows.warm)
    probabilities = Served(MANIFEST, GRAPH).probabilities(rows.values[warm], np.full(len(warm), SIZE))
    return [
        Prediction(
            product_id="BTC-USD", event_time_ns=int(rows.event_time_ns[row]), sequence_num=int(rows.sequence_num[row]),
            model_name="volatility", model_version="1", probability=probability, spike_bps=SIZE,
            threshold=MANIFEST.decision_threshold,
        )
        for row, probability in zip(warm.tolist(), probabilities.tolist(), strict=True)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forecast model as version 1, and an old-style model as version 2."""
    folder = tmp_path_factory.mktemp("models")
    write_forecast_bundle(folder, "core/1")
    manifest, graph = OLD_STYLE
    ModelStore(folder, "volatility").put(msgspec.structs.replace(manifest, version="2"), graph, {})
    return folder


@pytest.fixture
def topics(kafka: KafkaConfig, models: Path, monkeypatch: pytest.MonkeyPatch) -> KafkaConfig:
    """Ticks and predictions of 400 s with a gap in the middle; ten repeated, a missing one, an unreadable record."""
    records = [prediction.SerializeToString() for prediction in predictions()]
    missing = Prediction(product_id="BTC-USD", missing_reason=MissingReason.MISSING_REASON_REFUSED)
    sink = Sink(kafka)
    for record in ticks():
        sink.send(kafka.topics.raw, b"BTC-USD", encode(record))
    sink.send(kafka.topics.raw, b"BTC-USD", b"no tick")
    for raw in [*records[:50], *records[40:], missing.SerializeToString(), b"\xff"]:
        sink.send(kafka.topics.predictions, b"BTC-USD", raw)
    sink.flush()
    sink.close()
    for name, value in as_environ(kafka).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VOLCAST_SERVER__MODELS_DIR", str(models))
    return kafka


@pytest.mark.parametrize("suffix", ["ndjson", "parquet"])
def test_predictions_on_the_topics_are_joined_counted_and_written(
    suffix: str, topics: KafkaConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"joined.{suffix}"
    arguments = ["--out", str(out), "--window", "1h", "--shadow", "volatility/2", "--json"]
    assert run_command(["monitor", "--once", *arguments]) == 0
    output = json.loads(capsys.readouterr().out)
    # Of the 200 ticks on either side of the gap, rows at 60 to 135 s and 260 to 335 s have an outcome: 16 periods each.
    assert output["joined"] == 32
    assert output["unjoined"] == {"gap": 64, "missing_refused": 1, "past_end": 64, "repeated": 10, "thinned": 120}
    assert output["unreadable"] == {"predictions": 1, "raw": 1}
    model = {(line["model"], line["role"], line["forecaster"]): line for line in output["figures"]}
    answered, shadow = model["volatility/1", "answered", "model"], model["volatility/2", "shadow", "model"]
    assert answered["rows"] == shadow["rows"] == 32
    assert answered["max_difference"] == 0.0
    assert answered["crps"] > 0
    assert "crps" not in shadow
    assert {forecaster for _, role, forecaster in model if role == "answered"} == {"model", "climatology", "har"}
    rows = (
        [json.loads(line) for line in out.read_text().splitlines()]
        if suffix == "ndjson"
        else pq.read_table(out).to_pylist()
    )
    assert len(rows) == 32
    assert all(row["spike"] == (row["outcome_bps"] >= SIZE == row["spike_bps"]) for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_the_table_names_a_shadow_without_a_bundle(topics: KafkaConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["monitor", "--once", "--window", "1h", "--shadow", "volatility/99"]) == 0
    output, progress = capsys.readouterr()
    assert "volatility/1" in output
    assert "32 joined" in output
    assert "volatility/99: bundle" in output
    assert "reading both topics" in progress


def joined_or_late(session: Session, ends_s: float) -> bool:
    return session.join.waiting == 64 or time.monotonic() > ends_s


def test_a_restart_reads_the_live_scores_again(topics: KafkaConfig, models: Path) -> None:
    for _ in range(2):
        with ExitStack() as cleanup:
            folder = BundleFolder(models, Target())
            session = Session(load_config(), Scoreboard({"1h": 3600.0}, folder.bundle), 3600.0, cleanup)
            ends_s = time.monotonic() + 60
            # Without a later tick, outcomes of the last 64 rows are unknown.
            session.run(partial(joined_or_late, session, ends_s), lambda: None)
            samples = {
                sample.name + sample.labels.get("interval", ""): sample.value
                for family in metrics(session)
                for sample in family.samples
                if sample.labels.get("forecaster", "model") == "model"
            }
        assert samples["volcast_monitor_waiting"] == 64
        assert samples["volcast_monitor_joined_total"] == samples["volcast_monitor_rows"] == 32
        assert samples["volcast_monitor_crps"] > 0
        assert 0 < samples["volcast_monitor_coverage80"] <= samples["volcast_monitor_coverage95"] <= 1
        assert samples["volcast_monitor_probability_difference"] == 0
        newest_s = max(prediction.event_time_ns for prediction in predictions()) / 1e9
        assert samples["volcast_monitor_newest_truth_timestamp_seconds"] == pytest.approx(newest_s - 64)


def test_it_ends_after_its_duration_and_prints_the_last_scores(
    topics: KafkaConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOLCAST_MONITOR__METRICS_PORT", "0")
    assert run_command(["monitor", "--duration", "2s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["joined"] == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "joined.ndjson"], "--out: goes with --once"),
        (["--window", "soon"], "durations such as 15m"),
        (["--once", "--out", "joined.csv"], "ends in .ndjson or .parquet"),
    ],
)
def test_wrong_options_fail_before_anything_is_read(
    options: list[str], message: str, topics: KafkaConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["monitor", *options]) == 2
    assert message in capsys.readouterr().err
