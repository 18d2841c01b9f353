"""README's commands work. This module runs each command, or lists it with the reason why it is not run."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.processes import free_port
from pipeline.exchange.items import simulated
from pipeline.exchange.simulator import PROFILES, simulate

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

NOT_RUN = {
    "make run": "sets up an environment; `volcast run`, which it calls, is run",
    "make test": "would run this test again",
    "make bench": "takes minutes; benchmarks have tests of their own",
    ".venv/bin/volcast run --exchange coinbase": "needs the internet",
    ".venv/bin/volcast models add FILE.onnx --name mine": "tests/test_own_model_page.py adds files",
    ".venv/bin/volcast train": "needs recorded data; tests/training trains",
    ".venv/bin/volcast explore --out /tmp/explore": "needs recorded data; tests/training explores",
    ".venv/bin/volcast evaluate": "needs recorded data; tests/training evaluates",
}


def commands() -> list[str]:
    """Every command of README's bash blocks, without comments; one may span lines inside quotes."""
    found: list[str] = []
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        pending = ""
        for line in block.splitlines():
            pending = f"{pending}\n{line}" if pending else line
            if pending.count("'") % 2 == 0:
                found.append(re.sub(r"\s+#.*$", "", pending).strip())
                pending = ""
        assert not pending, f"a quote is not closed: {pending}"
    return [one for one in found if one]


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    keys = ["BROKER__PORT", "EXCHANGE__PORT", "SERVER__PORT", "GATEWAY__PORT"]
    keys += [f"{part}__METRICS_PORT" for part in ("SERVER", "WORKER", "INGEST")]
    return {f"VOLCAST_{key}": str(free_port()) for key in keys}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run: the project's files a user has, and a recording."""
    here = tmp_path_factory.mktemp("readme")
    for name in ("config.yaml", "models", "Makefile"):
        (here / name).symlink_to(ROOT / name)
    with gzip.open(here / "recording.ndjson.gz", "wb") as recording:
        for number, item in enumerate(islice(simulated(simulate(PROFILES, 1, 20.0)), 4000)):
            recording.write(item.head + str(number).encode() + item.tail + b"\n")
    return here


@pytest.fixture(scope="module")
def running(folder: Path, ports: dict[str, str]) -> Iterator[None]:
    """A run as README's reader has it in another terminal."""
    command = [str(BIN / "volcast"), "run", "--run-dir", str(folder / "running")]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **ports}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("ready after"):
                break
        else:
            pytest.fail("".join(said))
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def run(command: str, folder: Path, env: dict[str, str]) -> str:
    text = command.replace(".venv/bin/", f"{BIN}/")
    text = text.replace("localhost:50051", f"localhost:{env['VOLCAST_SERVER__PORT']}")
    text = text.replace("localhost:8000", f"localhost:{env['VOLCAST_GATEWAY__PORT']}")
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def of(start: str) -> list[str]:
    return [command for command in commands() if command.startswith(start)]


def test_readme_holds_no_command_that_nobody_runs() -> None:
    volcast = (f".venv/bin/volcast {start}" for start in ("--help", "run --", "features", "models list"))
    known = ("grpcurl ", "curl ", *volcast, "make help")
    left = [one for one in commands() if one not in NOT_RUN and not one.startswith(known)]
    assert left == []


@pytest.mark.process
def test_make_knows_every_verb_that_readme_names() -> None:
    for verb in set(re.findall(r"\bmake ([a-z-]+)", README)) - {"and"}:
        done = subprocess.run(["make", "-n", verb], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [one for one in of(".venv/bin/volcast") + of("make help") if one not in NOT_RUN])
@pytest.mark.process
def test_commands_of_readme_succeed(command: str, folder: Path) -> None:
    ports = {f"VOLCAST_{key}": str(free_port()) for key in (
        "BROKER__PORT", "EXCHANGE__PORT", "SERVER__PORT", "GATEWAY__PORT",
        "SERVER__METRICS_PORT", "WORKER__METRICS_PORT", "INGEST__METRICS_PORT",
    )}  # fmt: skip
    answer = run(command, folder, ports)
    if "--json" in command:
        summary = json.loads(answer.splitlines()[-1])
        assert summary["features"] == summary["ticks"] > 0
        assert summary["predictions"] == summary["features"] - summary["not_warm"] > 0


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("command", of("curl"), ids=lambda text: text.split()[2])
def test_curl_gets_an_answer(command: str, folder: Path, ports: dict[str, str]) -> None:
    answer = run(command, folder, ports)
    if "/predict" in command:
        assert 0 <= json.loads(answer)["probability"] <= 1
    elif "/health" in command:
        assert json.loads(answer)["ready"] is True
    else:
        assert "volcast_gateway_requests_total" in answer


@pytest.mark.usefixtures("running")
@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed")
@pytest.mark.parametrize("command", of("grpcurl"), ids=lambda text: text.split()[-1])
def test_grpcurl_gets_an_answer(command: str, folder: Path, ports: dict[str, str]) -> None:
    answer = run(command, folder, ports)
    if command.endswith("list"):
        assert "volcast.v1.InferenceService" in answer.split()
        assert "grpc.health.v1.Health" in answer.split()
    elif command.endswith("Check"):
        assert json.loads(answer) == {"status": "SERVING"}
    elif command.endswith("Health"):
        assert json.loads(answer)["ready"] is True
    else:
        assert len(json.loads(answer)["probabilities"]) == 1


@pytest.mark.usefixtures("running")
def test_the_client_predicts_as_readme_says(folder: Path, ports: dict[str, str]) -> None:
    assert "`.venv/bin/volcast predict --example`" in README
    server = f"127.0.0.1:{ports['VOLCAST_SERVER__PORT']}"
    answer = run(f".venv/bin/volcast predict --example --json --server {server}", folder, ports)
    assert 0 <= json.loads(answer)["probability"] <= 1


@pytest.mark.parametrize("page", [readme.README, readme.PAGE], ids=lambda page: page.name)
def test_the_tables_of_figures_follow_from_the_saved_run(page: Path) -> None:
    text = page.read_text()
    assert "reached |" in text
    assert readme.with_table(text, json.loads(readme.RESULTS.read_text())) == text


def test_the_output_shown_is_that_of_a_whole_run() -> None:
    block = re.search(r"<!-- run -->(.*?)<!-- /run -->", README, re.DOTALL)
    assert block is not None
    for name in ("ready after", "ticks", "features", "predictions", "gaps", "tick to prediction", "the slowest part"):
        assert name in block[1]
