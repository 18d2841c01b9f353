"""The backfill on a Dask cluster: its rows are the stream's, also while workers come and go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from cli.main import run_command
from common.errors import InputError
from common.schema import CORE_1, FULL_1
from pipeline.archive import read_archive
from pipeline.backfill import run, tasks
from pipeline.features.table import compute_features
from tests.pipeline.backfill.recordings import three_days
from tests.pipeline.backfill.test_flat import flat_days
from tests.pipeline.backfill.test_tasks import assert_is_the_stream

FAILING = "BTC-USD 2026-04-06, part 0"

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture
def threads() -> Iterator[Client]:
    """A cluster of two workers in this process, so that its tasks can be changed."""
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    with LocalCluster(dashboard_address=None, **options) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, silence_logs=50) as cluster:
        yield cluster.scheduler_address


def worker(address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--no-dashboard", "--host", "127.0.0.1"]
    return subprocess.Popen([*command, *options], **quiet)  # type: ignore[call-overload,no-any-return]


def silent(step: str) -> None:
    pass


def failing(times: int, record: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Makes the first `times` computations of a day fail; gives how often it was computed, by the file `record`."""
    compute = tasks.compute_day

    def compute_day(ticks: tasks.UnitTicks, day: tasks.ProductDay, *rest: Any) -> tasks.DayDone:
        if day.name == FAILING:
            with record.open("a") as lines:
                lines.write("computed\n")
            if len(record.read_text().splitlines()) <= times:
                raise OSError("the disk hiccups")
        return compute(ticks, day, *rest)

    monkeypatch.setattr(tasks, "compute_day", compute_day)
    return lambda: len(record.read_text().splitlines())


def test_the_command_gives_the_rows_of_the_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = three_days(tmp_path / "in", every_s=2.0)
    out = tmp_path / "features.parquet"
    arguments = ["features", "--data-file", str(tmp_path / "in"), "--out", str(out), "--schema", "full/1"]
    assert run_command([*arguments, "--cluster", "local", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["out"] == str(tmp_path / "features")
    want = compute_features(read_archive(files), FULL_1)
    assert {name: summary[name] for name in ("ticks", "features", "not_warm")} == {
        "ticks": want.counts.ticks,
        "features": want.counts.features,
        "not_warm": want.counts.not_warm,
    }
    assert Path(summary["late_file"]) == Path(summary["dead_file"]) == tmp_path / "features" / "_refused"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_command_takes_flat_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = flat_days(tmp_path / "in")
    arguments = ["features", "--data-file", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json"]
    assert run_command([*arguments, "--cluster", "local"]) == 0
    summary = json.loads(capsys.readouterr().out)
    want = compute_features(read_archive(files))
    assert summary["features"] == want.counts.features
    assert "order_book_imbalance" in summary["not_computed"]
    assert len(summary["recordings"]) == len(files)


def test_a_task_that_fails_once_is_tried_again(
    threads: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = failing(1, tmp_path / "calls", monkeypatch)
    files = three_days(tmp_path / "in", every_s=5.0)
    totals = run.backfill(threads, files, tmp_path / "out", CORE_1, threading.Event(), silent)
    assert totals is not None
    assert calls() == 2
    assert totals.failed == {}
    assert_is_the_stream(tmp_path / "out", totals, compute_features(read_archive(files)))
    printed = capsys.readouterr()
    assert FAILING in printed.out + printed.err


def test_a_task_that_fails_each_time_is_named_and_nothing_is_replaced(
    threads: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = failing(99, tmp_path / "calls", monkeypatch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("kept")
    files = three_days(tmp_path / "in", every_s=5.0)
    totals = run.backfill(threads, files, tmp_path / "out", CORE_1, threading.Event(), silent)
    assert totals is not None
    assert totals.failed == {FAILING: "OSError: the disk hiccups"}
    assert calls() == run.ATTEMPTS
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]


def test_a_complete_backfill_replaces_the_folder(threads: Client, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.parquet").write_text("of an earlier run")
    run.backfill(threads, three_days(tmp_path / "in", every_s=9.0), tmp_path / "out", CORE_1, threading.Event(), silent)
    assert not (tmp_path / "out" / "old.parquet").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_signal_leaves_nothing_behind(threads: Client, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    files = three_days(tmp_path / "in", every_s=9.0)
    assert run.backfill(threads, files, tmp_path / "out", CORE_1, stop, silent) is None
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_recording_that_cannot_be_read_is_named(threads: Client, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.ndjson: no such file"):
        run.backfill(threads, [tmp_path / "nothing.ndjson"], tmp_path / "out", CORE_1, threading.Event(), silent)


def test_progress_counts_parts_and_days(threads: Client, tmp_path: Path) -> None:
    steps: list[str] = []
    run.backfill(
        threads, three_days(tmp_path / "in", every_s=9.0), tmp_path / "out", CORE_1, threading.Event(), steps.append
    )
    assert steps[0] == "looking for connections in 9 recordings"
    assert steps[-1].startswith("3 of 3 parts read, ")


def test_workers_that_join_and_are_killed_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = three_days(tmp_path / "in", every_s=0.1)
    with scheduler() as address, Client(address) as client:
        workers = [worker(address)]
        events: list[str] = []

        def come_and_go(step: str) -> None:
            """One worker at the start; two join at the first progress; the first is killed, then another."""
            events.append(step)
            if "parts read" not in step:
                return
            if len(workers) < 3:
                workers.extend([worker(address), worker(address)])
                client.wait_for_workers(3, timeout=60)
                os.kill(workers[0].pid, signal.SIGKILL)
            elif workers[1].poll() is None and " of 3 parts read" in step and step[0] != "0":
                os.kill(workers[1].pid, signal.SIGKILL)

        try:
            totals = run.backfill(client, files, tmp_path / "out", CORE_1, threading.Event(), come_and_go)
        finally:
            for process in workers:
                process.kill()
                process.wait()
    assert totals is not None
    assert totals.failed == {}
    assert [process.returncode for process in workers[:2]] == [-signal.SIGKILL] * 2
    assert_is_the_stream(tmp_path / "out", totals, compute_features(read_archive(files)))
