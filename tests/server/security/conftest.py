from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.security.authority import Authority, Files


class Log:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    warning = error = exception = info

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """Another authority of the same name, as an impostor would make it."""
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    return Files(tmp_path, authority)
