"""CPU per call without a socket: this tree beside a commit, in alternating rounds.

python -m benchmarks.regression [--baseline COMMIT] [--rounds N] [--save] [CASE...]

Each side runs its own `benchmarks.calls`, so the two may differ inside as they like: the contract is the line that
the script prints for each case.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.checkout import BASELINE, Checkout, checkouts
from benchmarks.machine import header
from benchmarks.stored import store
from benchmarks.targets import Row, at_most, paired_row, table

ROUNDS, QUICK_ROUNDS = 9, 3
ROUNDS_OF_A_RUN = 20  # of benchmarks.calls, of which the best counts
LIMIT_S = 300.0
MAX_LOSS = at_most(1.05, interval=True)
LINE = re.compile(r"^(\S+) +([\d.]+) us of CPU a call at best, +([\d.]+) in the middle$", re.MULTILINE)


def parse(printed: str) -> dict[str, float]:
    """Microseconds at best by case, of what benchmarks.calls prints."""
    figures = {case: float(best) for case, best, _ in LINE.findall(printed)}
    if not figures:
        raise RuntimeError(f"benchmarks.calls: expected lines like {LINE.pattern!r}, got {printed[-500:]!r}")
    return figures


def calls(checkout: Checkout, models: Path, cases: list[str]) -> dict[str, float]:
    """One run of a side's own script; no case: all that it knows."""
    command = [str(checkout.python), "-m", "benchmarks.calls", "--models", str(models)]
    command += ["--rounds", str(ROUNDS_OF_A_RUN), *cases]
    done = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{checkout.name}: benchmarks.calls: {done.stderr.strip()[-500:]}")
    return parse(done.stdout)


def rows(here: Checkout, baseline: Checkout, rounds: int, cases: list[str], console: Console) -> Iterator[Row]:
    """A row a case that both sides know."""
    figures: dict[str, list[dict[str, float]]] = {here.name: [], baseline.name: []}
    for number in range(rounds):
        sides = (here, baseline) if number % 2 == 0 else (baseline, here)
        for side in sides:
            with console.status(f"round {number + 1} of {rounds}, {side.name}"):
                figures[side.name].append(calls(side, baseline.folder / "models", cases))
    ours, theirs = figures[here.name], figures[baseline.name]
    for case in theirs[0]:
        if case in ours[0]:
            mine, other = ([run[case] for run in side] for side in (ours, theirs))
            what = f"CPU of a call without a socket, {case}"
            yield paired_row(what, "us", mine, baseline.name, other, target=MAX_LOSS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="of benchmarks.calls; all by default")
    parser.add_argument("--baseline", default=BASELINE, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--save", action="store_true", help="stores the rows in benchmarks/results/calls.json")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    command = f"python -m benchmarks.regression --baseline {given.baseline} --rounds {given.rounds}"
    with checkouts(given.baseline) as (here, baseline):
        measured = list(rows(here, baseline, given.rounds, given.cases, console))
    header(console, command, f"{given.rounds} rounds in turns; at best of {ROUNDS_OF_A_RUN}; ratio and its interval")
    console.print(table(measured))
    if given.save:
        store("calls", command, measured)


if __name__ == "__main__":
    main()
