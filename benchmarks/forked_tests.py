"""Runs test files of a copy of the tree in a forked child: the libraries that the tests import are loaded only once.

The limits count the child's CPU time, not the time on the clock. A busy or paused machine therefore ends no tests.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_MEMORY_BYTES = 12 << 30  # a fault may append to a list without end
POLL_S = 0.02
# Tests that use less than this share of a core for so long wait for something that will not come.
MIN_PROGRESS = 0.01
STALL_S = 20.0
LIBRARIES = (
    "anyio", "confluent_kafka", "coverage", "cryptography.x509", "fastapi", "google.protobuf.struct_pb2", "grpc.aio",
    "grpc_health.v1", "grpc_status", "h2.connection", "httpx", "hypothesis.strategies", "numpy.random", "numpy.testing",
    "onnx", "onnxruntime", "prometheus_client", "pydantic_settings", "starlette", "structlog", "uvicorn", "yaml",
)  # fmt: skip

Ending = Literal["passed", "failed", "out of CPU time", "stalled"]


class Outcome(msgspec.Struct):
    ending: Ending
    failed: str = ""  # the first test that failed; "" if the tests could not be collected
    cpu_s: float = 0.0
    lines: dict[str, list[int]] = {}  # of each measured file, those that ran


def load_libraries() -> None:
    """Imports the modules that most tests need, as far as they are installed. The child inherits them."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def run_tests(folder: Path, options: Sequence[str], *, cpu_limit_s: float, measured: Sequence[str] = ()) -> Outcome:
    """Runs pytest in `folder` until the first failure. measured: files whose executed lines are wanted."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(folder, options, writer, cpu_limit_s, measured)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        stalled, cpu_s = _wait(pid)
        content = answer.read()
    if content:
        outcome = msgspec.json.decode(content, type=Outcome)
    elif stalled:
        outcome = Outcome("stalled")
    elif cpu_s >= cpu_limit_s - 1:
        outcome = Outcome("out of CPU time")
    else:
        outcome = Outcome("failed")  # the fault ended the interpreter
    outcome.cpu_s = round(cpu_s, 2)
    return outcome


def _wait(pid: int) -> tuple[bool, float]:
    """Whether the child stalled, and the CPU seconds that it used.

    Counts its own polls: while this process is paused, the child's wait does not count.
    """
    polls, seen_s, stalled = 0, 0.0, False
    while True:
        done, _, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return stalled, usage.ru_utime + usage.ru_stime
        time.sleep(POLL_S)
        polls += 1
        if polls * POLL_S >= STALL_S:
            used_s = _cpu_s(pid)
            if used_s - seen_s < MIN_PROGRESS * STALL_S:
                stalled = True
                os.killpg(pid, signal.SIGKILL)
            polls, seen_s = 0, used_s


def _cpu_s(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def _child(folder: Path, options: Sequence[str], writer: int, cpu_limit_s: float, measured: Sequence[str]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        limit_s = max(int(cpu_limit_s), 1)
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        outcome = _run_pytest(folder, options, measured)
        os.write(writer, msgspec.json.encode(outcome))
        code = 0
    finally:
        os._exit(code)


def _run_pytest(folder: Path, options: Sequence[str], measured: Sequence[str]) -> Outcome:
    _enter(folder)
    recorder = _FirstFailure()
    arguments = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--assert=plain", "--timeout=0", *options]
    with _Lines(folder, measured) as lines:
        result = pytest.main(arguments, plugins=[recorder])
    passed = result in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    return Outcome("passed" if passed else "failed", recorder.failed, 0.0, lines.of_file)


def _enter(folder: Path) -> None:
    """Makes `folder` the tree that modules come from, in place of this module's own."""
    os.chdir(folder)
    sys.dont_write_bytecode = False
    warnings.resetwarnings()
    paths = [str(folder), str(folder / "proto")]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.path[:0] = paths
    libraries = str(Path(sys.prefix))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith(str(ROOT)) and not file.startswith(libraries) and name != "__main__":
            del sys.modules[name]


class _FirstFailure:
    def __init__(self) -> None:
        self.failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


class _Lines:
    """The lines of `measured` that run, by the path of the file."""

    def __init__(self, folder: Path, measured: Sequence[str]) -> None:
        self._folder, self._measured = folder, measured
        self.of_file: dict[str, list[int]] = {}
        self._coverage: Any = None

    def __enter__(self) -> _Lines:
        if self._measured:
            import coverage

            files = [str(self._folder / name) for name in self._measured]
            self._coverage = coverage.Coverage(data_file=None, config_file=False, include=files)
            self._coverage.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._coverage is None:
            return
        self._coverage.stop()
        data = self._coverage.get_data()
        for name in self._measured:
            if lines := data.lines(str(self._folder / name)):
                self.of_file[name] = sorted(lines)
