"""`python -m benchmarks.mutation`: how many small faults in the server's core do its fast tests notice?

A seeded sample of faults (benchmarks.mutants) is put, one at a time, into a copy of the tree. The test files that run
the changed function are tried until the first failure: a measurement of each test file's lines selects them.
Measurements and verdicts are kept in reports/mutation/, so a run that was ended continues. A verdict is valid until its
module or the test files that gave the verdict change.

A failure counts only if the failed test passes without the fault: a test that fails on a busy machine kills nothing.
Limits count CPU time (benchmarks.forked_tests).
"""

from __future__ import annotations

import ast
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar

import click
import msgspec
from rich.console import Console
from scipy.stats import binomtest

from benchmarks.equivalent_mutants import EQUIVALENT
from benchmarks.forked_tests import load_libraries, run_tests
from benchmarks.machine import header, machine
from benchmarks.mutants import Mutant, mutants
from benchmarks.stored import RESULTS

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "reports" / "mutation"

# "timed out": the tests used up their CPU time, or waited without end. "unclear": the failed test fails without the
# fault too; the mutant is tried again in the next run.
Verdict = Literal["killed", "survived", "timed out", "unclear"]

SUBJECTS = ("server/core/*.py", "server/http2/*.py", "server/wire/*.py", "server/rpc/convert.py")
# Test files that may kill mutants. `make unit` leaves out those of tests/cli/models, since some of them train models.
TEST_FILES = ("tests/server/**/test_*.py", "tests/cli/models/test_*.py")
UNIT_TESTS = ("-m", "not process and not slow")
TESTS_OF_COMMANDS = ("-m", "not process")
TOO_SLOW = ("tests/cli/models/test_estimator.py",)
TARGET = 0.85
MIN_CPU_LIMIT_S = 15.0
CPU_FACTOR = 4.0  # of the CPU time that the tests use without a fault
MEASURE_LIMIT_S = 120.0
# Every test that loads a model runs most of the core. Test files that run most of a module are about that module.
MAX_TEST_FILES = 6


@dataclass(frozen=True)
class Subject:
    """A file to mutate."""

    path: str
    source: str

    def function_at(self, line: int) -> range | None:
        """The lines of the innermost function's body around a line; None outside of functions."""
        functions = [
            node
            for node in ast.walk(ast.parse(self.source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        bodies = [range(node.body[0].lineno, (node.end_lineno or 0) + 1) for node in functions]
        return min((body for body in bodies if line in body), key=len, default=None)


class Measured(msgspec.Struct, frozen=True):
    """What a test file runs without a fault. digest: of the test file and all subjects."""

    digest: str
    test: str
    cpu_s: float
    lines: dict[str, list[int]]  # by subject


class Tried(msgspec.Struct, frozen=True):
    """The verdict on one mutant. digest: of its module and of `tests`."""

    digest: str
    path: str
    number: int
    line: int
    before: str
    after: str
    verdict: Verdict
    tests: tuple[str, ...]  # the test file that failed, or all that passed
    failed: str = ""  # the test that failed

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}: {self.before} -> {self.after}"


class Equivalent(msgspec.Struct, frozen=True):
    """A survivor that changes no behaviour. It counts as a survivor."""

    mutant: str
    reason: str


class Report(msgspec.Struct, frozen=True):
    """benchmarks/results/mutation.json"""

    date: str
    machine: str
    command: str
    seed: int
    population: int  # mutants of all files
    sample: int
    tried: int
    killed: int  # those that timed out are among them
    timed_out: int
    score: float
    interval_95: tuple[float, float]  # Wilson
    target: float
    by_file: dict[str, tuple[int, int]]  # killed, tried
    equivalent: tuple[Equivalent, ...]
    survivors: tuple[str, ...]  # without those that are equivalent


def subjects(root: Path = ROOT) -> list[Subject]:
    paths = [path for pattern in SUBJECTS for path in sorted(root.glob(pattern))]
    return [Subject(path.relative_to(root).as_posix(), path.read_text()) for path in paths]


def candidates(root: Path = ROOT) -> list[str]:
    """The test files that may kill mutants."""
    paths = [path.relative_to(root).as_posix() for pattern in TEST_FILES for path in sorted(root.glob(pattern))]
    return [path for path in paths if path not in TOO_SLOW]


def select(subject: Subject, line: int, measured: Sequence[Measured]) -> list[Measured]:
    """The test files that run the function around a line, cheapest first; of many, those that run most of the module.

    Outside of functions: the test files that run any function of the module, or that import it if it has none.
    """
    body = subject.function_at(line)
    if body is None:
        body_lines = {at for at in range(1, len(subject.source.splitlines()) + 1) if subject.function_at(at)}
        wanted = body_lines or set(range(len(subject.source.splitlines()) + 1))
    else:
        wanted = set(body)
    running = [each for each in measured if not wanted.isdisjoint(each.lines.get(subject.path, ()))]
    running.sort(key=lambda each: (not _is_nearest(subject, each.test), -len(each.lines[subject.path]), each.cpu_s))
    return sorted(running[:MAX_TEST_FILES], key=lambda each: (not _is_nearest(subject, each.test), each.cpu_s))


def _is_nearest(subject: Subject, test: str) -> bool:
    stem = Path(subject.path).stem
    return Path(test).stem in (f"test_{stem}", f"test_{stem.removesuffix('s')}")


def digest(*contents: str) -> str:
    return hashlib.sha256("\0".join(contents).encode()).hexdigest()[:16]


class Workspace:
    """A copy of the tree in which one mutant at a time is tested."""

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder = folder
        tracked = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                                 capture_output=True, text=True, check=True)  # fmt: skip
        for name in filter(None, tracked.stdout.split("\0")):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / name)

    def measure(self, test: str, all_subjects: Sequence[Subject]) -> Measured:
        """Raises ClickException if the test file fails without a fault."""
        paths = [subject.path for subject in all_subjects]
        outcome = run_tests(self.folder, [*_options(test), test], cpu_limit_s=MEASURE_LIMIT_S, measured=paths)
        if outcome.ending != "passed":
            raise click.ClickException(f"without a fault: {test} {outcome.ending} {outcome.failed}")
        return Measured(_measure_digest(self.folder, test, all_subjects), test, outcome.cpu_s, outcome.lines)

    def try_mutant(self, subject: Subject, mutant: Mutant, selected: Sequence[Measured]) -> Tried:
        file = self.folder / subject.path
        passed: list[str] = []
        verdict: Verdict = "survived"
        failed = ""
        for each in selected:
            limit_s = max(MIN_CPU_LIMIT_S, CPU_FACTOR * each.cpu_s)
            try:
                self._write(file, mutant.source(subject.source))
                outcome = run_tests(self.folder, [*_options(each.test), each.test], cpu_limit_s=limit_s)
            finally:
                self._write(file, subject.source)
            if outcome.ending == "passed":
                passed.append(each.test)
                continue
            passed, failed = [each.test], outcome.failed
            verdict = "killed" if outcome.ending == "failed" else "timed out"
            again = [failed] if failed else [*_options(each.test), each.test]
            if run_tests(self.folder, again, cpu_limit_s=MEASURE_LIMIT_S).ending != "passed":
                verdict = "unclear"
            break
        kept = digest(subject.source, *((self.folder / test).read_text() for test in passed))
        return Tried(
            kept, mutant.path, mutant.number, mutant.line, mutant.before, mutant.after, verdict, tuple(passed), failed
        )

    @staticmethod
    def _write(file: Path, source: str) -> None:
        """Without its bytecode: two versions written within a second may have the same size and time."""
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()
        file.write_text(source)


def _options(test: str) -> tuple[str, ...]:
    return TESTS_OF_COMMANDS if test.startswith("tests/cli/") else UNIT_TESTS


def _measure_digest(root: Path, test: str, all_subjects: Sequence[Subject]) -> str:
    return digest((root / test).read_text(), *(subject.source for subject in all_subjects))


def sample(all_subjects: Sequence[Subject], count: int, seed: int) -> tuple[list[tuple[Subject, Mutant]], int]:
    """A random part of all mutants, in random order, and the number of all. A smaller part begins a larger part."""
    population = [(subject, each) for subject in all_subjects for each in mutants(subject.path, subject.source)]
    random.Random(seed).shuffle(population)
    return population[:count], len(population)


def report(tried: Sequence[Tried], *, command: str, seed: int, population: int, sampled: int, host: str = "") -> Report:
    verdicts = Counter(each.verdict for each in tried)
    killed = len(tried) - verdicts["survived"]
    interval = binomtest(killed, len(tried)).proportion_ci(0.95, "wilson")
    survivors = [each for each in tried if each.verdict == "survived"]
    reasons = [EQUIVALENT.get(each.where) for each in survivors]
    return Report(
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        machine=host or machine(),
        command=command,
        seed=seed,
        population=population,
        sample=sampled,
        tried=len(tried),
        killed=killed,
        timed_out=verdicts["timed out"],
        score=round(killed / len(tried), 4),
        interval_95=(round(float(interval.low), 4), round(float(interval.high), 4)),
        target=TARGET,
        by_file={file: _killed_and_tried(tried, file) for file in sorted({each.path for each in tried})},
        equivalent=tuple(Equivalent(each.where, why) for each, why in zip(survivors, reasons, strict=True) if why),
        survivors=tuple(each.where for each, why in zip(survivors, reasons, strict=True) if not why),
    )


def _killed_and_tried(tried: Sequence[Tried], path: str) -> tuple[int, int]:
    of_file = [each for each in tried if each.path == path]
    return sum(each.verdict != "survived" for each in of_file), len(of_file)


@dataclass
class Kept:
    """Measurements and verdicts of earlier runs, a line each; a new line is appended at once."""

    folder: Path = KEPT
    root: Path = ROOT
    measured: dict[str, Measured] = field(default_factory=dict)  # by test file
    tried: dict[tuple[str, int, str], Tried] = field(default_factory=dict)  # by module, number and mutated text

    def __post_init__(self) -> None:
        for measured in _read(self.folder / "measured.jsonl", Measured):
            self.measured[measured.test] = measured
        for tried in _read(self.folder / "verdicts.jsonl", Tried):
            self.tried[_key(tried)] = tried

    def measure(self, all_subjects: Sequence[Subject], space: Workspace, until: float) -> list[Measured] | None:
        """One for each test file; None if the time does not suffice."""
        for test in candidates(self.root):
            known = self.measured.get(test)
            if known is None or known.digest != _measure_digest(self.root, test, all_subjects):
                if time.monotonic() > until:
                    return None
                self.measured[test] = space.measure(test, all_subjects)
                self._append("measured.jsonl", self.measured[test])
        return [self.measured[test] for test in candidates(self.root)]

    def verdict(self, subject: Subject, mutant: Mutant, selected: Iterable[Measured]) -> Tried | None:
        """The verdict on a mutant if it is still valid."""
        tried = self.tried.get(_key(mutant))
        if tried is None or tried.verdict == "unclear":
            return None
        if tried.verdict == "survived" and set(tried.tests) != {each.test for each in selected}:
            return None
        files = [self.root / test for test in tried.tests]
        valid = all(file.exists() for file in files)
        valid = valid and tried.digest == digest(subject.source, *(file.read_text() for file in files))
        return tried if valid else None

    def add(self, tried: Tried) -> None:
        self.tried[_key(tried)] = tried
        self._append("verdicts.jsonl", tried)

    def _append(self, name: str, kept: msgspec.Struct) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("ab") as out:
            out.write(msgspec.json.encode(kept) + b"\n")


Each = TypeVar("Each", Measured, Tried)


def _key(mutant: Mutant | Tried) -> tuple[str, int, str]:
    return mutant.path, mutant.number, f"{mutant.line}: {mutant.before} -> {mutant.after}"


def _read(file: Path, kind: type[Each]) -> list[Each]:
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [msgspec.json.decode(line, type=kind) for line in lines]


Chosen = Sequence[tuple[Subject, Mutant]]


def run(chosen: Chosen, all_subjects: Sequence[Subject], kept: Kept, *, workers: int, until: float) -> list[Tried]:
    """Tries every mutant that has no valid verdict, until the time is over. Returns the valid verdicts."""
    with TemporaryDirectory(prefix="volcast-mutation-") as folder:
        measured = kept.measure(all_subjects, Workspace(Path(folder) / "0", kept.root), until)
        if measured is None:
            return []
        selected = {mutant: select(subject, mutant.line, measured) for subject, mutant in chosen}
        missing = [(each, mutant) for each, mutant in chosen if kept.verdict(each, mutant, selected[mutant]) is None]
        # Processes, not threads: each forks.
        context = get_context("fork")
        processes = [
            context.Process(target=_work, args=(Path(folder), number, missing[number::workers], selected, kept, until))
            for number in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    kept = Kept(kept.folder, kept.root)
    verdicts = [kept.verdict(subject, mutant, selected[mutant]) for subject, mutant in chosen]
    return [each for each in verdicts if each is not None]


def _work(
    folder: Path, number: int, missing: Chosen, selected: Mapping[Mutant, list[Measured]], kept: Kept, until: float
) -> None:
    space = Workspace(folder / str(number), kept.root)
    for subject, mutant in missing:
        if time.monotonic() > until:
            return
        tried = space.try_mutant(subject, mutant, selected[mutant])
        kept.add(tried)
        print(f"{tried.verdict}: {tried.where}", file=sys.stderr, flush=True)


@click.command()
@click.option("--count", default=400, show_default=True, help="mutants in the sample")
@click.option("--seed", default=11, show_default=True, help="of the sample")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True, help="copies of the tree tested at once")
@click.option("--minutes", default=90.0, show_default=True, help="begin no mutant after that time")
@click.option("--save", is_flag=True, help="write benchmarks/results/mutation.json")
def main(count: int, seed: int, workers: int, minutes: float, save: bool) -> None:
    """Mutants of the server's core that its fast tests notice."""
    until = time.monotonic() + 60 * minutes
    console = Console(stderr=True)
    command = f"python -m benchmarks.mutation --count {count} --seed {seed}"
    header(console, command, "Each mutant is one small fault; killed: a test failed or did not end.")
    load_libraries()
    all_subjects = subjects()
    chosen, population = sample(all_subjects, count, seed)
    tried = run(chosen, all_subjects, Kept(), workers=workers, until=until)
    if not tried:
        raise click.ClickException("no mutant was tried in that time: run it again, it continues")
    result = report(tried, command=command, seed=seed, population=population, sampled=len(chosen))
    for line in result.survivors:
        console.print(line, highlight=False, markup=False)
    low, high = result.interval_95
    console.print(
        f"killed {result.killed} of {result.tried} ({result.score:.1%}, 95 % interval {low:.1%} to {high:.1%}), "
        f"{result.timed_out} of them by time; {len(result.equivalent)} of the survivors are equivalent; "
        f"{len(chosen)} sampled of {population}; target {TARGET:.0%}",
        highlight=False,
    )
    if save:
        content = msgspec.json.format(msgspec.json.encode(result))
        (RESULTS / "mutation.json").write_bytes(content + b"\n")
    sys.exit(0 if result.score >= TARGET and len(tried) == len(chosen) else 1)


if __name__ == "__main__":
    main()
