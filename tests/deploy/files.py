"""What the tests of deploy/ read."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PARTS = ("ingestor", "worker", "server", "gateway")


def load(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


def dockerfile(part: str) -> str:
    return (DEPLOY / "docker" / f"{part}.Dockerfile").read_text()


def environment(part: str) -> dict[str, str]:
    """The VOLCAST_ variables that an image sets."""
    return dict(re.findall(r"\b(VOLCAST_\w+)=(\S+)", dockerfile(part)))


def alerts() -> list[dict[str, Any]]:
    rules = [rule for group in load("prometheus/rules/volcast.yml")["groups"] for rule in group["rules"]]
    return [rule for rule in rules if "alert" in rule]


def defaults(text: str) -> dict[str, str]:
    """The variables of a compose file, each with its default: ${NAME:-value}."""
    return dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))


def load_script(path: str) -> Any:
    """A script of deploy/ as a module: the folder is no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, DEPLOY / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
