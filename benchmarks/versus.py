"""Predict at 32 in flight beside the same model in the Python model servers people pick today."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from benchmarks.h2load import h2load
from benchmarks.native.peers import NotBuiltError
from benchmarks.peers import PEERS, calls_per_s, peer
from benchmarks.peers.environments import cache
from benchmarks.processes import server
from benchmarks.targets import Row, Target, at_least, medians
from benchmarks.turns import Run
from benchmarks.unary import IN_FLIGHT

NAMES = ("mlserver", "kserve", "pytriton", "ray_serve", "ray_serve_proxy", "bentoml", "fastapi")
# The issue asks 20 times of model servers; FastAPI, a web framework, is shown beside them.
TARGET: dict[str, Target | None] = dict.fromkeys(NAMES, at_least(20)) | {"fastapi": None}


def require_installed(*names: str) -> None:
    """Raises NotBuiltError where a peer has no environment, or one for other requirements."""
    absent = [name for name in names if not _installed(name)]
    if absent:
        raise NotBuiltError(f"not installed: {', '.join(absent)}; --with-peers installs them, once")


def _installed(name: str) -> bool:
    folder = PEERS[name].path
    made = cache() / folder.name / "requirements.sha256"
    wanted = hashlib.sha256((folder / "requirements.txt").read_bytes()).hexdigest()
    return made.exists() and made.read_text() == wanted


def versus(run: Run) -> Iterator[Row]:
    """One peer at a time, each in turns with our server: all at once would not fit in memory.

    A peer that fails does not keep the others from being measured; it is named at the end.
    """
    failed: list[str] = []
    with server("--front", "native") as ours:
        for name in NAMES:
            try:
                row = _beside(run, name, ours.address)
            except Exception as error:
                failed.append(f"{name}: {error}")
            else:
                yield row
    if failed:
        raise RuntimeError("; ".join(failed))


def _beside(run: Run, name: str, ours: str) -> Row:
    spec, seconds, calls = PEERS[name], run.seconds(2, 1), run.scaled(60_000)
    run.say(f"{spec.title}, starting")
    with peer(name, run.progress.console) as theirs:
        calls_per_s(theirs, IN_FLIGHT, 1)
        measures = {
            "ours": lambda: h2load(ours, IN_FLIGHT, calls),
            "theirs": lambda: calls_per_s(theirs, IN_FLIGHT, seconds),
        }
        rates = run.in_turns(spec.title, measures)
        theirs.check()
    what, beside = f"Predict, 1 row, {IN_FLIGHT} in flight, same model", f"{spec.title}, {spec.version}"
    return medians(what, "calls/s", rates["ours"], beside, rates["theirs"], target=TARGET[name])
