"""Health checks of another client during an attack: a process of its own, so that the attacker's work is not measured.

python -m benchmarks.abuse.health ADDRESS    prints "began_ns latency_ns" for each check until its input ends
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic_ns, sleep
from typing import NamedTuple

from benchmarks.abuse.corpus import HEALTH
from benchmarks.abuse.wire import Wire

TARGET_MS = 50.0  # of the 99th percentile, during every attack
PAUSE_S = 0.005  # between two checks
TIMEOUT_S = 10.0  # a check that takes longer counts as that long


class Checks(NamedTuple):
    """Latencies of the checks that were under way during one attack."""

    checks: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def line(self) -> str:
        verdict = "" if self.p99_ms <= TARGET_MS else f" (above {TARGET_MS:.0f} ms)"
        return f"{self.checks} health checks: p99 {self.p99_ms:.1f} ms, max {self.max_ms:.1f} ms{verdict}"


class HealthProbe:
    """The checks of one server; `during` reads those of an attack."""

    def __init__(self, address: str) -> None:
        self._checks: list[tuple[int, int]] = []
        command = [sys.executable, "-m", "benchmarks.abuse.health", address]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            began_ns, latency_ns = map(int, line.split())
            self._checks.append((began_ns, latency_ns))

    def during(self, began_ns: int) -> Checks:
        """Of the checks that ended after `began_ns`; waits for the one that is under way."""
        now_ns, known = monotonic_ns(), len(self._checks)
        while (known == len(self._checks) or self._checks[-1][0] < now_ns) and self._process.poll() is None:
            sleep(PAUSE_S)
        taken = sorted(latency for began, latency in list(self._checks) if began + latency >= began_ns)
        if not taken:
            raise RuntimeError("the process of the health checks has ended")

        def at(share: float) -> float:
            return taken[min(len(taken) - 1, int(share * len(taken)))] / 1e6

        return Checks(len(taken), at(0.5), at(0.99), at(1.0))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(TIMEOUT_S + 5)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def probing(address: str) -> Iterator[HealthProbe]:
    probe = HealthProbe(address)
    try:
        yield probe
    finally:
        probe.close()


def _check(address: str, wire: Wire | None) -> Wire | None:
    """One check; the connection for the next one, or None if it failed."""
    try:
        wire = wire or Wire(address, TIMEOUT_S)
        return wire if wire.calls([(HEALTH, b"")])[0] == 1 else None
    except OSError:
        return None


def main() -> None:
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    wire = _check(sys.argv[1], None)
    while not ended.wait(PAUSE_S):
        began_ns = monotonic_ns()
        wire = _check(sys.argv[1], wire)
        print(began_ns, monotonic_ns() - began_ns if wire else round(TIMEOUT_S * 1e9), flush=True)


if __name__ == "__main__":
    main()
