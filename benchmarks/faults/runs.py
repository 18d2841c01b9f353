"""Runs of faults, their comparison with the oracle, and the stored results."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.actions import ACTIONS
from benchmarks.faults.course import Course, Setup
from benchmarks.faults.judge import Verdict, archive_oracle, ask_server, judge, read_results, topic_oracle
from benchmarks.machine import machine

RESULT = Path(__file__).resolve().parent.parent / "results" / "faults.json"
# The form of CI: times of each fault, in an order that the seed decides.
SHORT = {"worker": 2, "worker-without-server": 1, "server": 1, "ingest": 1, "broker": 1}


@dataclass(frozen=True)
class Result:
    """A run of one kind of fault, or of several kinds in a mixed order."""

    times: Mapping[str, int]
    oracle: str  # whose verdict counts
    verdict: Verdict
    recovery_s: list[float]  # of each fault, if results were read before the next fault
    remarks: Mapping[str, int]
    seconds: float

    def summary(self) -> str:
        figures = self.as_json()
        names = ("rows", "predictions", "lost", "repeated", "altered", "recovery_s_p50", "recovery_s_max", "remarks")
        return ", ".join(f"{name} {figures[name]}" for name in names) + "".join(
            f"; {each}" for each in self.verdict.examples
        )

    def as_json(self) -> dict[str, Any]:
        verdict = self.verdict
        return {
            "times": dict(self.times),
            "oracle": self.oracle,
            "rows": verdict.rows,
            "predictions": verdict.predictions,
            "lost": verdict.lost,
            "repeated": verdict.repeated,
            "altered": verdict.altered,
            "recovery_s_p50": round(statistics.median(self.recovery_s), 1) if self.recovery_s else None,
            "recovery_s_max": round(max(self.recovery_s), 1) if self.recovery_s else None,
            "remarks": dict(self.remarks),
            "verdict": asdict(verdict),
            "seconds": round(self.seconds),
        }


def run(times: Mapping[str, int], folder: Path, setup: Setup, log: Callable[[str], None] = lambda line: None) -> Result:
    """Does the faults of ACTIONS in a random order, and compares. Names of `times`: of ACTIONS."""
    began_s = time.monotonic()
    with ExitStack() as cleanup:
        course = Course(folder, cleanup, setup, log)
        course.await_predictions()
        log("ready")
        _do(times, course)
        course.pause(1.0, 1.0)
        course.fill_gaps()
        course.await_settled()
        result = _judged(times, course)
    return replace(result, seconds=time.monotonic() - began_s)


def _do(times: Mapping[str, int], course: Course) -> None:
    order = [name for name, count in times.items() for _ in range(count)]
    course.random.shuffle(order)
    for number, name in enumerate(order, 1):
        course.pause(0.2, 1.5)
        began_s = time.monotonic()
        ACTIONS[name].run(course)
        course.log(f"{number}/{len(order)} {name}: {time.monotonic() - began_s:.1f} s")


def _judged(times: Mapping[str, int], course: Course) -> Result:
    by_tick, by_source = read_results(course.kafka)
    ask = partial(ask_server, course.server_address)
    of_topic = judge(topic_oracle(course.reader.raw, course.holes), by_source, ask)
    oracle, verdict = "ticks.raw", of_topic
    if all(ACTIONS[name].oracle == "archive" for name in times):
        oracle, verdict = "archive", judge(archive_oracle(course.archive), by_tick, ask)
        if of_topic.faults:
            verdict.examples += [f"of ticks.raw: {example}" for example in of_topic.examples]
    return Result(times, oracle, verdict, _recoveries(times, course), course.remarks, 0.0)


def _recoveries(times: Mapping[str, int], course: Course) -> list[float]:
    """The peak age of results after each fault, until the next fault."""
    features = any(ACTIONS[name].measure == "features" for name in times)
    topic = course.kafka.topics.features if features else course.kafka.topics.predictions
    starts = [began_s for _, began_s in course.noted]
    ends = [*starts[1:], time.time()]
    peaks = [course.reader.peak_age_s(topic, start, end) for start, end in zip(starts, ends, strict=True)]
    return [peak for peak in peaks if peak > 0]


def store(name: str, result: Result, command: str, commit: str, path: Path = RESULT) -> None:
    """Puts a result in the place of an older one of that name. commit: at the start of the run."""
    content = json.loads(path.read_text()) if path.exists() else {}
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "commit": commit,
        "command": command,
    }
    content[name] = about | result.as_json()
    path.write_text(json.dumps(dict(sorted(content.items())), indent=1) + "\n")


def commit_here() -> str:
    """The commit of this folder, and whether the program has changes beside it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "pipeline", "common", "server") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
