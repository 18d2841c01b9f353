"""Closed-loop unary load from C: `h2load` costs little beside what it measures."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile

from benchmarks.native.peers import NotBuiltError, framed
from benchmarks.requests import check, request

LIMIT_S = 120.0
PREDICT = "{}://{}/volcast.v1.InferenceService/Predict"


def h2load(address: str, in_flight: int, calls: int, rows: int = 1, ca: str = "") -> float:
    """Calls of Predict a second over one connection, `calls` of them; proves that each brought an answer.

    ca: a PEM file; the connection is TLS then.

    h2load sees HTTP status, not gRPC's. A refusal brings no message, so the bytes of the answers tell.
    """
    program = shutil.which("h2load")
    if program is None:
        raise NotBuiltError("h2load is not on PATH (Debian: nghttp2-client)")
    least = check(address, rows, ca)
    with tempfile.NamedTemporaryFile() as body:
        body.write(framed(request(rows)))
        body.flush()
        command = [program, "-c1", f"-m{in_flight}", f"-n{calls}", f"-d{body.name}"]
        command += [
            "-Hcontent-type: application/grpc",
            "-Hte: trailers",
            PREDICT.format("https" if ca else "http", address),
        ]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S).stdout
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", printed)
    data = re.search(r"\((\d+)\) data", printed)
    if rate is None or data is None or f" {calls} succeeded" not in printed:
        raise RuntimeError(f"h2load: {printed}")
    if int(data[1]) < calls * least:
        raise RuntimeError(f"h2load got {data[1]} bytes for {calls} calls, an answer has at least {least}")
    return float(rate[1])
