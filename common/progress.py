"""Whether a process that was asked to end is at work, or hangs."""

from __future__ import annotations

from pathlib import Path

# A process at work on a machine with many others still wants the processor for nearly all of the time; one
# that only polls wants it for less than a hundredth.
MIN_BUSY_SHARE = 0.05
LOOK_EVERY_S = 0.5


class Progress:
    """Measures how long a process has done nothing: no report, no wish for the processor, no wait for a disk."""

    def __init__(self, pid: int, now_s: float) -> None:
        self._pid = pid
        self._busy_s = now_s  # when it was last at work
        self._looked_s = now_s
        self._demand_ns = demand_ns(pid)
        self._reports: int | None = None

    def idle_s(self, reports: int, now_s: float) -> float:
        """reports: how many it has sent so far."""
        if reports != self._reports:
            self._reports = reports
            self._busy_s = now_s
        elapsed_s = now_s - self._looked_s
        if elapsed_s >= LOOK_EVERY_S:
            before_ns, self._demand_ns, self._looked_s = self._demand_ns, demand_ns(self._pid), now_s
            if self._demand_ns - before_ns >= MIN_BUSY_SHARE * elapsed_s * 1e9 or waits_for_disk(self._pid):
                self._busy_s = now_s
        return now_s - self._busy_s


def demand_ns(pid: int) -> int:
    """Time that all threads of a process ran, or waited for a processor; 0 where the system does not say.

    The first two fields of /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst). Run time
    alone would take a process for idle that gets no processor on a busy machine.
    """
    total = 0
    for task in _tasks(pid):
        try:
            ran, waited, _ = (task / "schedstat").read_text().split()
        except (OSError, ValueError):
            continue
        total += int(ran) + int(waited)
    return total


def waits_for_disk(pid: int) -> bool:
    """Whether a thread is in uninterruptible sleep: state D of proc(5)."""
    return any(_state(task) == "D" for task in _tasks(pid))


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
