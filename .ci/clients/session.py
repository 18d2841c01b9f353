"""Real clients with settings that are not their defaults against the native front; .ci/real_clients installs them.

Every answer is compared with ONNX Runtime run here on the same rows. A client that is not installed is named in a line.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import status_pb2
from numpy.typing import NDArray

from benchmarks.balancers import Backend, balancer, program
from benchmarks.mixed_cases import MODELS, TOLERANCE, Case, Cases, Reference
from benchmarks.mixed_clients import PREDICT_PATH, Outcome, code_and_fields
from benchmarks.processes import free_port, serving
from benchmarks.rolling import replica
from common.schema import CORE_1, CORE_1_EXAMPLE
from volcast.v1 import PredictResponse

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "volcast"
STABLE = frozenset({"4"})
UNARY, FRAMES = 200, 60
TIMEOUT_S = 60.0
# Of h2load and nghttp: no dynamic tables, and windows of 2^10 - 1 bytes.
SMALL = ("--header-table-size=0", "--encoder-header-table-size=0", "-w", "10", "-W", "10")
GRPC_HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")


class NotInstalledError(Exception):
    """A client that this machine does not have."""


class Session:
    """The cases, and the check of what a client received."""

    def __init__(self, folder: Path) -> None:
        self.reference = Reference(MODELS)
        cases = Cases(self.reference, "real clients")
        self.unary = [cases.unary() for _ in range(UNARY)]
        self.frames = [cases.frame(index + 1) for index in range(FRAMES)]
        self.file = folder / "cases.json"
        self.file.write_text(json.dumps(self._plain()))
        self.example = np.array([[CORE_1_EXAMPLE[name] for name in CORE_1.names]])

    def _plain(self) -> dict[str, Any]:
        unary = [
            {"index": index, "path": case.path, "raw": _text(case.raw), "answer_bytes": 60 + 8 * _rows(case)}
            for index, case in enumerate(self.unary)
        ]
        frames = [_text(case.raw) for case in self.frames]
        return {"unary": unary, "frames": frames, "named": {"features": CORE_1_EXAMPLE}}

    def check_sessions(self, client: str, sessions: Sequence[dict[str, Any]]) -> None:
        """Prints a line. Raises SystemExit at the first wrong answer."""
        answers = 0
        for session in sessions:
            indexes = session.get("indexes", range(len(self.unary)))
            pairs = [(self.unary[index], _outcome(each)) for index, each in zip(indexes, session["unary"], strict=True)]
            if session.get("trimmed"):  # details of an error that do not fit the peer's header list are left out
                pairs = [(case, outcome) for case, outcome in pairs if not _is_trimmed(case, outcome)]
            for number, raw in enumerate(session["frames"] or ()):
                pairs.append((self.frames[number], Outcome.of_frame(base64.b64decode(raw), number + 1)))
            if session["frames"] and len(session["frames"]) != FRAMES:
                raise SystemExit(f"{client}, {session['name']}: {len(session['frames'])} of {FRAMES} frames answered")
            self.check(f"{client}, {session['name']}", pairs)
            answers += len(pairs)
        print(f"{client}: {len(sessions)} sets of settings, {answers:,} answers, 0 wrong", flush=True)

    def check(self, what: str, pairs: Sequence[tuple[Case, Outcome]]) -> None:
        for case, outcome in pairs:
            if fault := self.reference.fault_of(case, outcome, STABLE):
                raise SystemExit(f"{what}, {case.kind}: {fault}")

    def probability(self) -> float:
        """Of the example's row by the stable version."""
        return float(self.reference.probabilities("volatility", "4", self.example)[0])

    def one_row(self) -> bytes:
        """The message of a request with the example's row, behind its prefix."""
        values: NDArray[np.float64] = self.example
        from clients.requests import packed_request

        raw = packed_request(values.tobytes(), 1, CORE_1.hash).SerializeToString()
        return b"\0" + len(raw).to_bytes(4, "big") + raw


def node_http2(session: Session, address: str, folder: Path) -> None:
    output = _run("node", str(HERE / "http2.js"), address, str(session.file))
    session.check_sessions("Node http2", json.loads(output))


def grpc_js(session: Session, address: str, folder: Path) -> None:
    modules = CACHE / "grpc-js" / "node_modules"
    if not modules.exists():
        raise NotInstalledError("grpc-js")
    import google.rpc

    protos = (str(HERE.parents[1] / "proto"), str(Path(next(iter(google.rpc.__path__))).parents[1]))
    environ = {"NODE_PATH": str(modules)}
    result = json.loads(_run("node", str(HERE / "grpc_js.js"), address, str(session.file), *protos, environ=environ))
    session.check_sessions("grpc-js", result["sessions"])
    _require_close("grpc-js by proto-loader", result["named"], session.probability())


def grpc_go(session: Session, address: str, folder: Path) -> None:
    session.check_sessions("grpc-go", json.loads(_run(str(CACHE / "grpc-go" / "calls"), address, str(session.file))))


def grpcurl(session: Session, address: str, folder: Path) -> None:
    """By reflection; with the other version of reflection, and with settings of its own."""
    tool = str(CACHE / "grpcurl" / "grpcurl")
    body = json.dumps({"named": {"rows": [{"features": CORE_1_EXAMPLE}]}})
    options = (
        (),
        ("-max-time", "20", "-keepalive-time", "10"),
        ("-max-msg-sz", "100000", "-connect-timeout", "5"),
        ("-rpc-header", f"x-long: {'a' * 2000}", "-user-agent", "test"),
    )
    for each in options:
        output = _run(tool, "-plaintext", *each, "-d", body, address, "volcast.v1.InferenceService/Predict")
        _require_close(f"grpcurl {each}", json.loads(output)["probabilities"][0], session.probability())
    listed = _run(tool, "-plaintext", address, "list")
    if "volcast.v1.InferenceService" not in listed:
        raise SystemExit(f"grpcurl: list gives {listed!r}")
    wrong = subprocess.run(
        [tool, "-plaintext", "-d", "{}", address, "volcast.v1.InferenceService/Predict"],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    if "InvalidArgument" not in wrong.stderr or "rows" not in wrong.stderr:
        raise SystemExit(f"grpcurl: expected InvalidArgument for no rows, got {wrong.stderr[:300]!r}")
    print(f"grpcurl: {len(options)} sets of settings, {len(options) + 2} answers, 0 wrong", flush=True)


def h2load(session: Session, address: str, folder: Path) -> None:
    """Counts only: h2load does not print answers. The server's own counter is compared."""
    (folder / "one_row").write_bytes(session.one_row())
    calls = 400
    for options in (SMALL, (*SMALL, "-m", "100"), ("--header-table-size=64", "-w", "30", "-W", "30", "-m", "32")):
        command = ["h2load", "-n", str(calls), "-c", "2", *options, *GRPC_HEADERS, "-d", str(folder / "one_row")]
        output = _run(*command, f"http://{address}{PREDICT_PATH}")
        if f"{calls} succeeded, 0 failed, 0 errored" not in output:
            raise SystemExit(f"h2load {options}: {output[-600:]}")
    print(f"h2load: 3 sets of settings, {3 * calls:,} answers, 0 failed", flush=True)


def nghttp(session: Session, address: str, folder: Path) -> None:
    (folder / "one_row").write_bytes(session.one_row())
    sets = (("--header-table-size=0", "-w", "10", "-W", "10"), ("-b", "255"), ("--no-dep", "-M", "1"))
    for options in sets:
        command = ["nghttp", *options, *GRPC_HEADERS, "-d", str(folder / "one_row"), f"http://{address}{PREDICT_PATH}"]
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
        answer = PredictResponse.FromString(done.stdout[5:])
        _require_close(f"nghttp {options}", answer.probabilities[0], session.probability())
    print(f"nghttp: {len(sets)} sets of settings, {len(sets)} answers, 0 wrong", flush=True)


def envoy(session: Session, address: str, folder: Path) -> None:
    """Two replicas with health checks; no dynamic table on either side."""
    try:
        program("envoy")
    except RuntimeError as error:
        raise NotInstalledError(str(error)) from None
    backends = [Backend(free_port(), free_port()) for _ in range(2)]
    with ExitStack() as stack:
        for backend in backends:
            stack.enter_context(replica(backend.port, MODELS, "native", metrics_port=backend.metrics_port))
        through = stack.enter_context(balancer("envoy", backends, hpack_table_size=0))
        channel = stack.enter_context(grpc.insecure_channel(through, [("grpc.use_local_subchannel_pool", 1)]))
        outcomes = [_call(channel, case) for case in session.unary]
        converse: Any = channel.stream_stream("/volcast.v1.InferenceService/StreamPredict")
        frames = list(converse(iter([case.raw for case in session.frames]), timeout=TIMEOUT_S))
    pairs = list(zip(session.unary, outcomes, strict=True))
    answers = (Outcome.of_frame(raw, index + 1) for index, raw in enumerate(frames))
    pairs += zip(session.frames, answers, strict=True)
    session.check("Envoy", pairs)
    print(f"Envoy (hpack_table_size 0, two replicas): {len(pairs)} answers, 0 wrong", flush=True)


def _call(channel: grpc.Channel, case: Case) -> Outcome:
    call: Any = channel.unary_unary(case.path)
    try:
        return Outcome(call(case.raw, timeout=TIMEOUT_S))
    except grpc.RpcError as error:
        return code_and_fields(error)


def _outcome(plain: dict[str, Any]) -> Outcome:
    if plain["code"] == 0:
        return Outcome(base64.b64decode(plain["raw"] or ""))
    details = plain["details"] or ""
    if not details:
        return Outcome(code=plain["code"])
    return Outcome.of_status(status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4))))


def _is_trimmed(case: Case, outcome: Outcome) -> bool:
    return case.refusal is not None and outcome.code == case.refusal.code and not outcome.fields


def _require_close(what: str, value: float, expected: float) -> None:
    if not abs(value - expected) <= TOLERANCE:
        raise SystemExit(f"{what}: expected {expected}, got {value}")


def _rows(case: Case) -> int:
    return 0 if case.matrix is None else len(case.matrix)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _run(*command: str, environ: dict[str, str] | None = None) -> str:
    """Standard output. Raises NotInstalledError where the program is missing, SystemExit where it fails."""
    if shutil.which(command[0]) is None:
        raise NotInstalledError(Path(command[0]).name)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env={**os.environ, **(environ or {})}
    )
    if done.returncode:
        raise SystemExit(f"{Path(command[0]).name}: {done.stderr[-600:] or done.stdout[-600:]}")
    return done.stdout


CLIENTS: tuple[Callable[[Session, str, Path], None], ...] = (
    node_http2,
    grpc_js,
    grpc_go,
    grpcurl,
    h2load,
    nghttp,
    envoy,
)


def main() -> None:
    chosen = [client for client in CLIENTS if not sys.argv[1:] or client.__name__ in sys.argv[1:]]
    skipped = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session = Session(folder)
        with serving("--front", "native") as address:
            for client in chosen:
                try:
                    client(session, address, folder)
                except subprocess.TimeoutExpired:
                    raise SystemExit(f"{client.__name__}: not done after {TIMEOUT_S:g} s") from None
                except NotInstalledError:
                    skipped.append(client.__name__)
    if skipped:
        print(f"real_clients: skipped, not installed here: {', '.join(skipped)}")


if __name__ == "__main__":
    main()
