"""Rules for every test: generated cases repeat, fast tests start no process and run first."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from common.log import LibraryLogHandler

settings.register_profile("volcast", derandomize=True, deadline=None)
settings.load_profile("volcast")

# A test run under nohup ignores SIGHUP, and so would every process that a test starts.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# And one that a shell started in the background ignores SIGINT.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each process that computes features compiles 3 to 9 s otherwise. numba is not imported yet, and children inherit this.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".numba_cache"))

pytest_plugins = ["tests.processes"]

# A test that asks for one of these fixtures talks to a child process.
PROCESS_FIXTURES = frozenset(
    {"broker", "forecasts", "parts", "inference_server", "server", "patient", "unreachable", "running"}
)

# Folders in which every test is slow.
SLOW_FOLDERS = (
    "tests/abuse/",
    "tests/benchmarks/",
    "tests/cli/models/",
    "tests/training/commands/",
    "tests/training/drift/",
    "tests/training/shipping/tracking/",
)

# A test that asks for one of these fixtures trains models.
SLOW_FIXTURES = frozenset({"trained"})

# The longest files, longest first. They run before other slow files, so that no worker ends long after another.
# Those that compute stand between those that mostly wait. Measured with `make test ARGS=--durations=50`.
LONGEST = (
    "tests/benchmarks/test_live_offline.py",
    "tests/cli/test_run.py",
    "tests/test_readme.py",
    "tests/server/test_processes.py",
    "tests/pipeline/stream/test_secured_kafka.py",
    "tests/training/commands/test_train.py",
    "tests/pipeline/stream/test_exactly_once.py",
    "tests/server/test_lifecycle.py",
    "tests/pipeline/stream/test_faults.py",
    "tests/training/commands/test_evaluate.py",
    "tests/pipeline/broker/test_kafka.py",
    "tests/training/commands/test_retrain.py",
    "tests/pipeline/commands/test_check.py",
    "tests/training/drift/test_evidently_report.py",
    "tests/test_own_model_page.py",
    "tests/pipeline/backfill/test_run.py",
    "tests/server/workers/test_supervisor.py",
)

STARTS_A_PROCESS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec"})


def is_unit(item: pytest.Item) -> bool:
    """True for the tests of `make unit`."""
    return not any(item.get_closest_marker(name) for name in ("process", "slow"))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers of `-n auto`: twice as many as cores, since tests that start processes mostly wait for them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if "not process" in config.getoption("markexpr") else 2 * cores


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & PROCESS_FIXTURES:
            item.add_marker(pytest.mark.process)
        if "broker" in fixtures:
            item.add_marker(pytest.mark.kafka)
        if fixtures & SLOW_FIXTURES or item.nodeid.startswith(SLOW_FOLDERS):
            item.add_marker(pytest.mark.slow)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return  # in the order that was asked for
    units = {_file_of(item) for item in items} - {_file_of(item) for item in items if not is_unit(item)}
    rank = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: (_file_of(item) not in units, rank.get(_file_of(item), len(LONGEST))))


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What a failed test left open is closed here: later it would be a warning, and so a failure, of another test."""
    result = yield
    if item.stash.get(_failed, False):
        for name in ("last_exc", "last_traceback", "last_type", "last_value"):  # keep its frames
            sys.__dict__.pop(name, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    return result


def pytest_make_parametrize_id(val: object) -> str | None:
    """Binary values by their length: bytes of gzip carry the time, and all workers must collect the same ids."""
    return f"{len(val)}_bytes" if isinstance(val, bytes) and not val.isascii() else None


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


_unit_test = ""


def _refuse_processes(event: str, arguments: tuple[Any, ...]) -> None:
    if _unit_test and event in STARTS_A_PROCESS:
        raise AssertionError(f"{_unit_test} starts a process, {arguments[:2]}: mark it with @pytest.mark.process")


sys.addaudithook(_refuse_processes)


@pytest.fixture(autouse=True)
def _unit_tests_start_no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    global _unit_test
    only_units = "not process" in request.config.getoption("markexpr")
    _unit_test = request.node.nodeid if only_units and is_unit(request.node) else ""
    yield
    _unit_test = ""


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Commands run in this process set up logs and signals; the next test finds neither."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, LibraryLogHandler)]
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
