"""Runs a command and leaves nothing of it behind: `python -m benchmarks.peers.keeper COMMAND...`.

Frameworks start processes of their own, in sessions and process groups of their own, under names of
their own, some of which outlive their parent. As child subreaper (prctl(2)) this process inherits
every orphan, so on SIGTERM, or when whoever started it dies, it can end the whole tree and no other.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import NoReturn

GRACE_S = 8.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class _StoppedError(Exception):
    pass


def main(command: list[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches whoever started us, and through it us
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    code = 0
    try:
        child = subprocess.Popen(command, start_new_session=True)
        code = child.wait()
    except _StoppedError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child.terminate()
    _end_all(monotonic() + (GRACE_S if code == 0 else 0))
    return code


def _stop(*_: object) -> NoReturn:
    raise _StoppedError


def _end_all(deadline_s: float) -> None:
    """Waits for every descendant, by force after the deadline."""
    while _reaped():
        if monotonic() > deadline_s:
            for pid in _descendants():
                os.kill(pid, signal.SIGKILL)
        sleep(0.02)


def _reaped() -> bool:
    """Collects children that have ended; false once there are none left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _descendants() -> list[int]:
    parents = {pid: parent for pid in _pids() if (parent := _parent(pid)) is not None}
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int | None:
    try:
        # The name, in brackets, may itself hold spaces and brackets.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
