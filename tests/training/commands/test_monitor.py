"""`volcast monitor` on a real broker: what was predicted and what followed, as it stands on the topics."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cli.main import run_command
from common.bundle import read_bundle
from common.config import KafkaConfig, load_config
from common.schema import CORE_1
from pipeline.features.table import compute_features
from pipeline.records import Gap, Record, Tick, encode
from pipeline.stream.kafka import Sink
from tests.processes import ROOT, as_environ
from tests.training.synthetic import market
from training.commands.monitor import Session, metrics
from training.monitoring.bundles import BundleFolder
from training.monitoring.scoreboard import Scoreboard
from training.shipping.onnx_model import OnnxModel
from volcast.v1 import MissingReason, Prediction

pytestmark = pytest.mark.kafka

SECONDS = 400
MANIFEST, GRAPH = read_bundle(ROOT / "models" / "volatility" / "1")


def ticks() -> list[Record]:
    random = np.random.default_rng(5)
    records: list[Record] = [
        Tick("BTC-USD", at, at, number, mid, mid - 0.5, mid + 0.5, *random.lognormal(size=2).tolist())
        for number, (at, mid) in enumerate(zip(*(one.tolist() for one in market(SECONDS, 3)), strict=True))
    ]
    return [*records[:200], Gap("BTC-USD", records[200].event_time_ns, 0, "sequence", 3), *records[200:]]


def predictions() -> list[Prediction]:
    """What a worker would have said, of each warm row."""
    rows = compute_features(ticks(), CORE_1).rows
    warm = np.flatnonzero(rows.warm)
    chances = OnnxModel(GRAPH).probabilities(rows.values[warm])
    return [
        Prediction(
            product_id="BTC-USD", event_time_ns=int(rows.event_time_ns[row]), sequence_num=int(rows.sequence_num[row]),
            model_name="volatility", model_version="1", probability=chance, threshold=MANIFEST.decision_threshold,
        )
        for row, chance in zip(warm.tolist(), chances.tolist(), strict=True)
    ]  # fmt: skip


@pytest.fixture
def topics(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> KafkaConfig:
    """Ticks and predictions of 400 s with a gap in the middle; ten said twice, one missing, one that is none."""
    said = [one.SerializeToString() for one in predictions()]
    missing = Prediction(product_id="BTC-USD", missing_reason=MissingReason.MISSING_REASON_REFUSED)
    sink = Sink(kafka)
    for record in ticks():
        sink.send(kafka.topics.raw, b"BTC-USD", encode(record))
    sink.send(kafka.topics.raw, b"BTC-USD", b"no tick")
    for raw in [*said[:50], *said[40:], missing.SerializeToString(), b"\xff"]:
        sink.send(kafka.topics.predictions, b"BTC-USD", raw)
    sink.flush()
    sink.close()
    for name, value in as_environ(kafka).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VOLCAST_SERVER__MODELS_DIR", str(ROOT / "models"))
    return kafka


@pytest.mark.parametrize("suffix", ["ndjson", "parquet"])
def test_what_the_topics_hold_is_joined_counted_and_written(
    suffix: str, topics: KafkaConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"joined.{suffix}"
    assert run_command(["monitor", "--once", "--out", str(out), "--window", "1h", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    warm = len(predictions())
    # Of the 200 ticks on either side of the gap 60 s are not warm and the last 60 s have no truth.
    assert said["joined"] == warm - 120 == 160
    assert said["unjoined"] == {"gap": 60, "missing_refused": 1, "past_end": 60, "repeated": 10}
    assert said["unreadable"] == {"predictions": 1, "raw": 1}
    model, *baselines = said["figures"]
    assert (model["model"], model["role"], model["forecaster"], model["rows"]) == (
        "volatility/1", "answered", "model", 160,
    )  # fmt: skip
    assert {one["forecaster"] for one in baselines} == set(MANIFEST.baselines) - {MANIFEST.kind}
    rows = (
        [json.loads(line) for line in out.read_text().splitlines()]
        if suffix == "ndjson"
        else pq.read_table(out).to_pylist()
    )
    tau = MANIFEST.label.threshold
    assert len(rows) == 160
    assert all(row["y"] == (row["future_volatility"] >= tau) for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_beside_it_a_shadow_in_a_table(topics: KafkaConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["monitor", "--once", "--window", "1h", "--shadow", "volatility/99"]) == 0
    output, progress = capsys.readouterr()
    assert "volatility/1" in output
    assert "160 joined" in output
    assert "volatility/99: bundle" in output, "a shadow that is not there is named"
    assert "reading both topics" in progress


def joined_or_late(session: Session, ends_s: float) -> bool:
    return session.join.waiting == 61 or time.monotonic() > ends_s


def test_live_it_says_figures_and_a_restart_reads_them_again(topics: KafkaConfig) -> None:
    for _ in range(2):
        with ExitStack() as cleanup:
            folder = BundleFolder(ROOT / "models", 60.0)
            session = Session(load_config(), Scoreboard({"1h": 3600.0}, folder.bundle), 3600.0, cleanup)
            ends_s = time.monotonic() + 60
            # Without a later tick the last 60 s of the stream may still come true.
            session.run(partial(joined_or_late, session, ends_s), lambda: None)
            samples = {
                one.name: one.value
                for family in metrics(session)
                for one in family.samples
                if one.labels.get("forecaster", "model") == "model"
            }
        assert samples["volcast_monitor_waiting"] == 61
        assert samples["volcast_monitor_joined_total"] == samples["volcast_monitor_rows"] == 159
        assert 0 <= samples["volcast_monitor_brier"] <= 1
        newest_s = max(one.event_time_ns for one in predictions()) / 1e9
        assert samples["volcast_monitor_newest_truth_timestamp_seconds"] == pytest.approx(newest_s - 61)


def test_it_ends_after_its_duration_with_its_last_figures(
    topics: KafkaConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOLCAST_MONITOR__METRICS_PORT", "0")
    assert run_command(["monitor", "--duration", "2s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["joined"] == 159


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "joined.ndjson"], "--out: goes with --once"),
        (["--window", "soon"], "durations such as 15m"),
        (["--once", "--out", "joined.csv"], "ends in .ndjson or .parquet"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    options: list[str], message: str, topics: KafkaConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["monitor", *options]) == 2
    assert message in capsys.readouterr().err
