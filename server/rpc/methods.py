"""gRPC methods, independent of the front: bytes in, bytes out.

A service (server.rpc.inference, health, reflection, server.oip) provides a table from path to method. Both fronts
(server.grpcio.front, server.native) serve every table in the same way. If a method raises an error,
common.rpc_status maps the error to the call's status.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Protocol

import msgspec

from common.errors import VolcastError
from server.core.dataplane import Result
from server.core.requests import PredictInput


class Unary(msgspec.Struct, frozen=True):
    """A method that responds at once, without the queue in front of the model."""

    packed: ClassVar[bool] = False

    name: str
    respond: Callable[[bytes], bytes]


class Scoring(msgspec.Struct, frozen=True):
    """A unary method that scores rows in a batch.

    decode: parses a request and returns the input and an encoder of the response. Raises RequestError.
    packed: the request is a PredictRequest and the response a PredictResponse, whose bytes server.wire.templates
    recognizes.
    """

    name: str
    decode: Callable[[bytes], tuple[PredictInput, Callable[[Result], bytes]]]
    packed: bool = False


class Frame(Protocol):
    """One message of a scoring stream."""

    input: PredictInput | VolcastError  # an error fails this frame; the stream continues

    def encode(self, result: Result) -> bytes: ...

    def fail(self, error: Exception) -> bytes: ...


class ScoringStream(msgspec.Struct, frozen=True):
    """A bidirectional method that scores frames in batches and responds in the order of the frames.

    packed: frames are StreamPredictRequest and StreamPredictResponse, as for `Scoring`.
    """

    name: str
    decode: Callable[[bytes], Frame]
    packed: bool = False


class StreamContext(Protocol):
    async def read(self) -> bytes | None:
        """Returns the next message; None if the caller has closed its side of the stream."""

    async def write(self, message: bytes) -> None: ...


class StreamMethod(msgspec.Struct, frozen=True):
    """A streaming method that needs no model. one_request: the caller sends a single message."""

    name: str
    run: Callable[[StreamContext], Awaitable[None]]
    one_request: bool = False


Method = Unary | Scoring | ScoringStream | StreamMethod
Methods = Mapping[str, Method]  # by path, such as "/volcast.v1.InferenceService/Predict"
