"""Calls that fail while models are swapped and servers restarted: `python -m benchmarks.rolling`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.native.peers import NotBuiltError
from benchmarks.targets import Row, at_most
from benchmarks.turns import Run

LIMIT_S = 400.0


def swaps(run: Run) -> Iterator[Row]:
    if importlib.util.find_spec("benchmarks.rolling") is None:
        raise NotBuiltError("benchmarks.rolling is not there")
    restarts, swapped = run.scaled(20), run.scaled(100)
    run.say(f"{restarts} rolling restarts, {swapped} swaps")
    command = [
        sys.executable,
        "-m",
        "benchmarks.rolling",
        "--restarts",
        str(restarts),
        "--swaps",
        str(swapped),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if not done.stdout.strip():
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr.strip()[-500:]}")
    figures = json.loads(done.stdout)
    yield from _rows(figures)


def _rows(figures: dict[str, dict[str, float]]) -> Iterator[Row]:
    for what, one in figures.items():
        yield Row(what=what, unit="failed calls", ours=one["failed"], target=at_most(0, "failed calls"))
