"""The search for an interpreter of one version: on PATH, among pyenv's, out of a Go module, or an error in one line."""

from __future__ import annotations

import gzip
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "interpreter.py"
SUM = "h1:oGUS7++Wm3LgxUfD6AmJgKbKQD2wdQFO9PzyJv6T+E4="
DIRECTORY = 1 << 31


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's names; it sees only folders below tmp_path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return runpy.run_path(str(SCRIPT))


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def python(path: Path, version: str) -> Path:
    return program(path, f"echo {version}")


def test_a_program_counts_by_its_answer(script: dict[str, Any], tmp_path: Path) -> None:
    is_version = script["is_version"]
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert is_version(sys.executable, this)
    assert not is_version(sys.executable, "3.1")
    assert not is_version(program(tmp_path / "shim", f"echo {this}; exit 127"), this)
    assert not is_version(tmp_path / "absent", this)
    (tmp_path / "text").write_text("no program")
    assert not is_version(tmp_path / "text", this)


def test_path_comes_before_pyenv_and_a_broken_shim_is_passed_over(script: dict[str, Any], tmp_path: Path) -> None:
    find = script["find"]
    older = python(tmp_path / "pyenv/versions/3.99.1/bin/python", "3.99")
    newer = python(tmp_path / "pyenv/versions/3.99.2/bin/python", "3.99")
    assert find("3.99") == newer
    newer.unlink()
    assert find("3.99") == older
    shim = program(tmp_path / "bin/python3.99", "exit 127")
    assert find("3.99") == older
    python(shim, "3.99")
    assert find("3.99") == shim
    assert find("3.98") is None


def files(source: Path, listed: list[dict[str, Any]]) -> None:
    source.mkdir(parents=True, exist_ok=True)
    (source / "files.json").write_text(json.dumps({"files": listed}))


def test_a_standalone_build_is_unpacked_as_its_list_says(script: dict[str, Any], tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    files(source, [
        {"name": "lib", "perm": DIRECTORY | 0o755},
        {"name": "bin/tool", "perm": 0o755, "compressed": True},
        {"name": "lib/data.txt", "perm": 0o644},
        {"name": "bin/alias", "perm": 0o777, "symlink": "tool"},
    ])  # fmt: skip
    (source / "bin").mkdir()
    (source / "lib").mkdir()
    (source / "bin/tool.gz").write_bytes(gzip.compress(b"#!/bin/sh\n"))
    (source / "lib/data.txt").write_bytes(b"data")
    program(target / "old", "left from an unpacking that was ended")
    script["unpack"](source, target)
    assert not (target / "old").exists()
    assert (target / "lib").is_dir()
    assert (target / "lib/data.txt").read_bytes() == b"data"
    assert (target / "bin/alias").resolve() == (target / "bin/tool").resolve()
    assert (target / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert [(target / name).stat().st_mode & 0o777 for name in ("bin/tool", "lib/data.txt")] == [0o755, 0o644]


@pytest.fixture
def module(script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A `go` that answers with a module of a build of 3.14."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")

    def make(total: str = SUM, code: int = 0) -> None:
        source = tmp_path / "module/python/internal/data/linux-amd64"
        files(source, [{"name": "bin/python3.14", "perm": 0o755}])
        python(source / "bin/python3.14", "3.14")
        answer = json.dumps({"Sum": total, "Dir": str(tmp_path / "module")})
        program(tmp_path / "bin/go", f"echo call >> {tmp_path}/calls\necho '{answer}'\nexit {code}")

    return make


def test_the_build_of_a_go_module_is_kept(script: dict[str, Any], module: Callable[..., None], tmp_path: Path) -> None:
    module()
    fetched = script["from_go_module"]("3.14")
    assert fetched is not None
    assert fetched.is_relative_to(tmp_path / "cache")
    assert script["is_version"](fetched, "3.14")
    assert script["from_go_module"]("3.14") == fetched
    assert (tmp_path / "calls").read_text() == "call\n"


def test_a_module_with_another_sum_is_refused(script: dict[str, Any], module: Callable[..., None]) -> None:
    module("h1:other")
    with pytest.raises(SystemExit, match=r"the sum is h1:other, expected h1:oGUS7"):
        script["from_go_module"]("3.14")


def test_a_machine_that_can_have_no_build_gets_none(
    script: dict[str, Any], module: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(code=1)
    assert script["from_go_module"]("3.14") is None  # no network
    module()
    assert script["from_go_module"]("3.13") is None
    with monkeypatch.context() as changed:
        changed.setattr("platform.machine", lambda: "riscv64")
        assert script["from_go_module"]("3.14") is None
    with monkeypatch.context() as changed:
        changed.setattr(sys, "platform", "darwin")
        assert script["from_go_module"]("3.14") is None
    (tmp_path / "bin/go").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert script["from_go_module"]("3.14") is None


def test_the_command_prints_a_path_or_one_line(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = python(tmp_path / "bin/python3.99", "3.99")
    monkeypatch.setattr(sys, "argv", ["interpreter.py", "3.99"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out == f"{found}\n"
    monkeypatch.setattr(sys, "argv", ["interpreter.py", "3.98"])
    with pytest.raises(SystemExit, match=r"this machine has no Python 3\.98, and none could be fetched"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
