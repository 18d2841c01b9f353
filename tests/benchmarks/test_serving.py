"""A section that cannot be measured says why, and does not cost the others."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks import serving
from benchmarks.command import bench
from benchmarks.native.peers import NotBuiltError
from benchmarks.targets import Row, at_least, medians
from benchmarks.turns import Run
from common.config import load_config


def good(run: Run) -> Iterator[Row]:
    yield medians("good", "calls/s", [5], "echo", [10], target=at_least(1))


def absent(run: Run) -> Iterator[Row]:
    raise NotBuiltError("echo_cpp is not built")
    yield


def broken(run: Run) -> Iterator[Row]:
    yield medians("before", "calls/s", [1])
    raise ValueError("lost its way")


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> dict[str, serving.Section]:
    chosen = {
        "broken": serving.Section(broken, "h"),
        "absent": serving.Section(absent, "h"),
        "peers": serving.Section(good, "h", ("nobody",)),
        "good": serving.Section(good, "h"),
    }
    monkeypatch.setattr(serving, "SECTIONS", chosen)
    return chosen


def measured(**options: Any) -> tuple[dict[str, Any], str]:
    console = Console(file=io.StringIO(), width=200)
    figures = serving.run(console, serving.Options(**options))
    return figures, console.file.getvalue()  # type: ignore[attr-defined]


def test_sections_measure_the_graph_of_the_peers_except_those_of_the_shipped_models(
    sections: dict[str, serving.Section],
) -> None:
    folders: list[str] = []

    def look(run: Run) -> Iterator[Row]:
        folders.append(load_config(None).server.models_dir)
        yield from good(run)

    for as_shipped in (False, True):
        sections["good"] = serving.Section(look, "h", as_shipped=as_shipped)
        measured(only=["good"])
    assert folders[0] != folders[1] == "models"


@pytest.mark.usefixtures("sections")
def test_rows_measured_before_a_failure_and_after_it_are_kept() -> None:
    figures, printed = measured()
    assert [row["what"] for one in figures.values() for row in one["rows"]] == ["before", "good"]
    assert figures["broken"]["error"] == "failed: lost its way"
    assert figures["absent"]["left_out"] == "left out: echo_cpp is not built"
    for line in ("broken: failed: lost its way", "absent: left out: echo_cpp is not built", "peers: left out"):
        assert line in printed


@pytest.mark.usefixtures("sections")
def test_a_kept_row_says_whether_it_is_reached() -> None:
    figures, _ = measured(only=["good"])
    (row,) = figures["good"]["rows"]
    assert (row["ratio"], row["reached"], row["our_rounds"]) == (0.5, False, (5,))
    assert figures["good"]["command"] == "volcast bench serving --only good"
    assert {"date", "machine", "versions", "load"} <= figures["good"].keys()


@pytest.mark.usefixtures("sections")
def test_peers_that_are_not_installed_are_left_out_and_measured_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def require(*names: str) -> None:
        raise NotBuiltError(f"not installed: {names[0]}")

    monkeypatch.setattr(serving, "require_installed", require)
    assert measured(only=["peers"])[0]["peers"]["left_out"] == "left out: not installed: nobody"
    assert len(measured(peers=True)[0]["peers"]["rows"]) == 1


@pytest.mark.usefixtures("sections")
def test_the_command_fails_where_a_section_did() -> None:
    done = CliRunner().invoke(bench, ["serving", "--json"])
    assert done.exit_code == 1
    assert '"what":"good"' in done.stdout


@pytest.mark.parametrize(
    "arguments", [["serving", "--quick", "--save"], ["features", "--save"], ["features", "--quick"]]
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(bench, arguments)
    assert done.exit_code != 0
    assert "bench: --" in str(done.exception)
