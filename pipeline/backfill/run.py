"""Hands the tasks of a backfill to a Dask cluster.

A unit's ticks stay on the worker that read them; each of its product-days is a task of its own. If a worker leaves,
Dask runs the tasks again whose results went with it. A task that fails is named and tried again.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError, OutputError, UnavailableError, VolcastError
from common.log import get_logger
from common.schema import FeatureSchema
from pipeline.archive import DEFAULT_OPTIONS, ReadOptions
from pipeline.backfill import tasks
from pipeline.backfill.tasks import DayDone, Plan, UnitFacts
from pipeline.backfill.units import Unit, blocks, connections_in, flat_unit, recordings, units, whole
from pipeline.records import DeadLetter

ATTEMPTS = 3  # of each task
WAIT_S = 0.5  # between looks for a signal
UNITS_PER_WORKER = 2  # in work: bounds the memory that ticks take on the cluster

Report = Callable[[str], None]


@dataclass(slots=True)
class Totals:
    """Counts of a backfill, and the tasks that failed each time."""

    files: int = 0
    units: int = 0
    days: int = 0
    ticks: int = 0
    features: int = 0
    not_warm: int = 0
    gaps: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    refused_files: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> reason
    advice: str = ""  # why few rows are warm, and what to do
    first_dead: DeadLetter | None = None

    def add_unit(self, facts: UnitFacts, seen_before: set[tuple[str, str]]) -> None:
        self.ticks += facts.ticks
        self.gaps.update(facts.gaps)
        self.late.update(facts.late)
        self.dead.update(facts.dead)
        self.refused_files += facts.refused_files
        self.advice = self.advice or facts.advice
        self.first_dead = self.first_dead or facts.first_dead
        products = {(day.venue, day.product_id) for day in facts.days}
        # The stream has a gap before a product's first tick on another connection (see `units`).
        again = len(products & seen_before)
        if again:
            self.gaps["reconnect"] += again
        seen_before |= products

    def add_day(self, done: DayDone) -> None:
        self.days += 1
        self.features += done.rows
        self.not_warm += done.not_warm
        self.late.update(done.late)
        self.refused_files += done.refused_files


class Stopped(Exception):  # noqa: N818 (a signal, no error)
    """A signal came first."""


class Tasks:
    """Named futures, each tried ATTEMPTS times."""

    def __init__(self, client: Any, stop: threading.Event, report: Report) -> None:
        self._client = client
        self._stop = stop
        self._report = report
        self._names: dict[Any, str] = {}  # future -> its task's name
        self._attempts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._names)

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        future = self._client.submit(function, *arguments, pure=False)
        self._names[future] = name
        return future

    def finished(self) -> Iterator[tuple[Any, str, VolcastError | None]]:
        """Waits for tasks to end; yields future, name, and the error of a task that failed each time.

        Raises Stopped after a signal, UnavailableError if the scheduler is gone, InputError if the workers have no
        volcast.
        """
        from distributed import wait

        while True:
            if self._stop.is_set():
                raise Stopped
            if self._client.status != "running":
                raise UnavailableError("the Dask scheduler is gone; run the command again")
            try:
                done = wait(  # type: ignore[no-untyped-call]
                    list(self._names), timeout=WAIT_S, return_when="FIRST_COMPLETED"
                ).done
                break
            except TimeoutError:
                if not self._client.nthreads():
                    self._report("waiting for a worker: the cluster has none")
            except (OSError, CancelledError) as error:
                raise UnavailableError(f"the Dask scheduler is gone; run the command again ({_line(error)})") from None
        for future in done:
            fault = self._error(future)
            if fault is None or not self._tried_again(future, fault):
                yield future, self._names.pop(future), fault

    def _error(self, future: Any) -> VolcastError | None:
        if future.status == "finished":
            return None
        try:
            error = future.exception()
        except Exception as lost:  # cancelled: the scheduler forgot it
            error = lost
        if error is None:  # its worker was killed after it had ended, and the scheduler ran it again
            return None
        if isinstance(error, ImportError):
            raise InputError(f"--cluster: a worker cannot run volcast: {error}") from None
        known = isinstance(error, VolcastError)
        return error if known else UnavailableError(f"{type(error).__name__}: {_line(error)}")

    def _tried_again(self, future: Any, error: VolcastError) -> bool:
        name = self._names[future]
        self._attempts[name] += 1
        if self._attempts[name] >= ATTEMPTS or future.status == "cancelled":
            return False
        get_logger().warning(
            "task failed, trying again", task=name, attempt=self._attempts[name], attempts=ATTEMPTS, error=str(error)
        )
        future.retry()
        return True


def backfill(
    client: Any,
    files: Sequence[Path],
    out: Path,
    schema: FeatureSchema,
    stop: threading.Event,
    report: Report,
    options: ReadOptions = DEFAULT_OPTIONS,
    flat: bool = False,
    blank: Sequence[str] = (),
) -> Totals | None:
    """Writes the features of recordings into the folder `out`, a file for each product and day; None if stopped.

    flat: the recordings have one row per tick. blank: features that are NaN in each row.

    Once complete, the folder replaces the old output. If tasks failed, the old output stays, and `failed` names them.
    Raises InputError for recordings that cannot be read or a folder that cannot be written.
    """
    unfinished = out.with_name(f".{out.name}.unfinished")
    _renew(unfinished)
    try:
        plan = Plan(schema, unfinished.absolute(), options, tuple(blank))
        work = Tasks(client, stop, report)
        parts = flat_unit(files) if flat else _parts(work, files, options, report)
        totals = _run(work, client, parts, plan, report)
    except Stopped:
        shutil.rmtree(unfinished, ignore_errors=True)
        return None
    if not totals.failed and totals.features:
        _replace(out, unfinished)
    return totals


def _parts(work: Tasks, files: Sequence[Path], options: ReadOptions, report: Report) -> list[Unit]:
    """The recordings in parts that can be read independently."""
    in_order = recordings(files)
    if options.gap_after_ns:
        return whole(in_order)
    report(f"looking for connections in {len(in_order)} recordings")
    return units(in_order, _connections(work, blocks(in_order)))


def _run(work: Tasks, client: Any, parts: Sequence[Unit], plan: Plan, report: Report) -> Totals:
    waiting = list(parts)
    totals = Totals(files=sum(len(unit.recordings) for unit in waiting), units=len(waiting))
    every, seen, open_days = len(waiting), set[tuple[str, str]](), Counter[Any]()
    days_known = read = 0
    ticks_of: dict[Any, Any] = {}  # future of facts -> future of ticks
    unit_of: dict[Any, Any] = {}  # future of a day -> future of ticks
    while waiting or len(work):
        while waiting and len(ticks_of) + len(open_days) < _max_units(client):
            unit = waiting.pop(0)
            ticks = client.submit(tasks.read_unit, unit, plan, pure=False)
            ticks_of[work.submit(f"reading part {unit.number}, from {unit.name}", tasks.facts_of, ticks)] = ticks
        for future, name, error in work.finished():
            if error is not None:
                totals.failed[name] = str(error)
            if future in ticks_of:
                ticks, read = ticks_of.pop(future), read + 1
                if error is None:
                    facts = future.result()
                    totals.add_unit(facts, seen)
                    days_known += len(facts.days)
                    for day in facts.days:
                        unit_of[work.submit(day.name, tasks.compute_day, ticks, day, plan)] = ticks
                        open_days[ticks] += 1
            else:
                ticks = unit_of.pop(future)
                open_days[ticks] -= 1
                open_days += Counter()  # forgets units without open days, and with them their ticks
                if error is None:
                    totals.add_day(future.result())
        report(f"{read} of {every} parts read, {totals.days} of {days_known} days written, {totals.features:,} rows")
    return totals


def _connections(work: Tasks, parts: Sequence[tuple[Path, ...]]) -> frozenset[Path]:
    begin: set[Path] = set()
    for part in parts:
        if len(part) > 1:
            work.submit(f"looking for connections in {part[0]} and the recordings after it", connections_in, part)
    while len(work):
        for future, _, error in work.finished():
            if error is not None:
                raise error
            begin |= future.result()
    return frozenset(begin)


def _max_units(client: Any) -> int:
    return UNITS_PER_WORKER * max(1, len(client.nthreads()))


def _renew(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _replace(out: Path, unfinished: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    try:
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        unfinished.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be replaced: {error.strerror or error}") from None


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200]
