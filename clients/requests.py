"""Messages of the contract for both clients: requests from rows of a caller, responses, failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict, TypeVar, Unpack

from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from clients.http2 import Fields, Status, call_fields
from clients.opening import Route
from common.errors import VolcastError
from common.rpc_status import DETAILS_KEY, failed_call
from volcast.v1 import (
    DATA_TYPE_FLOAT64,
    HealthResponse,
    ModelSelector,
    NamedRow,
    NamedRows,
    PackedRows,
    PredictRequest,
    PredictResponse,
    StreamPredictResponse,
)

if TYPE_CHECKING:
    from typing import Protocol

    from typing_extensions import Buffer

    class ArrayMemory(Protocol):
        """An array of numpy, whose types declare the buffer protocol from Python 3.12 on only."""

        @property
        def data(self) -> memoryview: ...

    PackedValues = Buffer | ArrayMemory

METHOD_PREFIX = "/volcast.v1.InferenceService/"
Response = TypeVar("Response", PredictResponse, HealthResponse, StreamPredictResponse)


class Query(TypedDict, total=False):
    """Keyword arguments of every prediction: spike size, and levels of quantiles. The server validates them.

    A model that forecasts no distribution refuses them.
    """

    # Spike size: realized volatility of the next 60 s, in basis points. 0: the model's default size.
    spike_bps: float
    # Spike size as a multiple of the trailing hour's volatility of each row. 0: not used. At most one of spike_bps and
    # spike_multiple may be set.
    spike_multiple: float
    # Levels of the quantiles to return: ascending, in (0, 1), at most 16.
    quantiles: Iterable[float]


class Methods(NamedTuple):
    """The header fields of each method's calls."""

    predict: Fields
    health: Fields
    stream: Fields

    @classmethod
    def of(cls, route: Route, timeout_s: float) -> Methods:
        """timeout_s: of unary calls; the server drops a call that is later."""
        shown = route.access.metadata or ()
        limited = (("grpc-timeout", _timeout(timeout_s)), *shown)
        methods = {"Predict": limited, "Health": limited, "StreamPredict": shown}
        return cls(
            *(
                call_fields(METHOD_PREFIX + method, route.authority, route.scheme, metadata)
                for method, metadata in methods.items()
            )
        )


def _timeout(timeout_s: float) -> str:
    """grpc-timeout: at most eight digits and a unit."""
    microseconds = max(1, round(timeout_s * 1e6))
    return f"{microseconds}u" if microseconds < 10**8 else f"{min(microseconds // 1000, 10**8 - 1)}m"


def failure(status: Status, target: str) -> VolcastError:
    """The error of a failed call, with the invalid fields if the server named them."""
    trailers = () if status.details is None else ((DETAILS_KEY, status.details),)
    return failed_call(status.code, status.message, trailers, target)


def decoded(kind: type[Response], message: bytes, target: str) -> Response:
    """The decoded response. Raises VolcastError for bytes that cannot be decoded."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise failure(Status(code_pb2.INTERNAL, f"a response that is not a {kind.DESCRIPTOR.name}"), target) from None


def named_request(
    rows: Sequence[Mapping[str, float]],
    model: ModelSelector | None = None,
    routing_key: str = "",
    **query: Unpack[Query],
) -> PredictRequest:
    """A request with rows as feature name to value.

    >>> named_request([{"price": 65000.0}], quantiles=[0.1, 0.9]).named.rows[0].features["price"]
    65000.0
    """
    named = NamedRows(rows=[NamedRow(features=row) for row in rows])
    return PredictRequest(model=model, named=named, routing_key=routing_key, **query)


def packed_request(
    values: PackedValues,
    row_count: int,
    schema_hash: str,
    model: ModelSelector | None = None,
    routing_key: str = "",
    **query: Unpack[Query],
) -> PredictRequest:
    """A request with packed rows.

    values: a buffer of little-endian float64, row-major, shape (row_count, features of the schema).

    >>> from array import array
    >>> len(packed_request(array("d", range(22)), 2, "6f2d41a0c1b9").packed.values)
    176
    """
    request = PredictRequest(model=model, routing_key=routing_key, **query)
    fill_packed(request.packed, values, row_count, schema_hash)
    return request


def fill_packed(packed: PackedRows, values: PackedValues, row_count: int, schema_hash: str) -> None:
    """Sets the fields in place, since assigning a finished message into another copies it."""
    packed.schema_hash = schema_hash
    packed.data_type = DATA_TYPE_FLOAT64
    packed.row_count = row_count
    packed.values = bytes(values)  # type: ignore[arg-type]  # every ArrayMemory is a buffer


def quantile_rows(response: PredictResponse) -> list[list[float]]:
    """The quantiles of a response, in basis points, as (rows, levels). The levels have the order of the request.

    >>> quantile_rows(PredictResponse(median_bps=[2.0, 3.0], quantile_bps=[1.0, 4.0, 1.5, 6.0]))
    [[1.0, 4.0], [1.5, 6.0]]
    """
    rows, values = len(response.median_bps), list(response.quantile_bps)
    levels = len(values) // rows if rows else 0
    return [values[row * levels : (row + 1) * levels] for row in range(rows)]
