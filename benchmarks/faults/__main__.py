"""Faults of the stream, one after another, and whether what is committed equals the oracle.

A simulated market runs through ingest, Kafka, worker and server while they are killed, stopped, or their disks are
filled. The oracle is `compute_features` over the archive. For faults that keep ticks from the archive, or delete them
from ticks.raw, it is `compute_features` over the records of ticks.raw. Then each tick must have exactly one feature
row with the same bits as a reader of committed records sees it, and each warm row exactly one prediction, with the
probability that the server gives to the row.

Recovery time: the peak age of results after a fault, that is, the longest time since the receipt of the newest tick
whose result could be read.

    python -m benchmarks.faults --short                    # the form of CI: a minute
    python -m benchmarks.faults --only worker --save       # one fault of the full form
    python -m benchmarks.faults --save                     # all: an hour
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.faults.actions import ACTIONS
from benchmarks.faults.course import Setup
from benchmarks.faults.runs import SHORT, Result, commit_here, run, store
from benchmarks.machine import header
from common.errors import VolcastError


def _show(console: Console, results: dict[str, Result]) -> None:
    header(console, "python -m benchmarks.faults", "recovery: peak age of results after a fault")
    table = Table(
        "fault", "times", "oracle", "rows", "predictions", "lost", "repeated", "altered", "recovery p50 s", "max s"
    )
    for name, result in results.items():
        figures = result.as_json()
        table.add_row(
            ACTIONS[name].title if name in ACTIONS else name,
            str(sum(result.times.values())),
            result.oracle,
            *(f"{figures[key]:,}" for key in ("rows", "predictions", "lost", "repeated", "altered")),
            str(figures["recovery_s_p50"]),
            str(figures["recovery_s_max"]),
        )
    console.print(table)
    for name, result in results.items():
        for remark, count in result.remarks.items():
            console.print(f"{name}: {remark}: {count:,}", highlight=False)
        for example in result.verdict.examples:
            console.print(f"{name}: {example}", highlight=False)


def _plans(arguments: argparse.Namespace) -> dict[str, tuple[dict[str, int], Setup]]:
    """Name -> times of each fault, and the setup."""
    if arguments.short:
        return {"short": (SHORT, Setup())}
    names = arguments.only or list(ACTIONS)
    if arguments.mixed:
        disks = tuple(disk for name in names for disk in ACTIONS[name].setup.disks)
        brokers = max(ACTIONS[name].setup.brokers for name in names)
        times = {name: max(1, round(ACTIONS[name].times * arguments.mixed)) for name in names}
        return {"mixed": (times, Setup(disks=disks, brokers=brokers))}
    return {name: ({name: arguments.times or ACTIONS[name].times}, ACTIONS[name].setup) for name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the form of CI")
    parser.add_argument("--only", nargs="+", choices=list(ACTIONS), help="these faults of the full form")
    parser.add_argument("--times", type=int, help="how often each fault happens; default: as in the full form")
    parser.add_argument(
        "--mixed", type=float, metavar="SHARE", help="this share of the full form, in a random order, on one stream"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guarantee", default="exactly_once", choices=["exactly_once", "at_least_once"])
    parser.add_argument("--no-forks", action="store_true", help="recovery times include the loading of the program")
    parser.add_argument("--folder", type=Path, help="where logs and data stay; default: a temporary folder")
    parser.add_argument("--save", action="store_true", help="store the results in benchmarks/results/faults.json")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends processes, unmounts disks
    command = f"python -m benchmarks.faults {shlex.join(sys.argv[1:])}"
    results: dict[str, Result] = {}
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        for name, (times, setup) in _plans(arguments).items():
            setup = replace(setup, seed=arguments.seed, guarantee=arguments.guarantee, forks=not arguments.no_forks)
            commit = commit_here()
            folder = (arguments.folder or Path(temporary)) / name
            folder.mkdir(parents=True)
            try:
                results[name] = run(times, folder, setup, lambda line, name=name: _log(name, line))  # type: ignore[misc]
            except VolcastError as error:
                failed = True
                _log(name, f"FAILED: {error}")
                continue
            _log(name, results[name].summary())
            if arguments.save:
                store(name, results[name], command, commit)
    _show(Console(width=160), results)
    return 1 if failed or any(result.verdict.faults for result in results.values()) else 0


def _log(name: str, line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
