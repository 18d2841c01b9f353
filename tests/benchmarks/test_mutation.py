"""The mutation test itself, on a small tree: selection of tests, verdicts, continued runs and the report."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import click
import pytest

from benchmarks import mutation
from benchmarks.forked_tests import run_tests
from benchmarks.mutants import Mutant, mutants
from benchmarks.mutation import Kept, Measured, Subject, Tried, Workspace, digest, report, sample, select

MODULE = """
LIMIT = 3

def room(used):
    return LIMIT - used

def untested(used):
    return used + 1

def waits(count):
    while count:
        count -= 1
"""
TESTS = """
from box.room import room, waits

def test_room():
    assert room(1) == 2

def test_waits():
    waits(5)
"""
PATH, TEST = "box/room.py", "tests/server/test_room.py"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tree"
    for name, content in (("box/__init__.py", ""), (PATH, MODULE), (TEST, TESTS), ("pytest.ini", INI)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    monkeypatch.setattr(mutation, "SUBJECTS", ("box/room.py",))
    return root


INI = "[pytest]\nmarkers =\n  slow: -\n  process: -\n"


@pytest.fixture
def space(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(mutation, "MIN_CPU_LIMIT_S", 3.0)
    return Workspace(tmp_path / "space", tree)


@pytest.fixture
def subject(tree: Path) -> Subject:
    (subject,) = mutation.subjects(tree)
    return subject


def mutant(before: str, after: str) -> Mutant:
    return next(each for each in mutants(PATH, MODULE) if (each.before, each.after) == (before, after))


def measured(test: str = TEST, lines: list[int] | None = None, cpu_s: float = 1.0) -> Measured:
    return Measured("", test, cpu_s, {PATH: lines if lines is not None else [5]})


def tried(number: int, verdict: mutation.Verdict = "killed", path: str = PATH) -> Tried:
    return Tried("", path, number, number, "a", "b", verdict, ())


def test_a_measurement_names_the_lines_that_the_tests_run(space: Workspace, subject: Subject) -> None:
    made = space.measure(TEST, [subject])
    assert {5, 11, 12} <= set(made.lines[PATH])
    assert 8 not in made.lines[PATH]
    assert made.cpu_s > 0


def test_a_measurement_of_failing_tests_ends_the_run(space: Workspace, subject: Subject) -> None:
    (space.folder / TEST).write_text("def test_it():\n    assert False\n")
    with pytest.raises(click.ClickException, match=rf"without a fault: {TEST} failed {TEST}::test_it"):
        space.measure(TEST, [subject])


@pytest.mark.parametrize(
    ("before", "after", "verdict", "failed"),
    [
        ("LIMIT - used", "LIMIT + used", "killed", f"{TEST}::test_room"),
        ("return used + 1", "return None", "survived", ""),
        ("count -= 1", "pass", "timed out", ""),
    ],
)
def test_verdicts(
    before: str,
    after: str,
    verdict: str,
    failed: str,
    space: Workspace,
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if verdict == "timed out":  # on a busy machine the others may take longer
        monkeypatch.setattr(mutation, "MIN_CPU_LIMIT_S", 3.0)
    made = space.try_mutant(subject, mutant(before, after), [measured(cpu_s=0.1)])
    assert (made.verdict, made.failed, made.tests) == (verdict, failed, (TEST,))
    assert (space.folder / PATH).read_text() == MODULE


def test_a_mutant_that_no_test_runs_survives(space: Workspace, subject: Subject) -> None:
    assert space.try_mutant(subject, mutant("LIMIT - used", "LIMIT + used"), []).verdict == "survived"


def test_a_test_that_fails_without_the_fault_too_gives_no_verdict(space: Workspace, subject: Subject) -> None:
    (space.folder / TEST).write_text("def test_it():\n    assert False\n")
    assert space.try_mutant(subject, mutant("LIMIT - used", "LIMIT + used"), [measured()]).verdict == "unclear"


def test_tests_that_wait_without_end_are_stopped(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.forked_tests.STALL_S", 2.0)
    (space.folder / TEST).write_text("import time\n\ndef test_it():\n    time.sleep(60)\n")
    assert run_tests(space.folder, [TEST], cpu_limit_s=30).ending == "stalled"


def test_a_fault_that_ends_the_interpreter_is_a_failure(space: Workspace) -> None:
    (space.folder / TEST).write_text("import os\n\ndef test_it():\n    os._exit(0)\n")
    assert run_tests(space.folder, [TEST], cpu_limit_s=30).ending == "failed"


def test_the_test_files_that_run_the_changed_function_are_selected_cheapest_first() -> None:
    subject = Subject(PATH, MODULE)
    cheap, dear = measured("tests/a.py", [5, 11], 1.0), measured("tests/b.py", [5, 12], 9.0)
    other, importing = measured("tests/c.py", [8], 0.5), measured("tests/d.py", [2, 4, 7, 10])
    nearest = measured("tests/server/test_room.py", [5], 20.0)
    every = [importing, other, dear, cheap, nearest]
    assert select(subject, 5, every) == [nearest, cheap, dear]
    assert select(subject, 8, every) == [other]
    assert select(subject, 2, every) == [nearest, other, cheap, dear]
    assert select(Subject(PATH, "LIMIT = 3\n"), 1, [measured("tests/d.py", [1]), measured("tests/e.py", [])]) == [
        measured("tests/d.py", [1])
    ]


def test_of_many_test_files_those_that_run_most_of_the_module_are_selected() -> None:
    few = [measured(f"tests/{at}.py", [5]) for at in range(mutation.MAX_TEST_FILES)]
    most = measured("tests/z.py", [5, 8], 50.0)
    assert most in select(Subject(PATH, MODULE), 5, [*few, most])
    assert len(select(Subject(PATH, MODULE), 5, [*few, most])) == mutation.MAX_TEST_FILES


def test_a_smaller_sample_begins_a_larger_one() -> None:
    every = [Subject(PATH, MODULE)]
    large, population = sample(every, 5, 1)
    assert sample(every, 3, 1)[0] == large[:3]
    assert population == len(mutants(PATH, MODULE))
    assert sample(every, 5, 2)[0] != large
    assert len(sample(every, 10_000, 1)[0]) == population


def test_a_run_continues_and_repeats_only_what_has_changed(
    tree: Path, tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [(subject, mutant("LIMIT - used", "LIMIT + used")), (subject, mutant("return used + 1", "return None"))]

    def go(workers: int = 1, seconds: float = 60) -> list[str]:
        kept = Kept(tmp_path / "kept", tree)
        until = time.monotonic() + seconds
        return [each.verdict for each in mutation.run(chosen, [subject], kept, workers=workers, until=until)]

    def lines() -> int:
        return len((tmp_path / "kept/verdicts.jsonl").read_text().splitlines())

    assert go(seconds=-1) == []
    assert go(workers=2) == ["killed", "survived"]
    assert lines() == 2
    assert go() == ["killed", "survived"]
    assert lines() == 2
    (tree / TEST).write_text(TESTS + "\nfrom box.room import untested\n\ndef test_it():\n    assert untested(1) == 2\n")
    assert go() == ["killed", "killed"]
    assert lines() == 4


def test_a_survivor_is_tried_again_once_another_test_file_runs_it(tree: Path, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", tree)
    subject, each = Subject(PATH, MODULE), mutant("LIMIT - used", "LIMIT + used")

    def add(verdict: mutation.Verdict) -> None:
        content = digest(MODULE, (tree / TEST).read_text())
        kept.add(Tried(content, PATH, each.number, each.line, each.before, each.after, verdict, (TEST,)))

    add("survived")
    assert kept.verdict(subject, each, [measured()]) is not None
    assert kept.verdict(subject, each, [measured(), measured("tests/b.py")]) is None
    add("killed")
    assert kept.verdict(subject, each, [measured(), measured("tests/b.py")]) is not None
    assert kept.verdict(Subject(PATH, MODULE + "\n"), each, [measured()]) is None
    add("unclear")
    assert kept.verdict(subject, each, [measured()]) is None
    add("killed")
    (tree / TEST).unlink()
    assert kept.verdict(subject, each, [measured()]) is None


def test_the_report_counts_equivalent_mutants_as_survivors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "EQUIVALENT", {f"{PATH}:4: a -> b": "no difference"})
    every = [tried(1), tried(2), tried(3, "timed out"), tried(4, "survived"), tried(5, "survived", "box/b.py")]
    made = report(every, command="c", seed=1, population=9, sampled=5, host="h")
    assert (made.tried, made.killed, made.timed_out, made.score) == (5, 3, 1, 0.6)
    assert made.interval_95 == (0.2307, 0.8824)  # Wilson, 3 of 5
    assert made.by_file == {"box/b.py": (0, 1), PATH: (3, 4)}
    assert [(each.mutant, each.reason) for each in made.equivalent] == [(f"{PATH}:4: a -> b", "no difference")]
    assert made.survivors == ("box/b.py:5: a -> b",)


def test_every_subject_and_test_file_exists() -> None:
    root = mutation.ROOT
    assert all(list(root.glob(pattern)) for pattern in (*mutation.SUBJECTS, *mutation.TEST_FILES))
    assert set(mutation.TOO_SLOW) <= {path.relative_to(root).as_posix() for path in root.glob("tests/cli/models/*.py")}
    assert "tests/server/test_row_rules.py" in mutation.candidates()
    assert not set(mutation.TOO_SLOW) & set(mutation.candidates())
