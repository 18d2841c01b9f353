"""`volcast run` as a real process: what it says, what it keeps, and that nothing outlives it.

Runs are started together and each test waits for its own, since most of a run is waiting.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.processes import free_port
from cli.main import run_command
from cli.run.command import _carry_out, _clean, _no_tick, require_complete
from cli.run.plan import Exchange, environment
from cli.run.processes import Process, ProcessGroup
from cli.run.summary import Summary
from common.config import Config, KafkaConfig
from common.errors import InputError, UnavailableError, UsageError
from pipeline.archive import read_archive
from pipeline.datasets import coinbase_ticker_2026
from pipeline.features.table import FeatureRows, compute_features
from pipeline.parquet import read_features
from pipeline.stream.kafka import connect
from pipeline.stream.kafka_topics import ensure_topics
from tests.processes import ROOT, as_environ, await_true, fresh_topics, read_all

MARK = "VOLCAST_TEST_RUN"
KEYS = {"ticks", "features", "predictions", "not_warm", "gaps", "late", "dead", "latency_ms", "duration_s"}
PORTS = (
    "BROKER__PORT", "EXCHANGE__PORT", "SERVER__PORT", "GATEWAY__PORT", "SERVER__METRICS_PORT", "WORKER__METRICS_PORT",
    "INGEST__METRICS_PORT",
)  # fmt: skip


class Run:
    """One `volcast run` on ports of its own, known by a mark in the environment of all its processes."""

    def __init__(self, folder: Path, *arguments: str, settings: Mapping[str, str] | None = None, **ports: int) -> None:
        self.dir = folder
        self.mark = uuid.uuid4().hex
        self.ports = {name: ports.get(name.lower()) or free_port() for name in PORTS}
        environ = {f"VOLCAST_{name}": str(port) for name, port in self.ports.items()}
        environ |= {MARK: self.mark, "VOLCAST_SERVER__MODELS_DIR": str(ROOT / "models"), **(settings or {})}
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = (folder / "out").open("w+"), (folder / "err").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "run", "--json", "--run-dir", str(folder / "run"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            cwd=folder,  # neither the project's config.yaml nor a developer's .env
            env={**os.environ, **environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])},
            start_new_session=True,
        )

    @property
    def out(self) -> list[str]:
        return (self.dir / "out").read_text().splitlines()

    @property
    def err(self) -> list[str]:
        return (self.dir / "err").read_text().splitlines()

    @property
    def features_dir(self) -> Path:
        return self.dir / "run" / "features"

    def alive(self) -> dict[int, str]:
        """Processes of this run that still are: id -> how they were called."""
        processes = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    processes[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return processes

    def await_ready(self) -> None:
        await_true(lambda: any("ready after" in line for line in self.err) or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.err

    def ended(self, timeout_s: float = 90.0) -> int:
        return self.process.wait(timeout_s)

    def summary(self) -> dict[str, Any]:
        """The last line, of a run that ended well and left nothing behind."""
        assert self.ended() == 0, self.err
        assert self.alive() == {}
        assert not list(self.dir.rglob("*.unfinished"))
        summary: dict[str, Any] = json.loads(self.out[-1])
        assert summary.keys() >= KEYS
        return summary

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in self.alive():  # a test has failed; the machine stays clean
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._out.close()
        self._err.close()


class Runs:
    """The runs of this module, each started when it is first asked for: seven processes are a load."""

    def __init__(self, folder: Path, kafka: KafkaConfig) -> None:
        self._folder = folder
        self._started: list[Run] = []
        self.kafka = kafka
        self.recording = coinbase_ticker_2026()

    def _start(self, name: str, *options: str, settings: Mapping[str, str] | None = None) -> Run:
        run = Run(self._folder / name, *options, settings=settings)
        self._started.append(run)
        return run

    @cached_property
    def same(self) -> list[Run]:
        """The same seed twice, at the same time: on a Kafka of its own, and on the configured Kafka."""
        configured = {name: value for name, value in as_environ(self.kafka).items() if "TIMEOUT" not in name}
        options = ("--duration", "4s", "--seed", "11")
        return [self._start("own", *options), self._start("configured", *options, settings=configured)]

    @cached_property
    def replayed(self) -> Run | None:
        if not self.recording:
            return None
        return self._start("replayed", "--exchange", f"replay:{self.recording[0]}", "--speed", "max")

    @cached_property
    def interrupted(self) -> Run:
        return self._start("interrupted")

    @cached_property
    def killed(self) -> Run:
        return self._start("killed")

    def close(self) -> None:
        for run in self._started:
            run.close()


@pytest.fixture(scope="module")
def runs(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    kafka = KafkaConfig(bootstrap_servers=broker, topics=fresh_topics(), session_timeout_ms=6000)
    ensure_topics(connect(kafka), kafka)
    runs = Runs(tmp_path_factory.mktemp("runs"), kafka)
    yield runs
    runs.close()


@pytest.mark.process
def test_an_interrupt_ends_a_run_in_order_and_leaves_nothing(runs: Runs) -> None:
    run = runs.interrupted
    run.await_ready()
    await_true(lambda: bool(list(run.features_dir.glob(".*.unfinished"))), 30, "the first rows")
    assert len(run.alive()) >= 7
    run.process.send_signal(signal.SIGHUP)  # of a user: the terminal is still there
    run.process.send_signal(signal.SIGINT)
    await_true(lambda: any(line.startswith("stopping") for line in run.err), 5, "a word that it stops")
    summary = run.summary()
    assert summary["ticks"] == summary["features"] > 0
    assert len(read_features(run.features_dir)) == summary["features"]


@pytest.mark.process
def test_an_interrupt_before_ready_ends_a_run_well_and_leaves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    try:
        await_true(lambda: len(run.alive()) >= 2, 30, "the first process")
        run.process.send_signal(signal.SIGHUP)
        run.process.send_signal(signal.SIGINT)
        assert run.ended() == 0
        assert [line for line in run.err if line.startswith("stopping")]
        assert not [line for line in run.err if "volcast:" in line]
        assert run.alive() == {}
    finally:
        run.close()


@pytest.mark.process
def test_a_worker_that_was_killed_after_an_interrupt_is_no_failure_of_the_command() -> None:
    class Failing:
        def start(self, config: Config, exchange: list[str] | None) -> bool:
            return True

        def watch(self, duration_s: float | None) -> None:
            pass

        def finish(self) -> Summary:
            raise UnavailableError("worker: read 5 of 9 records before it ended: was killed by SIGKILL")

    class Lines:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def print(self, text: str) -> None:
            self.lines.append(text)

    stop, view = threading.Event(), Lines()
    arguments: Any = (Failing(), Config(), None, None, view, stop)
    with pytest.raises(UnavailableError, match="read 5 of 9"):
        _carry_out(*arguments)
    stop.set()
    assert _carry_out(*arguments) is None
    assert view.lines[-1].startswith("stopped before the end: worker: read 5 of 9 records")


@pytest.mark.process
def test_a_killed_supervisor_leaves_no_process_behind(runs: Runs) -> None:
    run = runs.killed
    run.await_ready()
    assert len(run.alive()) >= 7
    run.process.kill()
    run.process.wait()
    await_true(lambda: not run.alive(), 10, f"the end of {run.alive()}")


def comparable(rows: FeatureRows) -> dict[str, tuple[bytes, bytes, bytes]]:
    """By product: times, warmth and values, bit for bit. Numbers and receipt depend on heartbeats and clocks."""
    products = np.array(rows.product_ids)
    return {
        product: (
            rows.event_time_ns[products == product].tobytes(),
            rows.warm[products == product].tobytes(),
            rows.values[products == product].tobytes(),
        )
        for product in sorted(set(rows.product_ids))
    }


@pytest.mark.process
def test_the_same_seed_gives_the_same_features_twice(runs: Runs) -> None:
    summaries = [run.summary() for run in runs.same]
    first, second = (read_features(run.features_dir) for run in runs.same)
    assert comparable(first) == comparable(second)
    assert sorted(comparable(first)) == ["BTC-USD", "ETH-USD"]
    for summary, rows in zip(summaries, (first, second), strict=True):
        assert summary["ticks"] == summary["features"] == len(rows)
        assert summary["predictions"] == int(rows.warm.sum()) > 0
        assert summary["not_warm"] == summary["features"] - summary["predictions"]
        assert (summary["gaps"], summary["late"], summary["dead"], summary["missing"]) == (0, 0, 0, 0)
        assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
        assert summary["duration_s"] >= 3
        assert summary["slowest"] in summary["stages_ms"]


@pytest.mark.process
def test_the_last_line_is_all_there_is_on_standard_output(runs: Runs) -> None:
    for run in runs.same:
        run.ended()
        assert len(run.out) == 1
        assert not any("Traceback" in line for line in run.err)


@pytest.mark.process
def test_the_real_recording_goes_through_whole(runs: Runs) -> None:
    if runs.replayed is None:
        pytest.skip("the recording of 2026-04-05 is not here (VOLCAST_DATA_DIR)")
    summary = runs.replayed.summary()
    offline = compute_features(read_archive(runs.recording)).rows
    assert (summary["ticks"], summary["features"], summary["gaps"]) == (5970, 5970, 0)
    assert summary["predictions"] == int(offline.warm.sum()) > 5000
    assert comparable(read_features(runs.replayed.features_dir)) == comparable(offline)


@pytest.mark.process
def test_a_run_uses_the_configured_kafka_with_topics_of_its_own_and_starts_none(runs: Runs) -> None:
    kafka, (own, run) = runs.kafka, runs.same
    summary = run.summary()
    assert (own.dir / "run" / "logs" / "broker.log").exists()
    assert not (run.dir / "run" / "logs" / "broker.log").exists()
    (line,) = [line for line in run.err if line.startswith(f"Kafka at {kafka.bootstrap_servers}, topics ")]
    topic = line.split("topics ")[1].split(",")[0]
    assert topic.startswith(f"{kafka.topics.raw}.run-")
    assert len(read_all(kafka, topic, summary["ticks"])) >= summary["ticks"]
    assert read_all(kafka, kafka.topics.raw) == []


@pytest.mark.parametrize(("part", "setting"), [("broker", "broker.port"), ("server", "server.port")])
@pytest.mark.process
def test_a_port_in_use_is_one_line_that_names_it_and_the_setting(part: str, setting: str, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        run = Run(tmp_path, **{f"{part}__port": port})
        try:
            assert run.ended() == 1
        finally:
            run.close()
    (line,) = [line for line in run.err if line.startswith("volcast: ")]
    assert line == run.err[-1]
    assert line.startswith(f"volcast: {part}: port {port} on 127.0.0.1: Address already in use; choose another with ")
    assert setting in line
    assert run.out == []
    assert run.alive() == {}


@pytest.mark.process
def test_a_recording_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path, "--exchange", "replay:/no/such/file")
    try:
        assert run.ended() == 1
    finally:
        run.close()
    assert run.err[-1].startswith("volcast: recording /no/such/file: no such file")
    assert run.alive() == {}


@pytest.mark.parametrize(
    ("text", "live", "venue"),
    [
        ("simulated", False, "coinbase"),
        ("replay:a", False, "coinbase"),
        ("coinbase", True, "coinbase"),
        ("binance", True, "binance"),
    ],
)
def test_each_exchange_is_received_by_the_rules_of_its_venue(text: str, live: bool, venue: str) -> None:
    exchange = Exchange.parse(text)
    assert exchange.live is live
    assert environment(Config(), exchange, "", "")["VOLCAST_INGEST__VENUE"] == venue


def test_an_unknown_exchange_is_told_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="expected simulated, replay:FILE or coinbase or binance"):
        Exchange.parse("mtgox")


def test_a_recording_without_a_tick_is_told_by_what_it_holds_instead() -> None:
    other = _no_tick("sol.ndjson", ("BTC-USD", "ETH-USD"), 0)
    assert other == "recording sol.ndjson: no tick of BTC-USD, ETH-USD in it; set ingest.products"
    damaged = _no_tick("junk.ndjson", ("BTC-USD",), 3)
    assert damaged.startswith("recording junk.ndjson: no tick in it (dead: 3; `volcast features` says")


def test_the_next_run_removes_what_the_last_one_left_and_nothing_else(tmp_path: Path) -> None:
    of_kafka = ("kafka/log/meta.properties", "kafka/log/ticks.raw-0/0.log")
    for name in ("logs/worker.log", "features/old.parquet", "features/notes.txt", "model.onnx", *of_kafka):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    _clean(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["features/notes.txt", "model.onnx"]


def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(InputError, match=r"^--run-dir .*: cannot be used: File exists$"):
        _clean(tmp_path)


def test_a_folder_in_use_by_another_run_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "worker.log"
    log.parent.mkdir()
    log.write_text("of the run that is up")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_command(["run", "--run-dir", str(tmp_path)]) == 1
    assert capfd.readouterr().err == (f"volcast: another run uses {tmp_path}; choose another folder with --run-dir\n")
    assert log.read_text() == "of the run that is up"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("print('ready'); raise SystemExit(3)", "ended with exit code 3"),
        ("import sys; sys.exit('volcast: port 1: taken')", "port 1: taken"),
    ],
)
@pytest.mark.process
def test_a_part_that_ended_is_told_by_its_own_line_or_by_how_it_ended(
    tmp_path: Path, script: str, expected: str
) -> None:
    part = Process("server", [], tmp_path / "server.log")
    with part.log.open("wb") as log:
        part.popen = subprocess.Popen([sys.executable, "-c", script], stdout=log, stderr=log)
        part.popen.wait()
    assert part.failure_line() == expected


@pytest.mark.process
def test_only_a_part_that_may_end_and_ends_well_is_not_missed(tmp_path: Path) -> None:
    def ended(name: str, code: int) -> Process:
        part = Process(name, [], tmp_path / f"{name}.log")
        part.popen = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
        part.popen.wait()
        return part

    with ProcessGroup(tmp_path, None) as parts:
        parts.all = [ended("ingest", 0)]
        parts.require_alive(may_end=parts.all)
        with pytest.raises(UnavailableError, match="ingest: ended with exit code 0"):
            parts.require_alive()
        parts.all = [ended("ingest", 3)]
        with pytest.raises(UnavailableError, match="ingest: ended with exit code 3"):
            parts.require_alive(may_end=parts.all)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ({}, "read 7 of 10 records"),
        ({"consumed": 9, "backlog_rows": 0}, "read 9 of 10 records"),
        ({"consumed": 10, "backlog_rows": 3}, "3 rows still waited for the inference server"),
    ],
)
def test_a_run_that_did_not_carry_everything_through_fails(
    tmp_path: Path, summary: dict[str, int], expected: str
) -> None:
    part = Process("worker", [], tmp_path / "worker.log", stats={"consumed": 7})
    require_complete({"consumed": 10, "backlog_rows": 0}, 10, part)
    with pytest.raises(UnavailableError, match=expected):
        require_complete(summary, 10, part)
