"""Calls a second of a target, by h2load: written in C, it costs little beside what it measures."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile

from benchmarks.peers.running import Target


def calls_per_s(target: Target, in_flight: int, seconds: float) -> float:
    """Closed loop: one HTTP/2 connection for gRPC, as many connections as calls for HTTP/1.1.

    h2load sees HTTP status, not gRPC status: check the target before and after.
    """
    program = shutil.which("h2load")
    if program is None:
        raise RuntimeError("h2load is not on PATH (Debian: nghttp2-client)")
    shape = ["-c1", f"-m{in_flight}"] if target.protocol == "grpc" else ["--h1", f"-c{in_flight}", "-m1"]
    headers = [f"-H{name}: {value}" for name, value in target.headers.items()]
    with tempfile.NamedTemporaryFile() as body:
        body.write(target.body())
        body.flush()
        command = [program, *shape, f"-D{round(seconds * 1000)}ms", "--warm-up-time=200ms", f"-d{body.name}"]
        printed = subprocess.run(
            [*command, *headers, target.url], capture_output=True, text=True, check=True, timeout=seconds + 30
        ).stdout
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", printed)
    if rate is None or float(rate[1]) == 0 or " 0 failed, 0 errored, 0 timeout" not in printed:
        raise RuntimeError(f"h2load of {target.spec.name}: {printed}")
    return float(rate[1])
