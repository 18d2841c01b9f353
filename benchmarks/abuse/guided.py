"""Decoders under atheris, which lives in an environment of its own: it is a tool, no dependency."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

ATHERIS = "atheris>=2.3"
# What the decoders import, in the versions that are tested here.
PACKAGES = (
    "click", "googleapis-common-protos", "grpcio", "grpcio-health-checking", "grpcio-reflection", "hpack", "msgspec",
    "numpy", "onnxruntime", "prometheus-client", "protobuf", "python-dotenv", "pyyaml", "rich", "structlog", "uvloop",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def environment(console: Console) -> Path | None:
    """Its Python; None where it cannot be had here, which is said."""
    wanted = " ".join([ATHERIS, *(f"{name}=={version(name)}" for name in PACKAGES)])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "volcast" / "atheris"
    folder = cache / hashlib.sha256(f"{sys.version}{wanted}".encode()).hexdigest()[:16]
    python = folder / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")
    try:
        if not (folder / "whole").exists():
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *wanted.split()], check=True)
            (folder / "whole").touch()
    except (OSError, subprocess.CalledProcessError):
        console.print("atheris cannot be installed here: all decoders get mutated recordings instead")
        return None
    return python


def run(python: Path, target: str, count: int, seed: int, seeds: list[bytes]) -> str:
    """So many runs of one decoder; what libFuzzer says of them."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds):
            (corpus / f"{number}").write_bytes(data)
        command: list[str | Path] = [
            python,
            "-m",
            "benchmarks.abuse.decoders",
            target,
            f"-runs={count}",
            f"-seed={seed}",
        ]
        command += ["-max_len=8192", f"-artifact_prefix={folder}/", corpus]
        path = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode:
            crashes = [one.read_bytes()[:200].hex() for one in Path(folder).glob("crash-*")]
            return f"FAILED: {done.stderr.strip().splitlines()[-12:]} at {crashes}"
    covered = re.findall(r"DONE +cov: (\d+) ft: (\d+)", done.stderr)
    return "no fault" + (f"; {covered[-1][0]} edges covered" if covered else "")
