"""The processes of a server beside others: ports that two want, logs that cannot be written, early signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from tests.lengths import length
from tests.processes import ROOT, await_true
from tests.server.bundles import write_bundle
from tests.server.processes import Process, starting

pytestmark = pytest.mark.process

ROUNDS = length(1, 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder)
    return folder


def stderr_of(process: Process) -> list[str]:
    return [line for line in process.lines() if not line.startswith("{")]


def assert_one_winner(processes: list[Process], port: int, setting: str) -> None:
    await_true(lambda: any(process.popen.poll() is not None for process in processes), 60, "an end")
    losers = [process for process in processes if process.popen.poll() is not None]
    winners = [process for process in processes if process not in losers]
    assert len(winners) == 1, [process.lines() for process in processes]
    assert winners[0].ready
    for loser in losers:
        assert loser.popen.returncode == 1
        (line,) = stderr_of(loser)
        assert line == (f"volcast: port {port} on 127.0.0.1: Address already in use; choose another with --{setting}")
    winners[0].popen.send_signal(signal.SIGTERM)
    assert winners[0].popen.wait(30) == 0


CONTESTS = [
    ("native", "1", "port"), ("grpcio", "1", "port"), ("native", "2", "port"), ("grpcio", "2", "port"),
    ("native", "1", "metrics-port"), ("native", "2", "metrics-port"), ("native", "1", "both"), ("grpcio", "1", "both"),
]  # fmt: skip


@pytest.mark.parametrize(("front", "workers", "contested"), CONTESTS)
def test_of_two_servers_that_start_together_exactly_one_serves(
    models: Path, front: str, workers: str, contested: str
) -> None:
    for _ in range(ROUNDS):
        port, metrics_port = free_port(), free_port()
        with ExitStack() as stack:
            processes = []
            for number in range(2):
                own = {"port": str(port), "metrics-port": str(metrics_port)}
                if number and contested == "port":
                    own["metrics-port"] = "0"
                if number and contested == "metrics-port":
                    own["port"] = str(free_port())
                arguments = [text for name, value in own.items() for text in (f"--{name}", value)]
                arguments += ["--models-dir", str(models), "--front", front, "--workers", workers]
                processes.append(stack.enter_context(starting("serve", *arguments)))
            if contested == "metrics-port":
                assert_one_winner(processes, metrics_port, "metrics-port or server.metrics_port")
            else:
                assert_one_winner(processes, port, "port or server.port")


def test_of_two_gateways_that_start_together_exactly_one_serves() -> None:
    for _ in range(ROUNDS):
        port = free_port()
        with ExitStack() as stack:
            both = [stack.enter_context(starting("gateway", "--port", str(port))) for _ in range(2)]
            assert_one_winner(both, port, "port or gateway.port")


def test_a_server_on_a_name_of_this_machine_is_one_server(models: Path) -> None:
    # gRPC binds every address of a name, and is content with a part of them.
    port = free_port()
    options = ("serve", "--host", "localhost", "--port", str(port), "--metrics-port", "0", "--models-dir", str(models))
    with ExitStack() as stack:
        both = [stack.enter_context(starting(*options, "--front", "grpcio")) for _ in range(2)]
        await_true(lambda: any(process.popen.poll() is not None for process in both), 60, "an end")
        assert sum(process.popen.poll() is None for process in both) == 1


@contextmanager
def serving_with(stderr: int | None, models: Path, *options: str) -> Iterator[Process]:
    """`volcast serve` whose log goes to `stderr`."""
    arguments = ["--port", "0", "--metrics-port", "0", "--models-dir", str(models), *options]
    with starting("serve", *arguments, stderr=stderr, VOLCAST_SERVER__WATCH_S="0.05") as process:
        yield process


def sample(process: Process, name: str) -> float:
    return process.metrics().get(name, -1.0)


def require_rollback_works(process: Process, models: Path) -> None:
    """A second version is loaded and takes over."""
    write_bundle(models, version="2", seed=2)
    second = 'volcast_server_models{model="volatility",version="2"}'
    await_true(lambda: sample(process, second) == 1.0, 30, "the second version")


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("stderr", ["full disk", "no reader", "idle reader"])
def test_a_log_that_cannot_be_written_stops_no_reload(tmp_path: Path, stderr: str, workers: str) -> None:
    write_bundle(tmp_path)
    read_end, write_end = os.pipe()
    if stderr == "full disk":
        os.close(write_end)
        write_end = os.open("/dev/full", os.O_WRONLY)
    elif stderr == "no reader":
        os.close(read_end)
    else:
        os.set_blocking(write_end, False)
        filling = b"x" * 65_536
        try:
            while True:
                os.write(write_end, filling)
        except BlockingIOError:
            pass
        os.set_blocking(write_end, True)
    options = ("--workers", workers)
    with serving_with(write_end, tmp_path, *options) as process:
        os.close(write_end)
        assert process.ready
        require_rollback_works(process, tmp_path)
        if stderr != "idle reader":
            assert sample(process, "volcast_log_lines_lost_total") > 0
        began = time.monotonic()
        assert process.stop(timeout_s=30) == 0
        assert time.monotonic() - began < 20
    if stderr != "no reader":
        os.close(read_end)


@pytest.mark.parametrize("arguments", [("serve", "--workers", "1"), ("serve", "--workers", "2"), ("gateway",)])
def test_a_hangup_before_ready_does_not_end_a_process(models: Path, arguments: tuple[str, ...]) -> None:
    ports = ("--port", "0") + (("--metrics-port", "0", "--models-dir", str(models)) if "serve" in arguments else ())
    with starting(*arguments, *ports) as process:
        # The handler is the first thing that the program sets up; see SigCgt in proc(5).
        await_true(lambda: catches(process.popen.pid, signal.SIGHUP) or process.popen.poll() is not None, 30)
        for _ in range(20):
            process.popen.send_signal(signal.SIGHUP)
            time.sleep(0.02)
        assert process.ready
        assert process.stop() == 0


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_hangup_before_ready_reads_the_models_again(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    options = ("--port", "0", "--metrics-port", "0", "--models-dir", str(tmp_path))
    with starting("serve", *options, VOLCAST_SERVER__WATCH_S="0") as process:
        await_true(lambda: catches(process.popen.pid, signal.SIGHUP), 30)
        process.popen.send_signal(signal.SIGHUP)
        assert process.ready
        await_true(
            lambda: any(event["event"] == "models_read" and event["cause"] == "request" for event in process.events()),
            30,
            "a reload",
        )


def test_each_command_that_is_piped_into_head_ends_well(models: Path) -> None:
    for arguments in (["--help"], ["serve", "--help"], ["token"], ["--version"]):
        command = f"{sys.executable} -m cli.main {' '.join(arguments)} | head -n 0; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b""), arguments


def test_a_supervisor_kills_a_worker_that_hangs_in_its_drain(models: Path) -> None:
    options = ("--port", "0", "--metrics-port", "0", "--models-dir", str(models), "--workers", "2", "--drain-s", "0")
    with starting("serve", *options) as process:
        assert process.ready
        (hanging,) = [
            event["pid"] for event in process.events() if event["event"] == "worker_started" and event["worker"] == 1
        ]
        os.kill(hanging, signal.SIGSTOP)
        assert process.stop(timeout_s=60) == 0
        killed = [event["workers"] for event in process.events() if event["event"] == "workers_killed"]
    assert killed == [[1]]
