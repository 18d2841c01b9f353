"""Progress of a run: a live table on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.run.processes import Process, ProcessGroup
from cli.run.summary import minutes_known

PLAIN_EVERY_S = 5.0

# Process -> fields of its statistics in the table.
FIGURES = {
    "exchange": ("sent",),
    "ingest": ("ticks", "gaps", "late", "dead", "reconnects"),
    "worker": ("features", "not_warm", "predictions", "missing", "backlog_rows"),
}


class View:
    """Draws the processes of a run on standard error. Standard output is for the summary."""

    def __init__(self, processes: ProcessGroup, console: Console) -> None:
        self._processes = processes
        self._console = console
        self._started_s = time.monotonic()
        self._next_line_s = self._started_s + PLAIN_EVERY_S
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        now_s = time.monotonic()
        if self._live:
            self._live.update(self._table(now_s - self._started_s), refresh=True)
        elif now_s >= self._next_line_s:
            self._next_line_s = now_s + PLAIN_EVERY_S
            self.print(self._line(now_s - self._started_s))

    def _table(self, elapsed_s: float) -> Table:
        title = f"volcast run, {elapsed_s:.0f} s (Ctrl-C ends it){self._market()}"
        table = Table(title=title, title_justify="left")
        for heading in ("part", "state", "where", "figures"):
            table.add_column(heading, overflow="fold")
        for process in self._processes.all:
            table.add_row(process.name, process.state, _where(process.ready or {}), _figures(process))
        return table

    def _line(self, elapsed_s: float) -> str:
        starting = [process.name for process in self._processes.all if process.ready is None]
        if starting:
            return f"{elapsed_s:4.0f} s  starting: {', '.join(starting)}"
        figures = "  ".join(
            f"{process.name}: {_figures(process)}" for process in self._processes.all if _figures(process)
        )
        return f"{elapsed_s:4.0f} s  {figures}{self._market()}"

    def _market(self) -> str:
        """The market's date, and the words "simulated market" if it is simulated; empty before its first message."""
        for process in self._processes.all:
            if process.name == "exchange" and "market" in process.stats:
                return f"  {process.stats['market']}"
        return ""


def _where(ready: dict[str, Any]) -> str:
    known = []
    if "url" in ready or "address" in ready:
        known.append(ready.get("url") or ready["address"])
    elif "port" in ready:
        known.append(f"port {ready['port']}")
    if "metrics_port" in ready:
        known.append(f"metrics {ready['metrics_port']}")
    return ", ".join(known)


def _figures(process: Process) -> str:
    shown = [f"{name} {process.stats[name]:,}" for name in FIGURES.get(process.name, ()) if name in process.stats]
    latency = process.stats.get("latency_ms", {}).get("total", {}) if process.name == "worker" else {}
    if latency.get("p50") is not None:
        shown.append(f"latency p50 {latency['p50']:.3g} ms, p99 {latency['p99']:.3g} ms")
    if process.stats.get("trailing_known_s"):
        shown.append(f"less than an hour known: {minutes_known(process.stats['trailing_known_s'])}")
    return ", ".join(shown)
