"""From `volcast serve` to ready, and the memory it then holds, with all shipped models."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.h2load import h2load
from benchmarks.processes import server
from benchmarks.targets import Row, at_most, medians
from benchmarks.turns import Run
from benchmarks.unary import IN_FLIGHT


def startup(run: Run) -> Iterator[Row]:
    ready_s, idle_mb, loaded_mb = [], [], []
    for number in range(run.rounds):
        run.say(f"start, round {number + 1} of {run.rounds}")
        with server() as ours:
            ready_s.append(ours.ready_s)
            idle_mb.append(ours.resident_mb())
            h2load(ours.address, IN_FLIGHT, run.scaled(60_000))
            loaded_mb.append(ours.resident_mb())
    yield medians("volcast serve, start to ready", "s", ready_s, target=at_most(1.0, "s"))
    yield medians("resident memory, ready", "MB", idle_mb, target=at_most(150, "MB"))
    yield medians("resident memory, after load at 32 in flight", "MB", loaded_mb, target=at_most(150, "MB"))
