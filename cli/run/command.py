"""`volcast run`: the whole path on one machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cli.run.plan import Exchange, environment, own_kafka, own_topics
from cli.run.processes import Process, ProcessGroup
from cli.run.summary import Summary
from cli.run.view import View
from common.cli import Duration, Speed, config_option, examples, json_option
from common.config import Config, load_config, names_a_kafka
from common.errors import InputError, UnavailableError
from common.lifecycle import SignalEvent, stop_on_signals
from common.schema import SCHEMAS
from common.streams import reader_gone
from pipeline.broker.jars import cache_dir, kafka_version, missing_jars, read_lock

READY_TIMEOUT_S = 60.0
KAFKA_TIMEOUT_S = 120.0  # as pipeline.broker.kafka.START_TIMEOUT_S
FETCH_TIMEOUT_S = 900.0  # of the broker's first start, which downloads 43 MB
CATCH_UP_TIMEOUT_S = 20.0  # without progress
STOPPING = "stopping (a second Ctrl-C kills all processes)"


@click.command(
    epilog=examples(
        "volcast run                                   # a simulated market, until Ctrl-C",
        "volcast run --duration 30s --json             # ends by itself; the last line is the summary",
        "volcast run --exchange replay:recording.ndjson.gz --speed max",
        "volcast run --exchange coinbase               # the live market",
        "volcast run --schema full/1 --model volatility-full",
    )
)
@click.option(
    "--duration", type=Duration(), default=None, help="Length of the run, such as 30s (default: until Ctrl-C)."
)
@click.option(
    "--exchange",
    "exchange_text",
    default="simulated",
    show_default=True,
    metavar="simulated|replay:FILE|coinbase|binance",
    help="Source of the ticks. FILE may be a folder or a quoted pattern.",
)
@click.option("--speed", type=Speed(), default="1", show_default=True, help="1 is real time, N, or max.")
@click.option("--seed", type=int, default=None, help="Seed of the simulated market (exchange.seed).")
@click.option("--schema", type=click.Choice(list(SCHEMAS)), default=None, help="Feature schema (worker.schema).")
@click.option("--model", default=None, metavar="NAME", help="Model for the predictions (worker.model).")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("run"),
    show_default=True,
    help="Folder for logs and features. Those of the last run in it are removed.",
)
@json_option
@config_option
def run(
    duration: float | None,
    exchange_text: str,
    speed: float,
    seed: int | None,
    schema: str | None,
    model: str | None,
    run_dir: Path,
    as_json: bool,
    config_file: Path | None,
) -> int:
    """The whole path on this machine, in one process for each part.

    Starts Kafka, exchange, ingest, feature worker, inference server and REST gateway, on the ports of
    config.yaml. Shows a live table, and a summary at the end. If kafka.bootstrap_servers is set, the run uses that
    Kafka and starts none. The run ignores worker.server and gateway.server.
    """
    config = load_config(config_file)
    exchange = Exchange.parse(exchange_text)
    hurry = SignalEvent()
    stop = stop_on_signals(hurry)
    console = Console(stderr=True)
    exchange.require_recording()
    live_market = exchange.live
    environ = environment(
        config,
        exchange,
        features_dir=config.worker.parquet_dir if live_market else str(run_dir / "features"),
        archive_dir=config.ingest.archive_dir if live_market else "",
    )
    starts_kafka = not names_a_kafka(config_file)
    suffix = ""
    if starts_kafka:
        # Each run of a simulated market starts with empty topics; those of the live market continue.
        environ |= own_kafka(config, config.broker.data_dir if live_market else str(run_dir / "kafka"))
    elif not live_market:
        suffix = f".run-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
        environ |= own_topics(config, suffix)
    given = {"VOLCAST_WORKER__SCHEMA": schema, "VOLCAST_WORKER__MODEL": model}
    environ |= {name: value for name, value in given.items() if value is not None}
    options = None
    if not live_market:
        options = exchange.arguments(
            speed=speed,
            seed=config.exchange.seed if seed is None else seed,
            duration_s=duration,
            schema=schema or config.worker.schema,
        )
    # A simulated market at a finite speed ends by itself, after the same ticks each time.
    ends_itself = exchange.kind == "simulated" and speed != float("inf")
    with (
        _owning(run_dir),
        ProcessGroup(_clean(run_dir), config_file, hurry) as processes,
        View(processes, console) as view,
    ):
        processes.tell = view.print
        if not starts_kafka:
            view.print(f"Kafka at {config.kafka.bootstrap_servers}, topics {config.kafka.topics.raw}{suffix}, ...")
        session = RunSession(processes, view, environ, lambda: stop.is_set() or reader_gone(), starts_kafka)
        summary = _carry_out(session, config, options, None if ends_itself else duration, view, stop)
    if summary is None:
        return _exit_code(hurry)
    if exchange.kind == "replay" and not summary.ticks and not stop.is_set():
        raise InputError(_no_tick(exchange.recording, config.ingest.products, summary.dead))
    if as_json:
        click.echo(summary.as_json())
    else:
        summary.show(Console())
    return _exit_code(hurry)


def _carry_out(
    session: RunSession,
    config: Config,
    options: list[str] | None,
    duration_s: float | None,
    view: View,
    stop: threading.Event,
) -> Summary | None:
    """The summary of a whole run; None if the user stopped it before its work was done.

    Raises UnavailableError if a run that nobody stopped has failed.
    """
    try:
        ready = session.start(config, options)
        if ready:
            session.watch(duration_s)
        if stop.is_set():
            view.print(STOPPING)
        return session.finish() if ready else None
    except UnavailableError as error:
        if not stop.is_set():
            raise
        # After Ctrl-C, unfinished work is not a failure of the command.
        view.print(f"stopped before the end: {error}")
        return None


def _exit_code(hurry: threading.Event) -> int:
    return 130 if hurry.is_set() else 0


def _no_tick(recording: str, products: tuple[str, ...], dead: int) -> str:
    if dead:
        return f"recording {recording}: no tick in it (dead: {dead:,}; `volcast features` says what is wrong)"
    return f"recording {recording}: no tick of {', '.join(products)} in it; set ingest.products"


@contextmanager
def _owning(run_dir: Path) -> Iterator[None]:
    """Locks the folder against other runs, since each run removes the files of the last run."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / ".lock").open("w")
    except OSError as error:
        raise _unusable(run_dir, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(f"another run uses {run_dir}; choose another folder with --run-dir") from None
        yield


def _clean(run_dir: Path) -> Path:
    """Removes the files of an earlier run, and no other files. Returns the folder for logs."""
    logs = run_dir / "logs"
    try:
        logs.mkdir(exist_ok=True)
        for old in [*logs.glob("*.log"), *(run_dir / "features").glob("*.parquet")]:
            old.unlink()
        if (run_dir / "kafka" / "log" / "meta.properties").exists():
            shutil.rmtree(run_dir / "kafka" / "log")
    except OSError as error:
        raise _unusable(run_dir, error) from None
    return logs


def _unusable(run_dir: Path, error: OSError) -> InputError:
    return InputError(f"--run-dir {run_dir}: cannot be used: {error.strerror or error}")


def require_complete(worker: dict[str, Any], published: int, worker_process: Process) -> None:
    """Raises UnavailableError if the worker ended with records unread or warm rows unanswered."""
    read = worker.get("consumed", worker_process.stats.get("consumed", 0))
    if not worker or read < published:
        raise UnavailableError(
            f"worker: read {read} of {published} records before it ended: {worker_process.failure_line()}"
        )
    if worker["backlog_rows"]:
        raise UnavailableError(
            f"worker: {worker['backlog_rows']} rows still waited for the inference server when it ended  "
            f"(log: {worker_process.log})"
        )


class RunSession:
    """A run, from the first process to the summary."""

    def __init__(
        self,
        processes: ProcessGroup,
        view: View,
        environ: dict[str, str],
        stopping: Callable[[], bool],
        starts_kafka: bool = True,
    ) -> None:
        self._starts_kafka = starts_kafka
        self._processes = processes
        self._view = view
        self._environ = environ
        self._stopping = stopping
        self._began_s = time.monotonic()
        self._fed_s = self._began_s
        self._first_prediction_s: float | None = None
        self._ingest: Process | None = None
        self._worker: Process | None = None
        self._exchange: Process | None = None

    def start(self, config: Config, exchange: list[str] | None) -> bool:
        """Starts all processes and waits until they are ready. Ticks flow from then on.

        Returns False if a signal came first.

        Raises UnavailableError with the failure line of the process that failed.
        """
        waited = [self._start("server", "serve")]
        if exchange is not None:
            self._exchange = self._start("exchange", *exchange)
            waited.append(self._exchange)
        if self._starts_kafka and not self._start_kafka():
            return False
        self._worker = self._worker or self._start("worker")
        if not self._await_ready(*waited, self._worker):
            return False
        if self._exchange is not None and self._exchange.ready:
            self._environ["VOLCAST_INGEST__URL"] = self._exchange.ready["url"]
            if self._exchange.ready.get("products"):
                self._environ["VOLCAST_INGEST__PRODUCTS"] = ",".join(self._exchange.ready["products"])
        arguments = ["ingest", "--until-closed"] if self._exchange else ["ingest"]
        self._ingest = self._start("ingest", *arguments)
        # Two seconds of imports that no prediction waits for.
        gateway = self._start("gateway")
        if not self._await_ready(self._ingest):
            return False
        self._fed_s = time.monotonic()
        if not self._await_ready(gateway):
            return False
        self._view.print(
            f"ready after {time.monotonic() - self._began_s:.1f} s: gRPC {config.server.host}:{config.server.port}, "
            f"REST http://{config.gateway.host}:{config.gateway.port}/docs"
        )
        return True

    def _start_kafka(self) -> bool:
        jars = read_lock()
        if missing_jars(cache_dir(), jars):
            self._view.print(f"fetching Apache Kafka {kafka_version(jars)}, once (43 MB) ...")
        broker = self._start("broker", "broker", "--allow-light")
        if not self._await(lambda: broker.ready is not None or "reserved" in broker.stats, FETCH_TIMEOUT_S, broker):
            return False
        if broker.ready is None:
            # Nobody else has the address, so the worker may start while Kafka does. It waits for Kafka to answer.
            self._environ["VOLCAST_KAFKA__BOOTSTRAP_SERVERS"] = broker.stats["reserved"]
            self._worker = self._start("worker", kafka_timeout_s=KAFKA_TIMEOUT_S)
        if not self._await_ready(broker, timeout_s=FETCH_TIMEOUT_S) or broker.ready is None:
            return False
        if broker.ready["light"]:
            self._view.print(broker.ready["light"])
        self._environ["VOLCAST_KAFKA__BOOTSTRAP_SERVERS"] = broker.ready["address"]
        return True

    def watch(self, duration_s: float | None) -> None:
        """Returns when the duration is over, the exchange has ended, or a signal came."""
        ends_s = self._fed_s + duration_s if duration_s else float("inf")
        while not self._stopping() and time.monotonic() < ends_s:
            self._look(0.1)
            if self._ingest is not None and not self._ingest.alive:
                break
        self._look(0)

    def finish(self) -> Summary:
        """Stops the feed, lets the worker catch up, and stops it. Raises UnavailableError if it did not catch up."""
        assert self._ingest is not None
        assert self._worker is not None
        self._processes.stop(self._ingest)
        if self._ingest.popen is not None and self._ingest.popen.returncode != 0:
            raise UnavailableError(f"ingest: {self._ingest.failure_line()}  (log: {self._ingest.log})")
        published = self._ingest.stats.get("published", 0)
        self._catch_up(self._worker, published)
        duration_s = time.monotonic() - self._fed_s
        self._processes.stop(self._worker)
        worker = self._worker.summary or {}
        require_complete(worker, published, self._worker)
        return Summary.of(self._ingest.stats, worker, duration_s, self._first_prediction_s)

    def _start(self, name: str, *arguments: str, kafka_timeout_s: float | None = None) -> Process:
        """kafka_timeout_s: how long the process waits for a Kafka that starts; None: as configured."""
        waiting = {} if kafka_timeout_s is None else {"VOLCAST_KAFKA__TIMEOUT_S": f"{kafka_timeout_s:g}"}
        return self._processes.start(name, arguments or (name,), self._environ | waiting)

    def _await_ready(self, *waited: Process, timeout_s: float = READY_TIMEOUT_S) -> bool:
        return self._await(lambda: all(process.ready is not None for process in waited), timeout_s, *waited)

    def _await(self, reached: Callable[[], bool], timeout_s: float, *waited: Process) -> bool:
        """Waits until processes have come so far; False if a signal came first. Raises UnavailableError."""
        deadline = time.monotonic() + timeout_s
        while not reached() and not self._stopping():
            self._look(0.05)
            late = [process for process in waited if process.ready is None]
            if late and time.monotonic() > deadline:
                raise UnavailableError(
                    f"{late[0].name}: not ready after {timeout_s:g} s: {late[0].failure_line()}  (log: {late[0].log})"
                )
        return not self._stopping()

    def _catch_up(self, worker: Process, published: int) -> None:
        best, progress_s = -1, time.monotonic()
        while self._behind(worker, published) and time.monotonic() - progress_s < CATCH_UP_TIMEOUT_S:
            self._look(0.1)
            done = worker.stats.get("consumed", 0) + worker.stats.get("predictions", 0)
            if done > best:
                best, progress_s = done, time.monotonic()

    @staticmethod
    def _behind(worker: Process, published: int) -> bool:
        consumed, waiting = worker.stats.get("consumed", 0), worker.stats.get("backlog_rows", 0)
        return bool(consumed < published or waiting)

    def _look(self, timeout_s: float) -> None:
        self._processes.listen(timeout_s)
        # The exchange may end after its last message, and ingest when the exchange closes the connection.
        self._processes.require_alive(may_end=(self._ingest, self._exchange))
        if self._first_prediction_s is None and self._worker and self._worker.stats.get("predictions"):
            self._first_prediction_s = time.monotonic() - self._began_s
        self._view.refresh()
