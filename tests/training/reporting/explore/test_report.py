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
from training.reporting.explore.page import page, write
from training.reporting.explore.plots import CAPTIONS
from training.reporting.explore.result import Exploration

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    quotes = write_quotes(tmp_path_factory.mktemp("quotes") / "q.parquet", quotes_table(26_000, seed=5))
    folder = tmp_path_factory.mktemp("report")
    options = ["--product", "BTC-USD", "--out", str(folder), "--json"]
    result = CliRunner().invoke(command, [str(quotes), *options], catch_exceptions=False)
    assert result.exit_code == 0
    (folder / "printed.json").write_text(result.stdout)
    return folder


@pytest.fixture(scope="module")
def exploration(report: Path) -> Exploration:
    return msgspec.json.decode((report / "printed.json").read_bytes(), type=Exploration)


def test_the_command_is_part_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert "explore" in COMMANDS
    assert run_command(["explore", "/absent.parquet"]) == 1
    assert capsys.readouterr().err == "volcast: recording /absent.parquet: no such file\n"


def test_the_printed_figures_are_those_of_the_file(report: Path, exploration: Exploration) -> None:
    assert exploration == msgspec.json.decode((report / "exploration.json").read_bytes(), type=Exploration)
    assert json.loads((report / "printed.json").read_text())["format"] == 2


def test_each_picture_is_a_png_beside_the_page_and_inside_it(report: Path) -> None:
    images = sorted(path.stem for path in report.glob("*.png"))
    assert images == sorted(CAPTIONS)
    assert all((report / f"{name}.png").read_bytes().startswith(PNG) for name in images)
    assert (report / "index.html").read_text().count("data:image/png;base64,") == len(images)


def test_the_page_needs_no_network_and_escapes_names(exploration: Exploration) -> None:
    text = page(msgspec.structs.replace(exploration, products=("<b>BTC</b>",)), {})
    assert not re.search(r"(src|href)=.https?:", text)
    assert "<b>BTC</b>" not in text
    assert "&lt;b&gt;BTC" in text
    assert all(feature.name in text for feature in exploration.features)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, exploration: Exploration) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="taken: cannot be written"):
        write(tmp_path / "taken", exploration, {})
