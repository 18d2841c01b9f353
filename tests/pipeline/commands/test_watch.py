"""`volcast watch`: predictions a line each, whatever else is on the topic."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cli.main import run_command
from common.config import KafkaConfig
from pipeline.commands.watch import prediction_json, prediction_line
from pipeline.exchange.simulator import simulate
from pipeline.stream.kafka import Sink
from tests.processes import ROOT, as_environ, fresh_topics
from volcast.v1 import MissingReason, Prediction

TIME_NS = 1_775_428_513_925_000_000


def prediction(product: str = "BTC-USD", probability: float | None = 0.75, missing: int = 0) -> bytes:
    return Prediction(
        product_id=product,
        event_time_ns=TIME_NS,
        model_name="volatility",
        model_version="1",
        probability=probability,
        threshold=0.5,
        latency_ns=1_500_000,
        missing_reason=missing,  # type: ignore[arg-type]
    ).SerializeToString()


@pytest.fixture
def topics(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> KafkaConfig:
    for name, value in as_environ(kafka).items():
        monkeypatch.setenv(name, value)
    return kafka


@contextmanager
def feeding(kafka: KafkaConfig, *values: bytes) -> Iterator[None]:
    """Puts the same values on the topic again and again, for a watcher sees only what comes after it."""
    stop = threading.Event()

    def feed() -> None:
        sink = Sink(kafka)
        while not stop.is_set():
            for value in values:
                sink.send(kafka.topics.predictions, b"key", value)
            sink.flush()
            time.sleep(0.02)
        sink.close()

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_each_prediction_is_a_line(topics: KafkaConfig, capfd: pytest.CaptureFixture[str]) -> None:
    with feeding(topics, prediction()):
        assert run_command(["watch", "--count", "3"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["22:35:13.925", "BTC-USD", "0.7500", "SPIKE", "1.50", "ms", "volatility/1"]


def test_a_distribution_is_shown_with_median_interval_and_base_rate() -> None:
    forecast = Prediction.FromString(prediction())
    forecast.MergeFrom(
        Prediction(
            spike_bps=4.0, base_rate=0.125, median_bps=2.5, quantile_levels=[0.1, 0.5, 0.9],
            quantile_bps=[1.25, 2.5, 10.0],
        )
    )  # fmt: skip
    assert " ".join(prediction_line(forecast).split()) == (
        "22:35:13.925 BTC-USD 0.7500 SPIKE median 2.50 bps 0.1-0.9: 1.25 to 10.00 bps base rate 0.1250 at 4 bps "
        "1.50 ms volatility/1"
    )
    fields = json.loads(prediction_json(forecast))
    assert {name: fields[name] for name in ("spike_bps", "base_rate", "median_bps", "quantiles", "quantile_bps")} == {
        "spike_bps": 4.0, "base_rate": 0.125, "median_bps": 2.5, "quantiles": [0.1, 0.5, 0.9],
        "quantile_bps": [1.25, 2.5, 10.0],
    }  # fmt: skip


def test_a_distribution_without_an_interval_is_shown_with_its_median() -> None:
    forecast = Prediction.FromString(prediction())
    forecast.MergeFrom(Prediction(spike_bps=4.0, median_bps=2.5, quantile_levels=[0.5], quantile_bps=[2.5]))
    assert "median   2.50 bps  base rate" in prediction_line(forecast)


def test_the_date_and_the_kind_of_market_are_shown_once_on_standard_error(
    topics: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    simulated = Prediction(product_id="BTC-USD", event_time_ns=next(simulate(["BTC-USD"], 1, 5.0)).event_time_ns)
    with feeding(topics, simulated.SerializeToString()):
        assert run_command(["watch", "--count", "3"]) == 0
    assert capfd.readouterr().err.count("simulated market, 2026-01-01 UTC\n") == 1
    with feeding(topics, prediction()):
        assert run_command(["watch", "--count", "1", "--product", "BTC-USD"]) == 0
    assert "2026-04-05 UTC" in capfd.readouterr().err


def test_a_reader_that_leaves_ends_it_well_also_while_nothing_comes(topics: KafkaConfig) -> None:
    command = [sys.executable, "-m", "cli.main", "watch"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    with feeding(topics, prediction()):
        assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b"2026-04-05 UTC\n"
    process.stderr.close()


def test_only_the_product_asked_for_is_shown_and_garbage_is_passed_over(
    topics: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    with feeding(topics, prediction(), b"\xff\xff", prediction("ETH-USD", 0.1)):
        assert run_command(["watch", "--product", "ETH-USD", "--count", "2", "--json"]) == 0
    said = capfd.readouterr()
    shown = [json.loads(line) for line in said.out.splitlines()]
    assert shown[0] == {
        "product_id": "ETH-USD", "event_time_ns": TIME_NS, "sequence_num": 0, "probability": 0.1, "threshold": 0.5,
        "model": "volatility/1", "latency_ms": 1.5, "missing": None,
    }  # fmt: skip
    assert len(shown) == 2
    assert "not a Prediction" in said.err
    assert "Traceback" not in said.err


def test_a_prediction_that_is_missing_says_why(topics: KafkaConfig, capfd: pytest.CaptureFixture[str]) -> None:
    missing = prediction(probability=None, missing=MissingReason.MISSING_REASON_SERVER_UNAVAILABLE)
    with feeding(topics, missing):
        assert run_command(["watch", "--count", "1"]) == 0
    assert capfd.readouterr().out.endswith("missing: MISSING_REASON_SERVER_UNAVAILABLE\n")


def test_a_topic_that_is_missing_is_one_line(
    topics: KafkaConfig, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = fresh_topics().predictions
    monkeypatch.setenv("VOLCAST_KAFKA__TOPICS__PREDICTIONS", missing)
    assert run_command(["watch"]) == 1
    assert capfd.readouterr().err == (
        f"volcast: kafka: there is no topic {missing} that this login may see; "
        "`volcast ingest` and `volcast worker` make it\n"
    )
