"""Calls that fail while models are swapped and servers restarted: `python -m benchmarks.rolling`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

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
    yield _row(f"{swapped} model swaps under load", figures["swaps"])
    yield _row(f"{restarts} rolling restarts behind two replicas, client retries", figures["restarts"])


def _row(what: str, figures: dict[str, Any]) -> Row:
    answered = figures["calls"] + figures["frames"]
    if not answered:
        raise RuntimeError(f"{what}: nothing was answered, so nothing is proved")
    note = "; ".join((f"{answered:,} calls and frames answered in {figures['seconds']:g} s", *figures["failures"]))
    return Row(what=what, unit="failed calls", ours=figures["failed"], target=at_most(0, "failed calls"), note=note)
