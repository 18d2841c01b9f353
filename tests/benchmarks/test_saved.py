"""The tables show the saved figures, misses included, and a partial run replaces only its own sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import readme
from benchmarks.readme import RESULTS, merged, with_table
from benchmarks.targets import at_least, medians

KEPT = msgspec.json.decode(RESULTS.read_bytes())
EMPTY = "before\n<!-- bench -->\n<!-- /bench -->\nafter"
EMPTY_SHORT = "before\n<!-- bench-short -->\n<!-- /bench-short -->\nafter"


def section(what: str, ours: float, **more: Any) -> dict[str, Any]:
    row = medians(what, "calls/s", [ours], "echo", [100], target=at_least(1.1))
    kept = msgspec.to_builtins(row) | {"ratio": row.ratio, "reached": row.reached}
    return {"date": "today", "machine": "M", "command": "C", "rows": [kept], **more}


def saved(**sections: dict[str, Any]) -> dict[str, Any]:
    return merged({**KEPT, "serving": {}}, {"serving": sections}, "here", "now")


def test_missed_and_reached_targets_are_both_shown() -> None:
    table = with_table(EMPTY, saved(one=section("fast", 120), two=section("slow", 90)))
    assert "| fast | 120 calls/s | echo: 100 | 1.20 | ≥ 1.1 × | yes |" in table
    assert "| slow | 90 calls/s | echo: 100 | 0.90 | ≥ 1.1 × | **no** |" in table
    assert "M; today; `C`." in table
    assert table.startswith("before\n")
    assert table.endswith("\nafter")


def test_what_was_left_out_or_failed_is_said() -> None:
    table = with_table(
        EMPTY, saved(one=section("fast", 120, left_out="left out: x"), two=section("b", 1, error="failed: y"))
    )
    assert "One: left out: x." in table
    assert "Two: failed: y." in table


def test_a_run_of_one_section_leaves_the_others_and_when_they_were_measured() -> None:
    before = saved(one=section("fast", 120), two=section("slow", 90))
    after = merged(before, {"serving": {"two": section("slow", 130, date="tomorrow")}}, "there", "then")
    assert after["serving"]["one"] == before["serving"]["one"]
    assert after["serving"]["two"]["date"] == "tomorrow"
    assert (after["date"], after["machine"], after["features"]) == (KEPT["date"], KEPT["machine"], KEPT["features"])


def test_a_run_of_all_says_its_own_date() -> None:
    after = merged(KEPT, {"serving": {}, "features": KEPT["features"]}, "there", "then")
    assert (after["date"], after["machine"]) == ("then", "there")


def test_a_table_from_before_there_were_targets_is_replaced_as_a_whole() -> None:
    old = {**KEPT, "serving": {"Predict": {"server": 1, "echo": 2, "ratio": 0.5}}}
    assert list(merged(old, {"serving": {"one": section("fast", 120)}}, "", "")["serving"]) == ["one"]


def test_saving_writes_figures_from_which_the_table_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    monkeypatch.setattr(readme, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(readme, "RESULTS", tmp_path / "results" / "latest.json")
    readme.README.write_text(EMPTY_SHORT)
    readme.PAGE.write_text(EMPTY)
    whole = {key: KEPT[key] for key in ("features", "worker")} | {"serving": {"one": section("fast", 120)}}
    readme.save(whole, "here", "now")
    readme.save({"serving": {"two": section("slow", 90)}}, "there", "then")
    run = msgspec.json.decode(readme.RESULTS.read_bytes())
    assert list(run["serving"]) == ["one", "two"]
    assert (run["date"], run["machine"]) == ("now", "here")
    assert readme.README.read_text() == with_table(EMPTY_SHORT, run)
    assert readme.PAGE.read_text() == with_table(EMPTY, run)
    assert "| slow |" in readme.README.read_text()
    assert "| slow |" in readme.PAGE.read_text()


def test_the_short_table_has_the_first_row_of_a_section_and_every_missed_target() -> None:
    rows = [
        row for what, ours in (("first", 120), ("second", 130), ("third", 90)) for row in section(what, ours)["rows"]
    ]
    table = with_table(EMPTY_SHORT, saved(one={**section("", 0), "rows": rows}))
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")] == [
        "| what",
        "| first",
        "| third",
    ]
    assert "**no**" in table
