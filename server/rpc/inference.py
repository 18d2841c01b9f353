"""The methods of volcast.v1.InferenceService."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from common.errors import RequestError, VolcastError
from common.rpc_status import to_status
from server.core.dataplane import Result
from server.core.models import Repository
from server.core.requests import PredictInput
from server.rpc.convert import health_response, predict_input, predict_response
from server.rpc.methods import Methods, Scoring, ScoringStream, Unary
from server.runtime.state import ServerState
from volcast.v1 import PredictRequest, StreamPredictRequest, StreamPredictResponse

SERVICE = "volcast.v1.InferenceService"
_FRAME_ID = re.compile(rb"\x08[\x80-\xff]{0,9}[\x00-\x7f]")  # field 1, at the start of a frame


def methods(repository: Repository, state: ServerState) -> Methods:
    def health(raw: bytes) -> bytes:
        return health_response(repository.snapshot, repository.default_model, state).SerializeToString()

    return {
        f"/{SERVICE}/Predict": Scoring("Predict", _decode_predict, packed=True),
        f"/{SERVICE}/StreamPredict": ScoringStream("StreamPredict", PredictFrame, packed=True),
        f"/{SERVICE}/Health": Unary("Health", health),
    }


def read_predict(raw: bytes) -> PredictInput:
    return predict_input(parse(PredictRequest, raw))


def _decode_predict(raw: bytes) -> tuple[PredictInput, Callable[[Result], bytes]]:
    return read_predict(raw), _encode_predict


def _encode_predict(result: Result) -> bytes:
    return predict_response(result).SerializeToString()


class PredictFrame:
    """One frame of StreamPredict.

    If the frame cannot be parsed, its id is read from the frame's first field. Without such a field the id is 0.
    """

    __slots__ = ("_frame_id", "input")

    def __init__(self, raw: bytes) -> None:
        self.input: PredictInput | VolcastError
        try:
            frame = self._parse(raw)
            self._frame_id = frame.frame_id
            if not frame.HasField("request"):
                raise RequestError.of("request", "expected a PredictRequest, got none")
            self.input = predict_input(frame.request)
        except RequestError as error:
            self.input = error

    def _parse(self, raw: bytes) -> Any:
        self._frame_id = 0
        try:
            return parse(StreamPredictRequest, raw)
        except RequestError:
            field = _FRAME_ID.match(raw)
            if field is not None:
                self._frame_id = StreamPredictRequest.FromString(field[0]).frame_id
            raise

    def encode(self, result: Result) -> bytes:
        return StreamPredictResponse(frame_id=self._frame_id, response=predict_response(result)).SerializeToString()

    def fail(self, error: Exception) -> bytes:
        return StreamPredictResponse(frame_id=self._frame_id, error=to_status(error)).SerializeToString()


def parse(kind: Any, raw: bytes) -> Any:
    """Parses a message; raises RequestError.

    If grpcio parsed the message itself, a malformed message would end with UNKNOWN and the parser's text. A
    RequestError becomes INVALID_ARGUMENT.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise RequestError.of("request", f"the bytes are no {kind.DESCRIPTOR.full_name}") from None
