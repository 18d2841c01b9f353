"""The keeper ends all that the command started, wherever that went, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import keeper
from tests.processes import await_true

# A server that ignores SIGTERM and leaves an orphan in a session of its own, as some frameworks do.
STUBBORN = """
import os, signal, subprocess, sys, time
orphan = subprocess.run(
    ["setsid", "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True
).stdout.strip()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1] + ".part", "w").write(f"{os.getpid()} {orphan}")
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(600)
"""


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_the_command_and_its_orphan_end_with_the_keeper(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    # The grace is for servers that drain; none of it is needed to end one that does not.
    code = "import sys; from benchmarks.peers import keeper; keeper.GRACE_S = 0.2; sys.exit(keeper.main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, sys.executable, "-c", STUBBORN, str(pids)])
    try:
        await_true(pids.exists, what="the command")
        server, orphan = map(int, pids.read_text().split())
        assert alive(server)
        assert alive(orphan)
    finally:
        process.terminate()
        process.wait(20)
    assert not alive(server)
    assert not alive(orphan)


def test_a_command_that_fails_ends_the_keeper_with_its_code() -> None:
    command = [sys.executable, str(Path(keeper.__file__)), sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, check=False, timeout=20).returncode == 7


def test_the_keeper_ends_what_it_keeps_when_its_own_parent_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    keep = [
        sys.executable,
        str(Path(keeper.__file__)),
        "sh",
        "-c",
        f"echo $$ $PPID > {pids}.part; mv {pids}.part {pids}; exec sleep 600",
    ]
    parent = subprocess.Popen([sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *keep])
    await_true(pids.exists, what="the command")
    command, kept_by = map(int, pids.read_text().split())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(20)
    await_true(lambda: not alive(command) and not alive(kept_by), what="the end of both")
