"""Servers of two workers, as real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from common.schema import CORE_1
from server.workers.supervisor import pause_s
from tests.processes import await_true
from tests.server.bundles import rows, write_bundle
from tests.server.processes import Process, run_to_end, serve
from volcast.v1 import DataType, PackedRows, PredictRequest

pytestmark = pytest.mark.process

PREDICT = "/volcast.v1.InferenceService/Predict"
REQUESTS = 'volcast_server_requests_total{code="OK",method="Predict"}'
RESTARTS = "volcast_server_worker_restarts_total"
RETRY = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
# A connection of its own for each channel.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.service_config", RETRY))


def request() -> bytes:
    packed = PackedRows(
        schema_hash=CORE_1.hash, data_type=DataType.DATA_TYPE_FLOAT64, row_count=1, values=rows(1).tobytes()
    )
    return PredictRequest(packed=packed).SerializeToString()


def predict(address: str) -> None:
    """One call on a connection of its own."""
    with grpc.insecure_channel(address, OWN_CONNECTION) as channel:
        call: Any = channel.unary_unary(PREDICT, bytes, bytes)
        call(request(), timeout=10)


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line[0] != "#")
    return {name: float(value) for name, value in pairs}


def events_named(process: Process, name: str) -> list[dict[str, Any]]:
    return [event for event in process.events() if event["event"] == name]


def pids(process: Process) -> list[int]:
    """The last of each number."""
    last = {event["worker"]: event["pid"] for event in events_named(process, "worker_started")}
    return [last[number] for number in sorted(last)]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_workers(process: Process, restarts: int) -> None:
    """Until so many were replaced and all are ready again."""

    def all_back() -> bool:
        now = process.metrics()
        return now[RESTARTS] == restarts and now['volcast_server_workers{state="ready"}'] == 2

    await_true(all_back, what="a worker in place of the one that died")


def await_answers(answered: list[int]) -> None:
    """One more for each."""
    before = answered.copy()
    await_true(lambda: all(now > old for now, old in zip(answered, before, strict=True)), what="an answer for each")


def two(models: Path, **environ: str) -> Any:
    return serve(models, VOLCAST_SERVER__WORKERS="2", **environ)


@pytest.fixture
def process(models: Path) -> Iterator[Process]:
    with two(models) as process:
        yield process


@pytest.mark.parametrize("front", ["native", "grpcio"])
def test_connections_to_the_one_port_reach_all_workers_and_metrics_are_their_sum(models: Path, front: str) -> None:
    with two(models, VOLCAST_SERVER__FRONT=front) as process:
        assert process.ready["workers"] == 2
        workers = [event["metrics_port"] for event in events_named(process, "ready") if "worker" in event]
        asked = 0

        def both_were_asked() -> bool:
            nonlocal asked
            predict(process.address)
            asked += 1
            return all(scrape(port).get(REQUESTS, 0) > 0 for port in workers)

        await_true(both_were_asked, what="a call at each worker")
        now = process.metrics()
        assert now[REQUESTS] == sum(scrape(port)[REQUESTS] for port in workers) == asked
        assert now["volcast_server_ready"] == 1
        assert now['volcast_server_models{model="jumps",version="1"}'] == 1
        assert {name for name in now if name.startswith("process_open_fds")} == {
            f'process_open_fds{{worker="{worker}"}}' for worker in ("0", "1", "supervisor")
        }


def test_each_worker_can_be_asked_on_a_port_of_its_own(process: Process) -> None:
    for event in [event for event in events_named(process, "ready") if "worker" in event]:
        predict(f"127.0.0.1:{event['own_port']}")
        assert scrape(event["metrics_port"])[REQUESTS] == 1


def test_no_call_of_a_retrying_client_fails_when_a_worker_is_killed(process: Process) -> None:
    failures: list[grpc.RpcError] = []
    answered = [0] * 8
    enough = threading.Event()

    def ask(number: int) -> None:
        with grpc.insecure_channel(process.address, OWN_CONNECTION) as channel:
            call: Any = channel.unary_unary(PREDICT, bytes, bytes)
            while not enough.is_set():
                try:
                    call(request(), timeout=10)
                except grpc.RpcError as error:
                    failures.append(error)
                answered[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(answered))]
    for thread in threads:
        thread.start()
    for death, number in enumerate((0, 1), start=1):
        await_answers(answered)
        os.kill(pids(process)[number], signal.SIGKILL)
        await_workers(process, death)
    await_answers(answered)
    enough.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [event["reason"] for event in events_named(process, "worker_died")] == ["was killed by SIGKILL"] * 2


def test_what_a_killed_worker_had_counted_stays_in_the_sum(process: Process) -> None:
    for event in [event for event in events_named(process, "ready") if "worker" in event]:
        for _ in range(3):
            predict(f"127.0.0.1:{event['own_port']}")
    before = process.metrics()
    assert before[REQUESTS] == 6
    os.kill(pids(process)[0], signal.SIGKILL)
    await_workers(process, 1)
    after = process.metrics()
    assert after[REQUESTS] == 6
    fell = {
        name for name, value in before.items() if name.endswith(("_total", "_count", "_sum")) and after[name] < value
    }
    assert fell == set()


def test_a_hanging_worker_is_reported_and_its_counts_stay(process: Process) -> None:
    (worker,) = [event for event in events_named(process, "ready") if event.get("worker") == 0]
    predict(f"127.0.0.1:{worker['own_port']}")
    assert process.metrics()[REQUESTS] == 1
    os.kill(pids(process)[0], signal.SIGSTOP)
    now = process.metrics()
    assert now['volcast_server_workers{state="silent"}'] == now['volcast_server_workers{state="ready"}'] == 1
    assert now["volcast_server_ready"] == 0
    assert now[REQUESTS] == 1
    os.kill(pids(process)[0], signal.SIGCONT)
    now = process.metrics()
    assert now['volcast_server_workers{state="ready"}'] == 2
    assert now["volcast_server_ready"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_and_ends_well(process: Process, number: int) -> None:
    workers = pids(process)
    assert process.stop(number) == 0
    assert not any(lives(pid) for pid in workers)
    stopped = events_named(process, "stopped")
    assert [event.get("worker") for event in stopped[:2]] in ([0, 1], [1, 0])
    assert "worker" not in stopped[2]


def test_an_interrupt_of_the_terminal_reaches_only_the_supervisor(process: Process) -> None:
    """From the terminal and from the supervisor it would be a second signal, which ends at once."""
    sessions = {os.getsid(pid) for pid in pids(process)}
    assert os.getsid(process.popen.pid) not in sessions


def test_a_signal_while_workers_still_start_ends_well_too(models: Path) -> None:
    with two(models) as process:
        os.kill(pids(process)[0], signal.SIGKILL)
        await_true(lambda: len(events_named(process, "worker_started")) == 3)
        assert process.stop() == 0
        assert not any(lives(pid) for pid in pids(process))


def test_a_second_signal_ends_all_at_once(models: Path) -> None:
    with (
        two(models, VOLCAST_SERVER__DRAIN_S="60") as process,
        socket.create_connection(("127.0.0.1", process.ready["port"])),
    ):
        # A connection that says nothing keeps its worker from being done before drain_s.
        workers = pids(process)
        process.popen.send_signal(signal.SIGTERM)
        await_true(lambda: bool(events_named(process, "draining")))
        assert process.stop(signal.SIGTERM, timeout_s=5) == 128 + signal.SIGTERM
        await_true(lambda: not any(lives(pid) for pid in workers), 5, "the end of the workers")


def test_workers_that_leave_report_it_and_still_answer_new_connections(models: Path) -> None:
    with (
        two(models, VOLCAST_SERVER__LAME_DUCK_S="60") as process,
        grpc.insecure_channel(process.address, OWN_CONNECTION) as channel,
    ):
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch", bytes, bytes)(b"", timeout=30)
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.SERVING
        process.popen.send_signal(signal.SIGTERM)
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.NOT_SERVING
        await_true(lambda: len(events_named(process, "leaving")) == 3)  # both workers and the supervisor
        for _ in range(8):
            predict(process.address)
        assert process.metrics()["volcast_server_ready"] == 0
        assert process.stop(signal.SIGTERM, timeout_s=10) == 0  # the second one: on to the drain
        assert len(events_named(process, "stopped")) == 3


def test_a_supervisor_that_is_killed_takes_its_workers_with_it(process: Process) -> None:
    workers = pids(process)
    process.popen.kill()
    await_true(lambda: not any(lives(pid) for pid in workers), 10, "the end of the workers")


def test_a_supervisor_whose_own_supervisor_has_gone_ends_in_order(process: Process) -> None:
    workers = pids(process)
    assert process.abandon() == 0
    assert not any(lives(pid) for pid in workers)


def test_sighup_reaches_all_workers_including_a_starting_worker(tmp_path: Path) -> None:
    write_bundle(tmp_path, version="1")
    with two(tmp_path, VOLCAST_SERVER__WATCH_S="0") as process:
        loaded = 'volcast_server_models{model="volatility",version="2"}'
        os.kill(pids(process)[0], signal.SIGKILL)
        await_true(lambda: len(events_named(process, "worker_started")) == 3)
        write_bundle(tmp_path, version="2", seed=2)
        process.popen.send_signal(signal.SIGHUP)
        await_workers(process, 1)
        ports = {
            event["worker"]: event["metrics_port"] for event in events_named(process, "ready") if "worker" in event
        }
        await_true(lambda: all(scrape(ports[worker]).get(loaded) == 1 for worker in (0, 1)), what="version 2 at both")
        assert len(events_named(process, "worker_died")) == 1


def test_a_worker_that_dies_again_and_again_ends_the_server_with_a_line_that_says_why(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models")
    with two(tmp_path / "models") as process:
        workers = pids(process)
        shutil.rmtree(tmp_path / "models")
        os.kill(workers[0], signal.SIGKILL)
        assert process.popen.wait(60) == 1
        assert process.lines()[-1] == (
            "volcast: worker 0 died 5 times in a row within 10 s of its start, the last time: "
            f"models folder {tmp_path}/models: No such file or directory"
        )
        assert not any(lives(pid) for pid in workers)


def test_a_reason_that_stops_all_workers_is_printed_once(tmp_path: Path) -> None:
    ports = ("--port", "0", "--metrics-port", "0", "--workers", "2")
    done = run_to_end("serve", "--models-dir", str(tmp_path / "none"), *ports)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("volcast: ")]
    assert lines == [f"volcast: models folder {tmp_path}/none: No such file or directory"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_server_on_the_port_is_refused(process: Process, models: Path, workers: str) -> None:
    port = str(process.ready["port"])
    options = ("--models-dir", str(models), "--port", port, "--metrics-port", "0", "--workers", workers)
    done = run_to_end("serve", *options)
    assert done.returncode == 1
    assert done.stderr == (
        f"volcast: port {port} on 127.0.0.1: Address already in use; choose another with --port or server.port\n"
    )


def test_the_supervisor_imports_no_serving_module() -> None:
    program = "import sys, server.commands.serve, server.workers.supervisor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    imported = {name.split(".")[0] for name in done.stdout.split()}
    assert "prometheus_client" in imported
    assert imported & {"grpc", "onnxruntime", "uvloop", "numpy", "google", "volcast"} == set()


def test_the_first_successor_comes_at_once_and_later_ones_more_and_more_slowly() -> None:
    assert [pause_s(deaths) for deaths in range(5)] == [0, 0, 0.1, 0.2, 0.4]
