"""Rows of one command, stored for the table that another command prints.

`benchmarks/results/NAME.json` holds date, machine and command of the run and its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.machine import machine
from benchmarks.sections import row_as_builtins
from benchmarks.targets import Row

RESULTS = Path(__file__).resolve().parent / "results"


class Stored(msgspec.Struct, frozen=True):
    date: str
    machine: str
    command: str
    rows: tuple[Row, ...]


def store(name: str, command: str, rows: Sequence[Row], folder: Path = RESULTS) -> Path:
    """Replaces the rows of that name; gives the file."""
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": machine(), "command": command}
    content = msgspec.json.encode({**about, "rows": [row_as_builtins(row) for row in rows]})
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.format(content) + b"\n")
    return path


def stored(name: str, folder: Path = RESULTS) -> Stored | None:
    """The rows of that name; None where none were stored."""
    path = folder / f"{name}.json"
    return msgspec.json.decode(path.read_bytes(), type=Stored) if path.exists() else None
