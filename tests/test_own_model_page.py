"""docs/own_model.md does what it shows: every block is run, in order, as a reader would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.server.processes import running

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "own_model.md").read_text()
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"(<!-- serve -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


class Step(NamedTuple):
    kind: str  # "python" is saved under the name of its first line, "bash" runs, "serve" starts processes
    text: str


def steps() -> list[Step]:
    return [Step("serve" if marker else kind, text) for marker, kind, text in BLOCK.findall(PAGE)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "models", tmp_path / "models")
    shutil.copy(ROOT / "config.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def run(command: str, folder: Path, server: str, gateway: str) -> str:
    text = command.replace(".venv/bin/", f"{BIN}/").replace("localhost:8000", gateway)
    env = {**os.environ, "SERVER": server, "VOLCAST_GATEWAY__SERVER": server}
    done = subprocess.run(["bash", "-c", text], cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_step_of_the_page_works(folder: Path, processes: ExitStack) -> None:
    server, gateway = "", ""
    printed: dict[str, str] = {}
    for kind, text in steps():
        if kind == "python":
            name = text.split("\n", 1)[0].removeprefix("# ")
            assert name.endswith(".py"), f"the first line names no file: {name}"
            (folder / name).write_text(text)
        elif kind == "serve":
            assert text.split() == [".venv/bin/volcast", "serve", ".venv/bin/volcast", "gateway"]
            options = ("--port", "0", "--metrics-port", "0")
            server = processes.enter_context(running("serve", *options, cwd=folder)).address
            gateway = processes.enter_context(running("gateway", "--port", "0", "--server", server)).address
        else:
            for command in text.strip().split("\n"):
                printed[command] = run(command, folder, server, gateway)

    probability = {command: _probability(output) for command, output in printed.items() if _asks(command)}
    assert len(probability) == 4
    assert len({round(value, 4) for value in probability.values()}) == 1, probability
    assert "models/forest/1 converted by skl2onnx" in printed[".venv/bin/python forest.py"]
    assert (folder / "models" / "network" / "2" / "model.onnx").is_file()


def _asks(command: str) -> bool:
    return "--features '{" in command or command.startswith("curl ")


def _probability(output: str) -> float:
    """Of `volcast predict`, of /predict or of /v2."""
    if not output.startswith("{"):
        match = re.search(r"probability (\S+),", output)
        assert match is not None, output
        return float(match[1])
    answer = json.loads(output)
    return float(answer["probability"] if "probability" in answer else answer["outputs"][0]["data"][0])
