"""What a call of the mixed run ended with, and a client that shares no code with grpcio."""

from __future__ import annotations

import base64
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote_to_bytes

from google.rpc import error_details_pb2, status_pb2
from hpack import Decoder, Encoder

from volcast.v1 import StreamPredictResponse

PREDICT_PATH = "/volcast.v1.InferenceService/Predict"
INFER_PATH = "/inference.GRPCInferenceService/ModelInfer"
DETAILS = "grpc-status-details-bin"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
FRAME_SIZE = 16_384
WINDOW = 2**31 - 1


@dataclass(frozen=True)
class Outcome:
    """raw: the answer's message. code: of the status, 0 with an answer. fields: at fault, by the details."""

    raw: bytes = b""
    code: int = 0
    fields: tuple[str, ...] = ()
    text: str = ""

    @classmethod
    def of_status(cls, status: status_pb2.Status) -> Self:
        bad = error_details_pb2.BadRequest()
        fields = [each.field for detail in status.details if detail.Unpack(bad) for each in bad.field_violations]
        return cls(code=status.code, fields=tuple(fields), text=status.message)

    @classmethod
    def of_frame(cls, raw: bytes, frame_id: int) -> Self:
        answer = StreamPredictResponse.FromString(raw)
        if answer.frame_id != frame_id:
            return cls(code=-1, text=f"frame {answer.frame_id} where {frame_id} was due")
        if answer.HasField("error"):
            return cls.of_status(answer.error)
        return cls(answer.response.SerializeToString())


def code_and_fields(error: Any) -> Outcome:
    """How a call of grpcio's clients failed."""
    details = dict(error.trailing_metadata() or ()).get(DETAILS)
    if details is None:
        return Outcome(code=error.code().value[0], text=error.details() or "")
    return Outcome.of_status(status_pb2.Status.FromString(details))


class RawClient:
    """One connection of HTTP/2 frames, with the dynamic table and Huffman coding of the hpack package."""

    def __init__(self, address: str, timeout_s: float) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        self._reader = self._socket.makefile("rb")
        self._encoder, self._decoder = Encoder(), Decoder()
        self._next_id = 1
        self._credit = 65_535  # what the server may still be sent on the connection
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, struct.pack(">HI", 4, WINDOW))
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65_535))
        )
        self._initial = 65_535
        self._settled = False
        while not self._settled:
            self._read({})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._socket.close()

    def calls(self, calls: Sequence[tuple[str, bytes]]) -> list[Outcome]:
        """Unary calls, all in flight at once; their outcomes in order."""
        streams: dict[int, _Stream] = {}
        for path, message in calls:
            stream = streams[self._next_id] = _Stream(self._next_id, self._initial)
            self._next_id += 2
            fields = [
                (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "mixed"),
                ("content-type", "application/grpc"), ("te", "trailers"), ("x-call", str(stream.id)),
            ]  # fmt: skip
            self._socket.sendall(_frame(HEADERS, END_HEADERS, stream.id, self._encoder.encode(fields)))
            stream.unsent = memoryview(struct.pack(">BI", 0, len(message)) + message)
            self._send(stream)
        while not all(stream.ended for stream in streams.values()):
            self._read(streams)
        return [stream.outcome() for stream in streams.values()]

    def _send(self, stream: _Stream) -> None:
        while stream.unsent and (room := min(stream.credit, self._credit, FRAME_SIZE)) > 0:
            part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
            stream.credit -= len(part)
            self._credit -= len(part)
            self._socket.sendall(_frame(DATA, 0 if stream.unsent else END_STREAM, stream.id, bytes(part)))

    def _read(self, streams: dict[int, _Stream]) -> None:
        """One frame. Raises ConnectionError where the server ends the connection."""
        head = self._reader.read(9)
        if len(head) < 9:
            raise ConnectionError("the server closed the connection")
        word, flags, stream_id = struct.unpack(">IBI", head)
        kind, payload = word & 0xFF, self._reader.read(word >> 8)
        stream = streams.get(stream_id)
        if kind == SETTINGS and not flags & ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == 4:
                    self._initial = value
            self._settled = True
            self._socket.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._socket.sendall(_frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            raise ConnectionError(f"GOAWAY: {payload[8:].decode(errors='replace')}")
        elif kind == WINDOW_UPDATE:
            self._on_credit(streams, stream, int.from_bytes(payload, "big"), whole=stream_id == 0)
        elif kind == HEADERS:
            fields = self._decoder.decode(payload)
            if stream is not None:
                stream.fields |= {str(name): str(value) for name, value in fields}
        elif kind == DATA and stream is not None:
            stream.body += payload
        elif kind == RST_STREAM and stream is not None:
            stream.fields.setdefault("grpc-status", f"-{int.from_bytes(payload, 'big')}")
            stream.ended = True
        if stream is not None and kind in (DATA, HEADERS) and flags & END_STREAM:
            stream.ended = True
        if payload and kind == DATA:
            self._socket.sendall(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))

    def _on_credit(self, streams: dict[int, _Stream], stream: _Stream | None, credit: int, *, whole: bool) -> None:
        if whole:
            self._credit += credit
        elif stream is not None:
            stream.credit += credit
        for waiting in list(streams.values()):
            if waiting.unsent and not waiting.ended:
                self._send(waiting)


class _Stream:
    def __init__(self, stream_id: int, credit: int) -> None:
        self.id = stream_id
        self.credit = credit
        self.unsent: memoryview = memoryview(b"")
        self.fields: dict[str, str] = {}
        self.body = b""
        self.ended = False

    def outcome(self) -> Outcome:
        code = int(self.fields.get("grpc-status", "-1"))
        if code == 0:
            (size,) = struct.unpack_from(">xI", self.body)
            return Outcome(self.body[5:]) if size == len(self.body) - 5 else Outcome(code=-1, text="a torn message")
        details = self.fields.get(DETAILS)
        if details is None:
            text = unquote_to_bytes(self.fields.get("grpc-message", "")).decode(errors="replace")
            return Outcome(code=code, text=text)
        padded = details + "=" * (-len(details) % 4)
        return Outcome.of_status(status_pb2.Status.FromString(base64.b64decode(padded)))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload
