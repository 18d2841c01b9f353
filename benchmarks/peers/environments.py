"""A cached environment for each peer: made once, remade when its requirements change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

# The version the requirement files are pinned for.
PYTHON = (3, 11)


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "volcast", "bench", "peers")


def python_of(folder: Path, console: Console) -> Path:
    """The Python of the environment for `folder`'s requirements.txt, installed first if need be."""
    requirements = folder / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    environment = cache() / folder.name
    made = environment / "requirements.sha256"
    python = environment / "bin" / "python"
    if python.exists() and made.exists() and made.read_text() == wanted:
        return python
    console.print(f"installing {folder.name} in {environment}, once ...", highlight=False)
    shutil.rmtree(environment, ignore_errors=True)
    interpreter = sys.executable if sys.version_info[:2] == PYTHON else "{}.{}".format(*PYTHON)
    _run(_uv(), "venv", "--quiet", "--python", interpreter, str(environment))
    _run(_uv(), "pip", "install", "--python", str(python), "-r", str(requirements))
    made.write_text(wanted)
    return python


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise RuntimeError("uv is not installed beside this Python or on PATH: make setup")
    return found


def _run(*command: str) -> None:
    # uv reports its progress on stderr; stdout stays clean for --json.
    subprocess.run(command, check=True, stdout=sys.stderr)
