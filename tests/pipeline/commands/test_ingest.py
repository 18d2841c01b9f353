"""`volcast ingest` and `volcast worker` as commands: what ends them, and with which words."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.processes import free_port
from cli.main import run_command
from cli.run.processes import ProcessGroup
from common.config import KafkaConfig
from common.schema import FULL_1
from pipeline.archive import read_archive
from pipeline.features.table import FeatureRows, compute_features
from pipeline.parquet import read_features
from pipeline.records import Gap, Tick, decode_record
from pipeline.stream.kafka import make_consumer
from pipeline.stream.worker import Worker
from tests.processes import as_environ, await_true, kill, read_all, start


@pytest.fixture
def topics(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KafkaConfig:
    for name, value in as_environ(kafka).items():
        monkeypatch.setenv(name, value)
    for name in ("INGEST__METRICS_PORT", "WORKER__METRICS_PORT", "INGEST__MAX_FUTURE_S"):
        monkeypatch.setenv(f"VOLCAST_{name}", "0")
    monkeypatch.chdir(tmp_path)
    return kafka


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def market(parts: ProcessGroup, name: str, ticks: int) -> str:
    options = ["--simulate", "--port", "0", "--speed", "max", "--max-ticks", str(ticks)]
    ready = start(parts, name, ["exchange", *options]).ready
    assert ready is not None
    return str(ready["url"])


def test_until_closed_ends_with_the_feed_and_a_second_run_begins_with_gaps(
    topics: KafkaConfig, parts: ProcessGroup, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, gaps in (("first", 0), ("second", 2)):
        url = market(parts, name, 300)
        archive = tmp_path / name
        assert run_command(["ingest", "--url", url, "--until-closed", "--archive", str(archive), "--json"]) == 0
        said = json.loads(capfd.readouterr().out)
        assert (said["ticks"], said["gaps"], said["ended"]) == (300, gaps, True)
        archived = [one for one in read_archive([archive]) if isinstance(one, Tick)]
        assert len(archived) == 300
    records = [decode_record(one.value() or b"") for one in read_all(topics, topics.topics.raw, 602)]
    assert sum(isinstance(one, Gap) for one in records) == 2
    assert len(records) == 602
    later = [one for one in records[300:] if isinstance(one, Tick)]
    assert sorted(later, key=lambda one: (one.event_time_ns, one.product_id)) == sorted(
        archived, key=lambda one: (one.event_time_ns, one.product_id)
    )


def test_the_archive_of_a_killed_ingest_holds_every_tick_of_the_topic(
    topics: KafkaConfig, parts: ProcessGroup, tmp_path: Path
) -> None:
    url = market(parts, "feed", 200_000)
    ingest = start(parts, "ingest", ["ingest", "--url", url, "--archive", str(tmp_path / "raw")])
    published = 0
    deadline = time.monotonic() + 20
    while not published and time.monotonic() < deadline:
        parts.listen(0.05)
        published = int(ingest.stats.get("published", 0)) if ingest.stats else 0
    kill(ingest)
    archived = {each for each in read_archive([tmp_path / "raw"]) if isinstance(each, Tick)}
    records = [decode_record(each.value() or b"") for each in read_all(topics, topics.topics.raw, 1)]
    on_topic = {each for each in records if isinstance(each, Tick)}
    assert len(on_topic) > 1000
    assert on_topic - archived == set()


@pytest.mark.usefixtures("topics")
def test_an_exchange_that_is_away_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    assert run_command(["ingest", "--url", url]) == 1
    said = capfd.readouterr()
    line = said.err.splitlines()[-1]
    assert line.startswith(f"volcast: exchange: {url} cannot be reached: ")
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize("name", ["ingest", "worker"])
def test_a_metrics_port_in_use_is_one_line(
    name: str, taken_port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"VOLCAST_{name.upper()}__METRICS_PORT", str(taken_port))
    assert run_command([name]) == 1
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == (
        f"volcast: port {taken_port} on 127.0.0.1: Address already in use; choose another with {name}.metrics_port"
    )


@pytest.mark.usefixtures("topics")
def test_a_features_folder_that_cannot_be_made_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    Path("taken").touch()
    assert run_command(["worker", "--features-dir", "taken/features"]) == 1
    assert capfd.readouterr().err.startswith("volcast: features taken/features: cannot be written: ")


@pytest.mark.usefixtures("topics")
def test_a_worker_without_ticks_ends_when_its_time_is_over(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["worker", "--duration", "3s", "--server", "127.0.0.1:1", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["consumed"], said["features"], said["predictions"]) == (0, 0, 0)


@pytest.mark.usefixtures("topics")
def test_a_worker_of_full_1_keeps_rows_of_full_1(
    parts: ProcessGroup, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command(["ingest", "--url", market(parts, "feed", 300), "--until-closed", "--archive", "a"]) == 0
    options = ["--schema", "full/1", "--features-dir", "rows", "--server", "127.0.0.1:1"]
    capfd.readouterr()
    assert run_command(["worker", *options, "--duration", "5s", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["features"] == 300
    rows = read_features(tmp_path / "rows", FULL_1)
    offline = {one: row.tobytes() for one, row in _keyed(compute_features(read_archive([tmp_path / "a"]), FULL_1).rows)}
    assert {one: row.tobytes() for one, row in _keyed(rows)} == offline


def _keyed(rows: FeatureRows) -> Iterator[tuple[tuple[str, int], NDArray[np.float64]]]:
    return zip(zip(rows.product_ids, rows.sequence_num.tolist(), strict=True), rows.values, strict=True)


def test_a_worker_that_never_got_a_partition_says_so(topics: KafkaConfig, capfd: pytest.CaptureFixture[str]) -> None:
    # Another member has the only partition, and does not look whether it should give it up.
    cooperative = {"partition.assignment.strategy": "cooperative-sticky"}
    holder = make_consumer(topics, as_environ(topics)["VOLCAST_WORKER__GROUP_ID"], **cooperative)
    holder.subscribe([topics.topics.raw])
    try:
        await_true(lambda: not holder.consume(1, 0.1) and bool(holder.assignment()), 30, "the partition")
        assert run_command(["worker", "--duration", "100ms", "--server", "127.0.0.1:1"]) == 1
    finally:
        holder.close()
    assert "gave it no partitions within 0.1 s" in capfd.readouterr().err.splitlines()[-1]


def test_a_worker_told_to_end_before_it_ever_read_does_so_in_silence(
    topics: KafkaConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def compile_until_told_to_end(member: Worker) -> None:
        time.sleep(2)  # by now the group has given it its partitions, and it has not looked
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Worker, "compile", compile_until_told_to_end)
    assert run_command(["worker", "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["consumed"] == 0
    assert "Traceback" not in said.err
