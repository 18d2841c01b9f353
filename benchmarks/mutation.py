"""`python -m benchmarks.mutation`: how many small faults in the server's core do its fast tests notice?

A seeded sample of faults (benchmarks.mutants) is put, one at a time, into a copy of the tree, and the tests of the
module run until the first failure. Verdicts are kept in reports/mutation/, so that a run that was ended goes on where
it stopped; a verdict counts as long as neither the module nor the tests have changed.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Literal

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy.stats import binomtest

from benchmarks.machine import header, machine
from benchmarks.mutants import Mutant, mutants
from benchmarks.stored import RESULTS

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "reports" / "mutation"

Verdict = Literal["killed", "survived", "timed out"]

# Files that are mutated, and the tests that may kill their mutants: the module's own tests come first.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "server/core/*.py": ("tests/server/core", "tests/server/test_*.py", "tests/server/wire", "tests/server/oip"),
    "server/http2/*.py": ("tests/server/http2", "tests/server/native"),
    "server/wire/*.py": ("tests/server/wire", "tests/server/native"),
    "server/rpc/convert.py": ("tests/server/rpc", "tests/server/wire", "tests/server/native"),
}
TARGET = 0.85
MIN_TIMEOUT_S = 20.0
TIMEOUT_FACTOR = 4.0  # of the time that the tests take without a fault


@dataclass(frozen=True)
class Subject:
    """A file to mutate and the test files to run, nearest first."""

    path: str
    source: str
    tests: tuple[str, ...]

    @property
    def digest(self) -> str:
        content = [self.source, *((ROOT / test).read_text() for test in self.tests)]
        return hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]


class Tried(msgspec.Struct, frozen=True):
    """The verdict on one mutant. digest: of the subject that it was made from."""

    digest: str
    path: str
    number: int
    line: int
    before: str
    after: str
    verdict: Verdict


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
    survivors: tuple[str, ...]


def subjects(root: Path = ROOT) -> list[Subject]:
    made: list[Subject] = []
    for pattern, places in SUBJECTS.items():
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            tests = tuple(_nearest_first(path.stem, _test_files(root, places)))
            made.append(Subject(name, path.read_text(), tests))
    return made


def _test_files(root: Path, places: Iterable[str]) -> list[str]:
    files = [file for place in places for match in sorted(root.glob(place)) for file in _files_of(match)]
    return list(dict.fromkeys(file.relative_to(root).as_posix() for file in files))


def _files_of(path: Path) -> list[Path]:
    return sorted(path.glob("test_*.py")) if path.is_dir() else [path]


def _nearest_first(stem: str, tests: Iterable[str]) -> list[str]:
    return sorted(tests, key=lambda test: Path(test).stem not in (f"test_{stem}", f"test_{stem.removesuffix('s')}"))


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

    def test(self, tests: Sequence[str], timeout_s: float) -> Verdict:
        """Runs the tests until the first failure."""
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder), str(self.folder / "proto")])}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
        command += ["-m", "not process and not slow", f"--timeout={timeout_s:.0f}", "--no-header", "--tb=no"]
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environ, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return "timed out"
        return "survived" if done.returncode == 0 else "killed"

    def try_mutant(self, subject: Subject, mutant: Mutant, timeout_s: float) -> Tried:
        file = self.folder / subject.path
        try:
            self._write(file, mutant.source(subject.source))
            verdict = self.test(subject.tests, timeout_s)
        finally:
            self._write(file, subject.source)
        return Tried(subject.digest, mutant.path, mutant.number, mutant.line, mutant.before, mutant.after, verdict)

    @staticmethod
    def _write(file: Path, source: str) -> None:
        """Without its bytecode: two versions written within a second may have the same size and time."""
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()
        file.write_text(source)


def sample(all_subjects: Sequence[Subject], count: int, seed: int) -> tuple[list[tuple[Subject, Mutant]], int]:
    """A random part of all mutants, in random order, and how many there are."""
    population = [(subject, each) for subject in all_subjects for each in mutants(subject.path, subject.source)]
    return random.Random(seed).sample(population, min(count, len(population))), len(population)


def report(tried: Sequence[Tried], *, command: str, seed: int, population: int, sampled: int, host: str = "") -> Report:
    verdicts = Counter(each.verdict for each in tried)
    killed = len(tried) - verdicts["survived"]
    interval = binomtest(killed, len(tried)).proportion_ci(0.95, "wilson")
    files = sorted({each.path for each in tried})
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
        by_file={file: _killed_and_tried(tried, file) for file in files},
        survivors=tuple(
            f"{each.path}:{each.line}: {each.before} -> {each.after}" for each in tried if each.verdict == "survived"
        ),
    )


def _killed_and_tried(tried: Sequence[Tried], path: str) -> tuple[int, int]:
    of_file = [each for each in tried if each.path == path]
    return sum(each.verdict != "survived" for each in of_file), len(of_file)


class Verdicts:
    """Verdicts of earlier runs, a line each; a new one is appended at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_bytes().splitlines() if file.exists() else []
        read = [msgspec.json.decode(line, type=Tried) for line in lines]
        self._known = {(each.digest, each.path, each.number): each for each in read}

    def of(self, subject: Subject, mutant: Mutant) -> Tried | None:
        return self._known.get((subject.digest, mutant.path, mutant.number))

    def add(self, tried: Tried) -> None:
        self._known[tried.digest, tried.path, tried.number] = tried
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as out:
            out.write(msgspec.json.encode(tried) + b"\n")


def time_limits(workspace: Workspace, chosen: Sequence[tuple[Subject, Mutant]]) -> dict[tuple[str, ...], float]:
    """Seconds that each set of tests may take. Fails if the tests fail without a fault."""
    limits: dict[tuple[str, ...], float] = {}
    for tests in dict.fromkeys(frozenset(subject.tests) for subject, _ in chosen):
        order = next(subject.tests for subject, _ in chosen if frozenset(subject.tests) == tests)
        began = time.monotonic()
        if workspace.test(order, 600.0) != "survived":
            raise click.ClickException(f"without a fault these tests fail: {' '.join(order)}")
        limit = max(MIN_TIMEOUT_S, TIMEOUT_FACTOR * (time.monotonic() - began))
        limits.update({subject.tests: limit for subject, _ in chosen if frozenset(subject.tests) == tests})
    return limits


def run(
    chosen: Sequence[tuple[Subject, Mutant]], verdicts: Verdicts, *, workers: int, minutes: float, progress: Progress
) -> list[Tried]:
    """Tries every mutant that has no verdict yet, until the time is over."""
    missing = [(subject, mutant) for subject, mutant in chosen if verdicts.of(subject, mutant) is None]
    task = progress.add_task("mutants", total=len(chosen), completed=len(chosen) - len(missing))
    until = time.monotonic() + 60 * minutes
    with TemporaryDirectory(prefix="volcast-mutation-") as folder:
        idle: SimpleQueue[Workspace] = SimpleQueue()
        spaces = [Workspace(Path(folder) / str(number)) for number in range(workers if missing else 0)]
        limits = time_limits(spaces[0], missing) if missing else {}
        for space in spaces:
            idle.put(space)

        def attempt(pair: tuple[Subject, Mutant]) -> Tried | None:
            if time.monotonic() > until:
                return None
            space = idle.get()
            try:
                return space.try_mutant(*pair, limits[pair[0].tests])
            finally:
                idle.put(space)

        with ThreadPoolExecutor(workers) as pool:
            for tried in pool.map(attempt, missing):
                if tried is not None:
                    verdicts.add(tried)
                    progress.advance(task)
    return [tried for pair in chosen if (tried := verdicts.of(*pair)) is not None]


@click.command()
@click.option("--count", default=400, show_default=True, help="mutants in the sample")
@click.option("--seed", default=11, show_default=True, help="of the sample")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True, help="copies of the tree tested at once")
@click.option("--minutes", default=90.0, show_default=True, help="begin no mutant after that time")
@click.option("--save", is_flag=True, help="write benchmarks/results/mutation.json")
def main(count: int, seed: int, workers: int, minutes: float, save: bool) -> None:
    """Mutants of the server's core that its fast tests notice."""
    console = Console(stderr=True)
    command = f"python -m benchmarks.mutation --count {count} --seed {seed}"
    header(console, command, "Each mutant is one small fault; killed: a test failed or did not end.")
    chosen, population = sample(subjects(), count, seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        verdicts = Verdicts(KEPT / "verdicts.jsonl")
        tried = run(chosen, verdicts, workers=workers, minutes=minutes, progress=progress)
    if not tried:
        raise click.ClickException("no mutant was tried in that time")
    result = report(tried, command=command, seed=seed, population=population, sampled=len(chosen))
    for line in result.survivors:
        console.print(line, highlight=False, markup=False)
    low, high = result.interval_95
    console.print(
        f"killed {result.killed} of {result.tried} ({result.score:.1%}, 95 % interval {low:.1%} to {high:.1%}), "
        f"{result.timed_out} of them by time; {len(chosen)} sampled of {population}; target {TARGET:.0%}",
        highlight=False,
    )
    if save:
        content = msgspec.json.format(msgspec.json.encode(result))
        (RESULTS / "mutation.json").write_bytes(content + b"\n")
    sys.exit(0 if result.score >= TARGET and len(tried) == len(chosen) else 1)


if __name__ == "__main__":
    main()
