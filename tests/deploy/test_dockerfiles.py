from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import PurePosixPath

import pytest

from cli.main import COMMANDS
from tests.deploy.files import DEPLOY, PARTS, ROOT, dockerfile, environment

# What the import contracts of pyproject.toml let a part import, and the extra that it installs.
CONTRACT_AND_SHARED = {"proto", "common", "cli"}
FOLDERS = {
    "ingestor": {"clients", "pipeline"},
    "worker": {"clients", "pipeline"},
    "server": {"server"},
    "gateway": {"server"},
}
EXTRAS = {"ingestor": "ingest", "worker": "pipeline", "server": "serving", "gateway": "serving"}
PORTS = {"ingestor": "9103", "worker": "9102", "server": "50051 9101", "gateway": "8000"}
ENTRYPOINTS = {"ingestor": "ingest", "worker": "worker", "server": "serve", "gateway": "gateway"}


def copied(part: str) -> set[str]:
    """The first component of everything that a Dockerfile copies from the build context."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(part), re.MULTILINE)
    return {PurePosixPath(source).parts[0] for line in lines for source in line.split()}


@pytest.mark.parametrize("part", PARTS)
def test_an_image_holds_only_the_folders_its_part_may_import(part: str) -> None:
    folders = {name for name in copied(part) if (ROOT / name).is_dir()}
    beside = {"deploy"} | ({"models"} if part == "server" else set())
    assert folders == CONTRACT_AND_SHARED | FOLDERS[part] | beside


@pytest.mark.parametrize("part", PARTS)
def test_what_is_copied_is_in_the_build_context(part: str) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied(part) <= {PurePosixPath(path).parts[0] for path in let_in}
    assert all((ROOT / path).exists() for path in let_in)


def test_the_build_context_is_closed_by_default() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"


@pytest.mark.parametrize("part", PARTS)
def test_only_the_extra_it_needs_is_installed_by_hash(part: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert re.findall(r"--extra (\S+)", dockerfile(part)) == [EXTRAS[part]]
    assert EXTRAS[part] in extras
    assert len(re.findall("--require-hashes", dockerfile(part))) == 2  # the bootstrap and the project


@pytest.mark.parametrize("part", PARTS)
def test_a_container_runs_its_command_as_process_one_and_not_as_root(part: str) -> None:
    text = dockerfile(part)
    assert ENTRYPOINTS[part] in COMMANDS
    assert text.rstrip().endswith(f'ENTRYPOINT ["volcast", "{ENTRYPOINTS[part]}"]')
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^EXPOSE (.+)$", text, re.MULTILINE) == [PORTS[part]]
    assert f'CMD ["python", "/opt/volcast/healthcheck.py", "{part}"]' in text
    assert "STOPSIGNAL SIGTERM" in text
    assert environment(part)["VOLCAST_LOG__FORMAT"] == "json"


def test_the_four_differ_only_where_the_parts_do() -> None:
    copies = r"^#|^COPY (clients|pipeline|server|models) |--extra|install --directory"
    own_lines = rf'{copies}|VOLCAST_|EXPOSE|healthcheck.py"|ENTRYPOINT'

    def common(part: str) -> list[str]:
        lines = [line for line in dockerfile(part).splitlines() if not re.search(own_lines, line)]
        return [line.removesuffix(" \\") for line in lines]

    assert common("ingestor") == common("worker") == common("server") == common("gateway")


@pytest.mark.parametrize("part", PARTS)
def test_no_package_registry_is_named(part: str) -> None:
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", dockerfile(part))


@pytest.mark.parametrize(
    ("modules", "banned"),
    [
        ("pipeline.commands.ingest, pipeline.commands.exchange", "numba pyarrow onnxruntime fastapi"),
        ("pipeline.commands.worker", "onnxruntime fastapi sklearn"),
        ("server.commands.serve, server.commands.gateway", "numba pyarrow confluent_kafka sklearn"),
    ],
)
@pytest.mark.process
def test_a_command_imports_nothing_that_its_image_lacks(modules: str, banned: str) -> None:
    script = f"import sys, {modules}; print(*sorted(set({banned.split()!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr


def test_every_dockerfile_belongs_to_a_part() -> None:
    assert {path.name for path in (DEPLOY / "docker").glob("*Dockerfile*")} == {f"{part}.Dockerfile" for part in PARTS}
