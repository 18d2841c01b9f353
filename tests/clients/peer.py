"""The server's side of a connection, by the h2 library: it raises if the client breaks the protocol."""

from __future__ import annotations

from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived

from clients.http2 import ClientCall, ClientConnection, call_fields
from common.http2.frames import MESSAGE

FIELDS = call_fields("/volcast.v1.InferenceService/Predict", "host:1", "http", [("authorization", "Bearer x")])
RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]


def framed(message: bytes) -> bytes:
    return MESSAGE.pack(0, len(message)) + message


class Peer:
    def __init__(self, settings: dict[int, int] | None = None) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
        self.client = ClientConnection()
        self.events: list[Any] = []
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
            self.exchange()

    def exchange(self) -> None:
        """Passes bytes both ways until both sides are silent."""
        while True:
            sent, answered = self.client.output(), self.h2.data_to_send()
            if not sent and not answered:
                return
            if sent:
                self.events += self.h2.receive_data(sent)
            if answered:
                self.client.receive(answered)

    def open(self, message: bytes = b"question", *, end: bool = True) -> ClientCall:
        call = self.client.open(FIELDS)
        self.client.send(call, message, end=end)
        self.exchange()
        return call

    def headers(self, call: ClientCall) -> dict[Any, Any]:
        return next(
            {field[0]: field[1] for field in event.headers}
            for event in self.events
            if isinstance(event, RequestReceived) and event.stream_id == call.id
        )

    def received(self, call: ClientCall) -> bytes:
        chunks = (event for event in self.events if isinstance(event, DataReceived) and event.stream_id == call.id)
        return b"".join(event.data for event in chunks)

    def respond(self, call: ClientCall, *messages: bytes, status: str = "0", **trailers: str) -> None:
        self.h2.send_headers(call.id, RESPONSE)
        for message in messages:
            self.h2.send_data(call.id, framed(message))
        fields = [("grpc-status", status), *((name.replace("_", "-"), value) for name, value in trailers.items())]
        self.h2.send_headers(call.id, fields, end_stream=True)
        self.exchange()
