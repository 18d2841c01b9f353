"""Templates of requests: locate rows by comparing bytes, without parsing.

Clients repeat the same message with other numbers in it. The bytes before `packed.values` are a prefix that fixes the
meaning of the values: tags, lengths, schema, type, row count. A tail may follow the values: event times and product
ids. No model reads the tail, so only its tags, lengths and counts must be valid. The query of a forecast ends the
message; its bytes are fixed. If a parsed request had the same length, prefix, form of tail and query, a message can
differ from it only in its values. A request that matches no template is parsed (docs/decisions/0009).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import RequestError, VolcastError
from common.http2.frames import MESSAGE
from server.core.arrays import Matrix
from server.core.dataplane import ScoringJob
from server.core.models import Repository
from server.core.requests import DEFAULT_QUERY, ForecastQuery, PredictInput, Selection
from server.core.rows import DTYPES, PackedInput, all_finite
from server.core.snapshot import Model
from server.wire.response import DOUBLE, varint

MAX_ROWS = 1024
MAX_PREFIX_BYTES = 1024  # prefixes of our clients have about 50 bytes; a larger prefix costs too much memory
MAX_TAIL_BYTES = 32 * 1024  # 1,024 rows with an event time and a product id
_MAX_TEMPLATES = 32
_MAX_QUERIES = 16  # of messages of one length. With the longest tails, all templates take 32 MiB
_INVERTED = bytes(byte ^ 0xFF for byte in range(256))
_ID_TAG, _MORE = 0x08, 0x80
_TIMES_TAG, _PRODUCT_TAG = 0x2A, 0x32  # of PackedRows: event_times_ns (packed varints), product_ids
_MAX_TIME_BYTES = 9  # of the varint of an int64 that is not negative
_SIZE_TAG, _MULTIPLE_TAG, _LEVELS_TAG = b"\x29", b"\x31", b"\x3a"  # of PredictRequest: fields 5 to 7
T = TypeVar("T")


class Tail(msgspec.Struct, frozen=True, gc=False):
    """The bytes behind the values. `mask` selects their fixed bits, `bits` has the values of these. Little-endian."""

    size: int
    bits: int
    mask: int

    def matches(self, tail: bytes) -> bool:
        return not (int.from_bytes(tail, "little") ^ self.bits) & self.mask

    def followed_by(self, fixed: bytes) -> Tail:
        """This tail and bytes that must not change."""
        bits = self.bits | int.from_bytes(fixed, "little") << 8 * self.size
        mask = self.mask | (1 << 8 * len(fixed)) - 1 << 8 * self.size
        return Tail(self.size + len(fixed), bits, mask)

    def array(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """bits and mask as arrays (size,)."""
        both = (number.to_bytes(self.size, "little") for number in (self.bits, self.mask))
        bits, mask = (np.frombuffer(number, np.uint8) for number in both)
        return bits, mask


NO_TAIL = Tail(0, 0, 0)


class RequestTemplate(msgspec.Struct, frozen=True, gc=False):
    """The fixed part of a PredictRequest.

    key: the bytes that fix its meaning, the prefix and the query. is_single: its responses differ in length (see
    `response_differs`), so requests of this template are scored one by one.
    """

    prefix: bytes
    selection: Selection
    schema_hash: str
    data_type: int
    rows: int
    values: slice  # position of the values in a message
    tail: Tail = NO_TAIL  # the query included
    query: ForecastQuery = DEFAULT_QUERY
    key: bytes = b""
    is_single: bool = False

    def matches_all(self, messages: NDArray[np.uint8]) -> bool:
        """Whether all messages match. messages: (messages, their length), all of one length."""
        prefix = np.frombuffer(self.prefix, np.uint8)
        if not (messages[:, : len(prefix)] == prefix).all():
            return False
        return not self.tail.size or not _tails_differ(messages, self.tail).any()

    def shares_matrix(self, other: RequestTemplate) -> bool:
        """Whether rows of both fit into one job for one model."""
        if self.is_single or other.is_single:
            return False
        return (self.selection, self.schema_hash, self.data_type, self.query) == (
            other.selection,
            other.schema_hash,
            other.data_type,
            other.query,
        )


class FrameTemplate:
    """The fixed part of a StreamPredictRequest with only frame_id, and then a request of a RequestTemplate.

    head, mask: the bytes of a frame and its gRPC prefix before the values, and the bits of them that all frames of
    this template share.
    """

    __slots__ = ("head", "id_end", "mask", "middle", "request", "values")

    def __init__(self, request: RequestTemplate, raw: bytes, id_end: int, request_at: int) -> None:
        """raw: such a frame. id_end: offset of the end of its frame_id. request_at: offset of its request."""
        self.request = request
        self.id_end = id_end
        self.values = slice(request_at + len(request.prefix), request.values.stop)
        self.middle = raw[id_end:request_at] + request.prefix  # the request's tag and length, its fixed part
        # The id is one varint: its tag, bytes with the highest bit set, and one byte without.
        frame_id = bytes([_ID_TAG, *[_MORE] * (id_end - 2), 0]) if id_end else b""
        id_bits = bytes([0xFF, *[_MORE] * (id_end - 1)]) if id_end else b""
        prefix = MESSAGE.pack(0, len(raw))
        self.head = np.frombuffer(prefix + frame_id + self.middle, np.uint8)
        self.mask = np.frombuffer(b"\xff" * len(prefix) + id_bits + b"\xff" * len(self.middle), np.uint8)

    def count_matching(self, frames: NDArray[np.uint8]) -> int:
        """The number of leading frames that match. frames: (frames, prefix and frame)."""
        differs = ((frames[:, : len(self.head)] ^ self.head) & self.mask).any(axis=1)
        if self.request.tail.size:
            differs |= _tails_differ(frames, self.request.tail)
        return int(np.argmax(differs)) if differs.any() else len(frames)


class ByQuery(Generic[T]):
    """Templates of messages of one length, by the bytes of their query, which end the message."""

    __slots__ = ("by_query", "query_size")

    def __init__(self, query_size: int) -> None:
        self.query_size = query_size
        self.by_query: dict[bytes, T] = {}

    def of(self, raw: bytes) -> T | None:
        return self.by_query.get(raw[-self.query_size :] if self.query_size else b"")


class TemplateCache:
    """The templates of recent requests, by the length of their message and by their query."""

    def __init__(self) -> None:
        self.by_length: dict[int, ByQuery[RequestTemplate]] = {}
        self._frames: dict[int, ByQuery[FrameTemplate]] = {}  # by the length of the whole frame

    def match(self, raw: bytes, at: int = 0) -> RequestTemplate | None:
        """The template of the request that begins at `at`, or None."""
        queries = self.by_length.get(len(raw) - at)
        template = queries.of(raw) if queries is not None else None
        if template is None or not raw.startswith(template.prefix, at):
            return None
        tail = template.tail
        return template if not tail.size or tail.matches(raw[-tail.size :]) else None

    def match_frame(self, raw: bytes) -> FrameTemplate | None:
        """The template of a frame of a stream, or None."""
        queries = self._frames.get(len(raw))
        frame = queries.of(raw) if queries is not None else None
        if frame is not None and raw.startswith(frame.middle, frame.id_end) and _is_id(raw, frame.id_end):
            tail = frame.request.tail
            if not tail.size or tail.matches(raw[-tail.size :]):
                return frame
        id_end, request_at = frame_parts(raw)
        template = self.match(raw, request_at) if request_at else None
        if template is None:
            return None
        frame = FrameTemplate(template, raw, id_end, request_at)
        _keep(self._frames, len(raw), query_fields(template.query), frame)
        return frame

    def learn(self, raw: bytes, request: PredictInput, parse: Callable[[bytes], PredictInput]) -> None:
        """Remembers a valid request that `parse` read from `raw`."""
        rows = request.rows
        if not isinstance(rows, PackedInput) or request.routing_key:
            return
        if rows.row_count > MAX_ROWS or rows.data_type not in DTYPES:
            return
        query = query_fields(request.query)
        if not raw.endswith(query):
            return
        end = len(raw) - len(query)
        values_at, tail = _values_and_tail(raw[:end], rows)
        if not 0 < values_at <= MAX_PREFIX_BYTES:
            return
        # These bytes may equal the values by chance. To exclude that, other bytes replace them and the free bits of the
        # tail, and the message is parsed again: the request must then differ in its values only.
        prefix, probe = raw[:values_at], rows.values.translate(_INVERTED)
        free = (int.from_bytes(raw[end - tail.size : end], "little") ^ ~tail.mask) & (1 << 8 * tail.size) - 1
        try:
            parsed = parse(prefix + probe + free.to_bytes(tail.size, "little") + query)
        except RequestError:
            return
        if parsed != msgspec.structs.replace(request, rows=msgspec.structs.replace(rows, values=probe)):
            return
        tail = tail.followed_by(query)
        template = RequestTemplate(
            prefix,
            request.selection,
            rows.schema_hash,
            rows.data_type,
            rows.row_count,
            slice(len(prefix), -tail.size or None),
            tail,
            request.query,
            prefix + query,
            response_differs(request.query, rows.row_count),
        )
        _keep(self.by_length, len(raw), query, template)


def query_fields(query: ForecastQuery) -> bytes:
    """The fields 5 to 7 of a PredictRequest, as protobuf writes them."""
    size = _SIZE_TAG + DOUBLE.pack(query.spike_bps) if query.spike_bps else b""
    multiple = _MULTIPLE_TAG + DOUBLE.pack(query.spike_multiple) if query.spike_multiple else b""
    count = len(query.levels)
    levels = _LEVELS_TAG + varint(8 * count) + struct.pack(f"<{count}d", *query.levels) if count else b""
    return size + multiple + levels


def response_differs(query: ForecastQuery, rows: int) -> bool:
    """Whether responses to equal queries differ in length: they have a spike size only if all rows share it."""
    return query.spike_multiple != 0 and rows > 1


def _keep(templates: dict[int, ByQuery[T]], length: int, query: bytes, template: T) -> None:
    queries = templates.get(length)
    if queries is None or queries.query_size != len(query):
        if len(templates) >= _MAX_TEMPLATES:
            templates.clear()
        queries = templates[length] = ByQuery(len(query))
    elif len(queries.by_query) >= _MAX_QUERIES:
        queries.by_query.clear()
    queries.by_query[query] = template


def job_for(
    repository: Repository, template: RequestTemplate, values: bytes | NDArray[np.uint8], arrived_ns: int
) -> ScoringJob | None:
    """The job of one request, or of many; None if the slow path must answer: a value or the query is at fault."""
    model = model_for(repository, template)
    matrix = matrix_of(values, template, len(model.schema)) if model is not None else None
    if model is None or matrix is None:
        return None
    try:
        query = model.resolve_query(template.query)
    except RequestError:
        return None
    if query is not None and not query.has_sizes(matrix):
        return None
    return ScoringJob(model, matrix, arrived_ns, query)


def matrix_of(values: bytes | NDArray[np.uint8], template: RequestTemplate, width: int) -> Matrix | None:
    """The matrix (rows, width) in the values of one request, or of many; None if a value is not finite."""
    flat = np.frombuffer(values, DTYPES[template.data_type])
    if not all_finite(flat):  # before the conversion: NumPy warns of a signalling NaN
        return None
    return np.asarray(flat, np.float64).reshape(-1, width)


def model_for(repository: Repository, template: RequestTemplate) -> Model | None:
    """The model that scores requests of this template; None if there is none or its schema has changed."""
    try:
        model = repository.resolve(template.selection)
    except VolcastError:
        return None
    return model if model.schema.hash == template.schema_hash else None


def _tails_differ(messages: NDArray[np.uint8], tail: Tail) -> NDArray[np.bool_]:
    bits, mask = tail.array()
    return np.asarray(((messages[:, -tail.size :] ^ bits) & mask).any(axis=1))


def _values_and_tail(raw: bytes, rows: PackedInput) -> tuple[int, Tail]:
    """The likely offset of the values in a request, and the layout of its tail; (0, NO_TAIL) if unknown."""
    if not rows.event_times and not rows.product_ids:
        return (len(raw) - len(rows.values) if raw.endswith(rows.values) else 0), NO_TAIL
    begin = raw.find(rows.values)
    tail = raw[begin + len(rows.values) :]
    mask = _tail_mask(tail, rows) if begin > 0 and 0 < len(tail) <= MAX_TAIL_BYTES else None
    if mask is None:
        return 0, NO_TAIL
    fixed = int.from_bytes(mask, "little")
    return begin, Tail(len(tail), int.from_bytes(tail, "little") & fixed, fixed)


def _tail_mask(tail: bytes, rows: PackedInput) -> bytes | None:
    """The bits of a tail that must not change: tags, lengths, the ends of varints, and the first bits of ASCII ids.

    None unless the tail has the event times and then the product ids that `rows` counts, and no other field.
    """
    mask = bytearray()
    at = times = products = 0
    while at + 1 < len(tail):
        tag, size, begin = tail[at], 0, at + 1
        for shift in range(0, 21, 7):
            byte = tail[begin] if begin < len(tail) else _MORE
            size |= (byte & 0x7F) << shift
            begin += 1
            if byte < _MORE:
                break
        else:
            return None
        body = tail[begin : begin + size]
        if len(body) != size:
            return None
        if tag == _TIMES_TAG and not times and not products:
            ends = [index for index, byte in enumerate(body) if byte < _MORE]
            widths = [end - start for start, end in zip([-1, *ends], ends, strict=False)]
            if not ends or ends[-1] != size - 1 or max(widths) > _MAX_TIME_BYTES:
                return None
            times = len(ends)
        elif tag == _PRODUCT_TAG and body.isascii():
            products += 1
        else:
            return None
        mask += b"\xff" * (begin - at) + b"\x80" * size
        at = begin + size
    return bytes(mask) if at == len(tail) and (times, products) == (rows.event_times, rows.product_ids) else None


def _is_id(raw: bytes, end: int) -> bool:
    """Whether the bytes before `end` are a frame_id: absent, or one varint."""
    if end == 0:
        return True
    return raw[0] == _ID_TAG and raw[end - 1] < _MORE and (end == 2 or min(raw[1 : end - 1]) >= _MORE)


def frame_parts(raw: bytes) -> tuple[int, int]:
    """Offsets of the end of frame_id and of the PredictRequest in a StreamPredictRequest.

    (0, 0) unless the message has only frame_id (absent if it is 0), and then a request.
    """
    size, at = len(raw), 0
    if size > 1 and raw[0] == _ID_TAG:
        at = 1
        while at < size and raw[at] & _MORE:
            at += 1
        at += 1
    if at >= size or at > 10 or raw[at] != 0x12:  # not all ids of ten bytes are 64-bit numbers
        return 0, 0
    id_end, at, length, shift = at, at + 1, 0, 0
    while at < size and shift < 35:
        byte = raw[at]
        length |= (byte & 0x7F) << shift
        at += 1
        if byte < _MORE:
            return (id_end, at) if at + length == size else (0, 0)
        shift += 7
    return 0, 0
