"""What every published figure is printed with: command, machine, load, date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console


def machine() -> str:
    """Processor, cores, load and Python, in one line."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {load():.1f}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def load() -> float:
    """Of the last minute: runnable processes, ours included."""
    return os.getloadavg()[0]


def header(console: Console, command: str, how: str) -> None:
    console.print(f"\n[bold]{command}[/bold]  {datetime.now(UTC):%Y-%m-%d %H:%M} UTC  {machine()}", highlight=False)
    console.print(how, highlight=False)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
