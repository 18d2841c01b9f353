"""Passes each call to its module: whole unary calls, scoring streams, or streams that need no model."""

from __future__ import annotations

from common.errors import DeadlineError, UnavailableError
from server.http2.connection import Event
from server.http2.headers import NO_TIMEOUT
from server.http2.stream import Stream
from server.native.connection import ServerConnection
from server.native.scoring_stream import ScoringStreamCall
from server.native.serving import Serving
from server.native.streaming import StreamingCall
from server.native.unary import UnaryCalls
from server.rpc.methods import ScoringStream


class Dispatcher:
    """The `Handler` of every connection of a front."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._unary = UnaryCalls(serving)

    def accept(self, connection: ServerConnection, now_ns: int) -> None:
        h2 = connection.h2
        if h2.blocks:
            blocks, h2.blocks = h2.blocks, []
            for block in blocks:
                self._unary.accept_block(connection, block, now_ns)
        if h2.events:
            self._accept_events(connection)
        if h2.calls:
            calls, h2.calls = h2.calls, []
            self._unary.accept(connection, calls, now_ns)

    def _accept_events(self, connection: ServerConnection) -> None:
        h2 = connection.h2
        events, h2.events = h2.events, []
        for kind, stream, message in events:
            if kind == Event.REQUEST:
                call = (stream.id, stream.head, message)
                if stream.head.timeout_ns == NO_TIMEOUT:
                    h2.calls.append(call)  # runs with the other calls of the read
                else:
                    self._unary.accept(connection, [call], stream.arrived_ns)  # its deadline counts from its headers
            elif kind == Event.OPENED:
                self._open(connection, stream)
            elif kind == Event.EXPIRED:
                error = DeadlineError("the deadline has passed before the message arrived")
                connection.fail(stream, stream.head.method.name, error)
            elif stream.call is None:
                continue
            elif kind == Event.RESET:
                stream.call.cancel()
            else:
                stream.call.on_data(alone=len(events) == 1)

    def _open(self, connection: ServerConnection, stream: Stream) -> None:
        method = stream.head.method
        if not isinstance(method, ScoringStream):
            stream.call = StreamingCall(connection, stream, method)
            return
        try:
            self._serving.state.require_accepting()
        except UnavailableError as error:
            connection.fail(stream, method.name, error)
        else:
            stream.call = ScoringStreamCall(connection, stream, method)
