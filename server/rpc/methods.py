"""gRPC methods as both fronts carry them: bytes in, bytes out, whatever moves the bytes.

A door (server.rpc.inference, health, reflection, server.oip) gives a table from path to method; a front
(server.grpcio.front, server.native) carries every table the same way. What a method raises becomes the
call's status by common.rpc_status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Protocol

import msgspec

from common.errors import VolcastError
from server.core.dataplane import Result
from server.core.requests import PredictInput


class Unary(msgspec.Struct, frozen=True):
    """Answered at once, never behind work that waits."""

    packed: ClassVar[bool] = False

    name: str
    answer: Callable[[bytes], bytes]


class Scoring(msgspec.Struct, frozen=True):
    """Answered from a batch. decode gives the input and what makes bytes of its result."""

    name: str
    decode: Callable[[bytes], tuple[PredictInput, Callable[[Result], bytes]]]
    packed: bool = False  # takes PredictRequest and gives PredictResponse: server.wire.templates knows their bytes


class Frame(Protocol):
    """One message of a scoring stream."""

    input: PredictInput | VolcastError  # an error is the frame's own: the stream lives on

    def encode(self, result: Result) -> bytes: ...

    def fail(self, error: Exception) -> bytes: ...


class ScoringStream(msgspec.Struct, frozen=True):
    """Answers in the order of the frames, each from a batch."""

    name: str
    decode: Callable[[bytes], Frame]
    packed: bool = False  # the same inside of StreamPredictRequest and StreamPredictResponse


class StreamContext(Protocol):
    async def read(self) -> bytes | None:
        """The next message; None once the caller has ended its side."""

    async def write(self, message: bytes) -> None: ...


class Stream(msgspec.Struct, frozen=True):
    """A dialogue that needs no model. one_request: the caller sends one message."""

    name: str
    run: Callable[[StreamContext], Awaitable[None]]
    one_request: bool = False


Method = Unary | Scoring | ScoringStream | Stream
Methods = Mapping[str, Method]  # by path, such as "/volcast.v1.InferenceService/Predict"
