"""Prints the path of a Python of one version, for tests on it: `interpreter.py 3.14`.

Looks on PATH, among pyenv's versions and, for the newest version, in a Go module that carries a standalone build.
Where this machine can have none it says so in one line and exits with 1.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "volcast"
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"

# Version -> the Go module that carries it, and the module's hash as go.sum would record it.
MODULE = "github.com/kluctl/go-embed-python"
BUILDS = {"3.14": ("v0.0.0-3.14.6-20260610-1", "h1:oGUS7++Wm3LgxUfD6AmJgKbKQD2wdQFO9PzyJv6T+E4=")}
GO_DIRECTORY = 1 << 31  # in the mode bits of Go's io/fs
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def is_version(python: str | Path, version: str) -> bool:
    """True if the program runs (a shim may not) and is of that version."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


def unpack(source: Path, target: Path) -> None:
    """Writes the files of a standalone build as its files.json lists them."""
    shutil.rmtree(target, ignore_errors=True)
    for file in json.loads((source / "files.json").read_text())["files"]:
        path = target / file["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if "symlink" in file:
            path.symlink_to(file["symlink"])
        elif file["perm"] & GO_DIRECTORY:
            path.mkdir(exist_ok=True)
        else:
            packed = file.get("compressed", False)
            content = (source / f"{file['name']}{'.gz' if packed else ''}").read_bytes()
            path.write_bytes(gzip.decompress(content) if packed else content)
            path.chmod(file["perm"] & 0o777)


def from_go_module(version: str) -> Path | None:
    """The interpreter out of the Go module, from a cache by version; None where this machine cannot have it."""
    machine = MACHINES.get(platform.machine())
    if version not in BUILDS or sys.platform != "linux" or machine is None or shutil.which("go") is None:
        return None
    release, expected_sum = BUILDS[version]
    target = CACHE / f"python-{release}"
    python = target / "bin" / f"python{version}"
    if is_version(python, version):
        return python
    command = ["go", "mod", "download", "-json", f"{MODULE}@{release}"]
    CACHE.mkdir(parents=True, exist_ok=True)
    download = subprocess.run(command, capture_output=True, text=True, cwd=CACHE, check=False)
    if download.returncode != 0:
        return None
    module = json.loads(download.stdout)
    if module["Sum"] != expected_sum:
        raise SystemExit(f"{MODULE}@{release}: the sum is {module['Sum']}, expected {expected_sum}")
    unpack(Path(module["Dir"]) / "python/internal/data" / f"linux-{machine}", target)
    return python if is_version(python, version) else None


def find(version: str) -> Path | None:
    on_path = shutil.which(f"python{version}")
    candidates = [Path(on_path)] if on_path else []
    candidates += sorted(PYENV.glob(f"{version}.*/bin/python"), reverse=True)
    return next((python for python in candidates if is_version(python, version)), None) or from_go_module(version)


if __name__ == "__main__":
    (wanted,) = sys.argv[1:]
    python = find(wanted)
    if python is None:
        raise SystemExit(f"this machine has no Python {wanted}, and none could be fetched")
    print(python)
