"""Versions of what is measured, of what it stands on and of what measures it."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("onnxruntime", "grpcio", "protobuf", "uvloop", "numpy")
COMMANDS = {"gRPC C++": ("pkg-config", "--modversion", "grpc++"), "h2load": ("h2load", "--version")}
_NATIVE = Path(__file__).with_name("native")
# Package -> the file that pins it, and the pattern of its version there.
PINNED = {
    "tonic": (_NATIVE / "echo_rust" / "Cargo.lock", r'name = "tonic"\nversion = "([^"]+)"'),
    "grpc-go": (_NATIVE / "unary_go" / "go.mod", r"google\.golang\.org/grpc v(\S+)"),
}


def versions() -> dict[str, str]:
    """By name; what is not installed or not pinned is left out."""
    numbers = {name: _installed(name) for name in PACKAGES}
    numbers |= {name: _printed(*command) for name, command in COMMANDS.items()}
    numbers |= {name: _pinned(*place) for name, place in PINNED.items()}
    return {name: number for name, number in numbers.items() if number}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _pinned(file: Path, pattern: str) -> str:
    match = re.search(pattern, file.read_text())
    return match[1] if match else ""


def _printed(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout else ""
