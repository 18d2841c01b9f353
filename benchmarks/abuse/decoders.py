"""Everything that reads callers' bytes, in this process: a decoder that fails in a way it must not raises.

With atheris, coverage-guided: `PYTHON -m benchmarks.abuse.decoders TARGET -runs=N CORPUS`, PYTHON being that of
an environment which has it (benchmarks.abuse.__main__ makes one).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns, time
from typing import Any

import structlog

from common.errors import RequestError, VolcastError
from common.http2 import frames
from common.http2.frames import ProtocolError
from server.app import services
from server.core.dataplane import DataPlane
from server.core.models import Repository
from server.core.requests import PredictInput
from server.core.rows import PackedInput
from server.http2.connection import Connection, Event, Limits
from server.http2.headers import FAST_UNARY, STREAMING, UNARY, HeadReader, MalformedError
from server.http2.sending import framed
from server.rpc.inference import PredictFrame, read_predict
from server.rpc.methods import Scoring, ScoringStream, Unary
from server.runtime.reload import Reloader
from server.runtime.state import ServerState
from server.wire.templates import TemplateCache

MODELS = Path(__file__).resolve().parents[2] / "models"
GREETING = frames.PREFACE + frames.settings({})


class Open:
    def kind(self, method: Any) -> int:
        if isinstance(method, Scoring):
            return FAST_UNARY
        return UNARY if isinstance(method, Unary) else STREAMING

    def refusal(self, path: bytes, authorization: bytes) -> str:
        return "no" if authorization == b"no" else ""


class Decoders:
    def __init__(self) -> None:
        repository = Repository("volatility", time)
        log = structlog.wrap_logger(structlog.testing.CapturingLogger(), processors=[])
        Reloader(repository, MODELS, 0, log).load()
        state = ServerState("abuse", "native")
        state.accepting = True
        self._plane = DataPlane(repository, 1000, perf_counter_ns)
        table, _ = services.methods(repository, state, with_reflection=False)
        self._methods = {path.encode(): method for path, method in table.items()}
        self._infer = next(one for path, one in table.items() if path.endswith("/ModelInfer"))
        self._infer_stream = [
            one for one in table.values() if isinstance(one, ScoringStream) and one.name != "StreamPredict"
        ]
        self._templates = TemplateCache()
        self._blocks = HeadReader(self._methods, Open(), 4096)
        self.targets: dict[str, Callable[[bytes], None]] = {
            "headers": self.headers,
            "connection": self.connection,
            "predict": self.predict,
            "frame": self.frame,
            "infer": self.infer,
        }

    def headers(self, data: bytes) -> None:
        """A block of a fresh connection, and of one that has read many, remembering and not."""
        for reader in (self._blocks, HeadReader(self._methods, Open(), 4096)):
            try:
                first = reader.read(data)
                assert reader.read(data) == first or reader.cached.get(data) is None
            except MalformedError:
                pass
            except ProtocolError:
                self._blocks = HeadReader(self._methods, Open(), 4096)

    def connection(self, data: bytes) -> None:
        """A connection that answers all it is asked; what it holds must be what its streams hold."""
        connection = Connection(self._methods, Open(), Limits(max_message=100_000, max_buffered=200_000))
        half = len(data) // 2
        for part in (GREETING, data[:half], data[half:]):
            try:
                connection.receive(part, 0)
            except ProtocolError as fault:
                connection.go_away(fault.code, fault.reason)
                break
            self._answer(connection)
        streams = connection.streams.values()
        assert connection._buffered == sum(one.weight for one in streams)
        assert connection._unsent == sum(one.unsent for one in streams)
        _require_frames(connection.output())
        connection.abandon()
        assert (connection.open_calls, connection._buffered, connection._unsent) == (0, 0, 0)

    def _answer(self, connection: Connection) -> None:
        calls, connection.calls = connection.calls, []
        for stream_id, _, raw in calls:
            connection.respond_fast(stream_id, raw)
        events, connection.events = connection.events, []
        for kind, stream, raw in events:
            if kind == Event.REQUEST:
                connection.respond(stream, raw)
            elif kind == Event.DATA:
                connection.send(stream, b"".join(map(framed, connection.take_messages(stream, 10))))
                if stream.remote_closed:
                    connection.finish(stream)

    def predict(self, data: bytes) -> None:
        """By a form where one is known, and as parsed: the same."""
        form = self._templates.match(data)
        try:
            request = read_predict(data)
            job = self._plane.prepare(request, 0)
        except VolcastError as error:
            _require_callers(error)
            if form is not None:
                assert not _parses(data), "a form took what is refused before its values are looked at"
            return
        if form is not None:
            rows = PackedInput(form.schema_hash, form.data_type, form.rows, data[len(form.prefix) :])
            assert request == PredictInput(rows, form.selection)
        assert job.matrix.shape[1] == len(job.model.schema)
        self._templates.learn(data, request, read_predict)

    def frame(self, data: bytes) -> None:
        frame = PredictFrame(data)
        if isinstance(frame.input, VolcastError):
            _require_callers(frame.input)
            assert frame.fail(frame.input)
        else:
            self._prepare(frame.input)

    def infer(self, data: bytes) -> None:
        assert isinstance(self._infer, Scoring)
        try:
            request, _ = self._infer.decode(data)
        except VolcastError as error:
            _require_callers(error)
        else:
            self._prepare(request)
        for method in self._infer_stream:
            decoded = method.decode(data)
            if isinstance(decoded.input, VolcastError):
                _require_callers(decoded.input)
                assert decoded.fail(decoded.input)

    def _prepare(self, request: PredictInput) -> None:
        try:
            self._plane.prepare(request, 0)
        except VolcastError as error:
            _require_callers(error)


def _parses(data: bytes) -> bool:
    """Whether all but its values is right."""
    try:
        request = read_predict(data)
    except RequestError:
        return False
    return not isinstance(request.rows, PackedInput)


def _require_callers(error: VolcastError) -> None:
    """A fault of the caller's, and told in a few words."""
    from common.rpc_status import to_status  # after instrumentation, where there is any

    status = to_status(error)
    assert status.code not in (2, 13), error
    assert status.ByteSize() < 8192


def _require_frames(data: bytes) -> None:
    at = 0
    while at < len(data):
        word, _, _ = frames.HEADER.unpack_from(data, at)
        at += 9 + (word >> 8)
    assert at == len(data)


def main() -> None:
    import atheris  # type: ignore[import-untyped]

    for module in [name for name in sys.modules if name.startswith(("server.", "common.", "hpack"))]:
        for one in vars(sys.modules[module]).values():
            if getattr(one, "__module__", None) == module and callable(one):
                _instrument(atheris, one)
    target = Decoders().targets[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


def _instrument(atheris: Any, one: Any) -> None:
    """A function, or the methods of a class: libFuzzer sees which of their branches ran."""
    members = list(vars(one).items()) if isinstance(one, type) else []
    if hasattr(one, "__code__"):
        atheris.instrument_func(one)
    for _, member in members:
        if hasattr(member, "__code__"):
            atheris.instrument_func(member)


if __name__ == "__main__":
    main()
