"""Servers whose connections run a script."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

from tests.clients.peer import RESPONSE, framed
from volcast.v1 import PredictResponse

ANSWER = PredictResponse(model_version="9", probabilities=[0.5]).SerializeToString()
Script = Callable[[socket.socket, int], None]  # a connection, and its number from 0 on


@contextmanager
def scripted(
    script: Script, family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)
) -> Iterator[socket.socket]:
    """A server whose connections run a script, each on a thread."""
    threads: list[threading.Thread] = []
    with socket.socket(family) as listener:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()

        def serve(connection: socket.socket, number: int) -> None:
            with connection:
                connection.settimeout(10)
                script(connection, number)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(connection, len(threads))))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener
        listener.shutdown(socket.SHUT_RDWR)
    accepting.join(10)
    for thread in threads:
        thread.join(10)


def target_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


class Served:
    """One connection of a scripted server, until the client closes it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
        self.h2.initiate_connection()
        self._requests: deque[int] = deque()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def request(self) -> int | None:
        """The stream of the next request; None: the client has closed the connection."""
        while not self._requests:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:  # it closed before it read everything
                return None
            if not data:
                return None
            events = self.h2.receive_data(data)
            for event in events:
                if isinstance(event, DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            try:
                self.flush()
            except BrokenPipeError:  # it closed and does not want the acknowledgements
                return None
            self._requests += [event.stream_id for event in events if isinstance(event, StreamEnded)]
        return self._requests.popleft()

    def respond(self, stream_id: int, message: bytes = ANSWER) -> None:
        self.h2.send_headers(stream_id, RESPONSE)
        self.h2.send_data(stream_id, framed(message))
        self.h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
        self.flush()

    def respond_to_all(self) -> None:
        while (stream_id := self.request()) is not None:
            self.respond(stream_id)
