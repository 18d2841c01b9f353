from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, run_command
from common.errors import InputError
from tests.training.problem.data.files import quotes_table, write_quotes
from training.commands.explore import explore as command
from training.problem.data import load
from training.reporting.explore import Exploration, explore, plots
from training.reporting.explore.plots import pictures
from training.reporting.explore.write import write

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def quotes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quotes(tmp_path_factory.mktemp("quotes") / "q.parquet", quotes_table(8000, seed=5))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, quotes: Path) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result = CliRunner().invoke(command, [str(quotes), "--out", str(folder), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    (folder / "printed.json").write_text(result.output)
    return folder


def test_the_command_is_one_of_the_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "explore" in COMMANDS
    assert run_command(["explore", "/absent.parquet"]) == 1
    assert capsys.readouterr().err == "volcast: /absent.parquet: no such file\n"


def test_what_is_printed_is_what_is_written(report: Path) -> None:
    printed = msgspec.json.decode((report / "printed.json").read_bytes(), type=Exploration)
    assert printed == msgspec.json.decode((report / "exploration.json").read_bytes(), type=Exploration)
    assert json.loads((report / "printed.json").read_text())["format"] == 1


def test_each_picture_is_a_png_beside_the_page_and_inside_it(report: Path) -> None:
    images = sorted(path.name for path in report.glob("*.png"))
    assert images == [
        "autocorrelation.png", "correlation.png", "days.png", "deciles.png", "distributions.png", "diurnal.png",
        "percentiles.png", "threshold_cost.png",
    ]  # fmt: skip
    assert all((report / name).read_bytes().startswith(PNG) for name in images)
    assert (report / "index.html").read_text().count("data:image/png;base64,") == len(images)


def test_the_page_asks_nothing_of_any_host(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert not re.search(r"(?:src|href)=(?!\"data:)|url\(", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_nothing_unfinished_is_left(report: Path) -> None:
    assert [path.name for path in report.iterdir() if path.name.startswith(".")] == []


def test_the_same_data_gives_the_same_pictures_byte_for_byte(report: Path, quotes: Path) -> None:
    again = pictures(explore(load([quotes])), only=["percentiles", "diurnal"])
    assert sorted(again) == ["diurnal.png", "percentiles.png"]
    for name, png in again.items():
        assert png == (report / name).read_bytes()


def test_a_summary_is_printed_for_people(tmp_path: Path, quotes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "pictures", lambda exploration: {})
    options = [str(quotes), "--out", str(tmp_path / "r"), "--quantile", "0.95", "--final-share", "0"]
    result = CliRunner().invoke(command, options, catch_exceptions=False)
    assert "quotes of BTC-USD: 8,000 read from 1 files" in result.output
    assert "threshold at the 0.95 quantile" in result.output
    assert "0 left out for judging" in result.output


def test_a_market_that_stands_still_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = quotes_table()
    table["bid"][:], table["ask"][:] = 100.0, 100.0
    still = write_quotes(tmp_path / "still.parquet", table)
    assert run_command(["explore", str(still), "--out", str(tmp_path / "r")]) == 1
    assert "the mid never moved in the 60 s after any of 768 rows (100 in 1,500 ticks)" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_disk_that_is_full_leaves_only_what_was_there(
    tmp_path: Path, quotes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "pictures", lambda exploration: {})
    monkeypatch.setattr(Path, "write_bytes", full)
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "a" / "b", tmp_path / "there"):
        assert run_command(["explore", str(quotes), "--out", str(out)]) == 1
        assert f"{out}: cannot be written: No space left on device\n" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, report: Path) -> None:
    exploration = msgspec.json.decode((report / "exploration.json").read_bytes(), type=Exploration)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/r: cannot be written: Not a directory"):
        write(tmp_path / "file" / "r", exploration, {})
