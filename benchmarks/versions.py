"""Versions of what is measured, of what it stands on and of what measures it."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("onnxruntime", "grpcio", "protobuf", "uvloop", "numpy")
COMMANDS = {"gRPC C++": ("pkg-config", "--modversion", "grpc++"), "h2load": ("h2load", "--version")}
CARGO_LOCK = Path(__file__).with_name("native") / "echo_rust" / "Cargo.lock"


def versions() -> dict[str, str]:
    found = {name: _installed(name) for name in PACKAGES}
    found |= {name: _said(*command) for name, command in COMMANDS.items()}
    tonic = re.search(r'name = "tonic"\nversion = "([^"]+)"', CARGO_LOCK.read_text())
    found["tonic"] = tonic[1] if tonic else ""
    return {name: one for name, one in found.items() if one}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout else ""
