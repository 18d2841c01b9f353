"""Requests that look like the one before: their rows found by comparing bytes, without parsing.

Clients send the same message again and again with other numbers in it. Once a request has been parsed and
its `packed.values` were the end of the message, everything before them is a prefix that says what they
are: tags, lengths, schema, type, row count. A message of the same length that begins with the same prefix
can only differ in the values. What is not recognized is parsed, as if this were not here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import RequestError, VolcastError
from server.core.arrays import Matrix
from server.core.dataplane import Result, ScoringJob
from server.core.models import Repository
from server.core.requests import PredictInput, Selection
from server.core.rows import DTYPES, PackedInput, all_finite
from server.core.snapshot import Model, ModelSnapshot
from server.http2.frames import MESSAGE

MAX_ROWS = 1024
MAX_PREFIX = 1024  # bytes before the values; all of our clients' are some 50, and what is remembered is to stay small
_REMEMBERED = 32
_OTHER = bytes(byte ^ 0xFF for byte in range(256))
_ID_TAG, _MORE = 0x08, 0x80
_DOUBLE = struct.Struct("<d")


class Form(msgspec.Struct, frozen=True, gc=False):
    """What a recognized PredictRequest is."""

    prefix: bytes
    selection: Selection
    schema_hash: str
    data_type: int
    rows: int


class FrameForm:
    """What a recognized StreamPredictRequest is: frame_id, then a request of `form`, and nothing else.

    template, mask: what stands before the values of a frame behind its prefix, and the bits of it that all frames
    of this form share.
    """

    __slots__ = ("at", "form", "id_end", "marker", "mask", "template")

    def __init__(self, form: Form, raw: bytes, id_end: int, at: int) -> None:
        """raw: such a frame. id_end: where its frame_id ends. at: where the request begins."""
        self.form = form
        self.id_end = id_end
        self.at = at
        self.marker = raw[id_end:at] + form.prefix  # the request's tag and length, the form's prefix
        # The id is one varint: its tag, bytes with the highest bit set, and one without.
        one = bytes([_ID_TAG, *[_MORE] * (id_end - 2), 0]) if id_end else b""
        bits = bytes([0xFF, *[_MORE] * (id_end - 1)]) if id_end else b""
        prefix = MESSAGE.pack(0, len(raw))
        self.template = np.frombuffer(prefix + one + self.marker, np.uint8)
        self.mask = np.frombuffer(b"\xff" * len(prefix) + bits + b"\xff" * len(self.marker), np.uint8)

    def alike(self, rows: NDArray[np.uint8]) -> int:
        """How many of (frames, prefix and frame) are of this form, before the first that is not."""
        wrong = ((rows[:, : len(self.template)] ^ self.template) & self.mask).any(axis=1)
        return int(np.argmax(wrong)) if wrong.any() else len(rows)


class Forms:
    """The forms seen lately, by the length of their message."""

    def __init__(self) -> None:
        self.by_length: dict[int, Form] = {}
        self._frames: dict[int, FrameForm] = {}  # by the length of the whole frame

    def of(self, raw: bytes, at: int = 0) -> Form | None:
        """The form of the request that begins at `at`; None where it is not recognized."""
        form = self.by_length.get(len(raw) - at)
        return form if form is not None and raw.startswith(form.prefix, at) else None

    def frame(self, raw: bytes) -> FrameForm | None:
        """The form of a frame of a stream; None where it is not recognized."""
        known = self._frames.get(len(raw))
        if known is not None and raw.startswith(known.marker, known.id_end) and _is_id(raw, known.id_end):
            return known
        id_end, at = frame_parts(raw)
        form = self.of(raw, at) if at else None
        if form is None:
            return None
        known = FrameForm(form, raw, id_end, at)
        if len(self._frames) >= _REMEMBERED:
            self._frames.clear()
        self._frames[len(raw)] = known
        return known

    def learn(self, raw: bytes, request: PredictInput, reads_as: Callable[[bytes], PredictInput]) -> None:
        """Remembers a request that was parsed from `raw` by `reads_as` and found right."""
        rows = request.rows
        if not isinstance(rows, PackedInput) or request.routing_key or rows.event_times or rows.product_ids:
            return
        if rows.row_count > MAX_ROWS or rows.data_type not in DTYPES or not raw.endswith(rows.values):
            return
        prefix = raw[: len(raw) - len(rows.values)]
        if len(prefix) > MAX_PREFIX:
            return
        # That the message ends as its values do may be chance: other bytes in their place must be other values.
        others = rows.values.translate(_OTHER)
        try:
            found = reads_as(prefix + others)
        except RequestError:
            return
        if found != PredictInput(msgspec.structs.replace(rows, values=others), request.selection):
            return
        if len(self.by_length) >= _REMEMBERED:
            self.by_length.clear()
        self._frames.clear()
        self.by_length[len(raw)] = Form(prefix, request.selection, rows.schema_hash, rows.data_type, rows.row_count)


def answer_prefix(model: Model) -> bytes:
    """The fields of PredictResponse that every answer of a model has: its name, version and threshold."""
    name, version = model.name.encode(), model.version.encode()
    return (
        b"\x0a"
        + varint(len(name))
        + name
        + b"\x12"
        + varint(len(version))
        + version
        + (b"\x19" + _DOUBLE.pack(model.threshold))
    )


class Prefixes:
    """`answer_prefix` of the models that answer now."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._snapshot: ModelSnapshot | None = None
        self._known: dict[Model, bytes] = {}

    def of(self, model: Model) -> bytes:
        snapshot = self._repository.snapshot
        if snapshot is not self._snapshot:  # models that went are not kept for this
            self._known.clear()
            self._snapshot = snapshot
        known = self._known.get(model)
        if known is None:
            known = self._known[model] = answer_prefix(model)
        return known


def answer_suffix(queue_ns: int, compute_ns: int) -> bytes:
    return b"\x28" + varint(max(0, queue_ns)) + b"\x30" + varint(max(0, compute_ns))


def job_of(raw: bytes, form: Form, repository: Repository, arrived_ns: int) -> ScoringJob | None:
    """A recognized request as a job; None where it must be parsed to be told what is wrong with it."""
    model = model_for(repository, form)
    if model is None:
        return None
    matrix = matrix_of(memoryview(raw)[len(form.prefix) :], form, len(model.schema))
    return None if matrix is None else ScoringJob(model, matrix, arrived_ns)


def matrix_of(values: bytes | memoryview | NDArray[np.uint8], form: Form, width: int) -> Matrix | None:
    """The rows in the values of one request, or of many of this form; None where one is not finite."""
    flat = np.frombuffer(values, DTYPES[form.data_type])
    if not all_finite(flat):  # before they are widened: NumPy warns of a signalling NaN
        return None
    return np.asarray(flat, np.float64).reshape(-1, width)


def model_for(repository: Repository, form: Form) -> Model | None:
    """The model that scores requests of this form; None where they must be told that they are at fault."""
    try:
        model = repository.resolve(form.selection)
    except VolcastError:
        return None
    return model if model.schema.hash == form.schema_hash else None


def answer_of(result: Result) -> bytes:
    """A PredictResponse."""
    values = result.probabilities.astype("<f8", copy=False).tobytes()
    suffix = answer_suffix(result.queue_ns, result.compute_ns)
    return answer_prefix(result.model) + b"\x22" + varint(len(values)) + values + suffix


def varint(number: int) -> bytes:
    """A protobuf varint (Protocol Buffers, Encoding)."""
    if number < 1 << 7:
        return bytes((number,))
    if number < 1 << 14:  # as most times are, in nanoseconds: half of what the loop costs
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 1 << 21:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    out = bytearray()
    while number >= 128:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _is_id(raw: bytes, end: int) -> bool:
    """Whether a frame_id, absent or one varint, is what stands before `end`."""
    if end == 0:
        return True
    return raw[0] == 0x08 and raw[end - 1] < 0x80 and (end == 2 or min(raw[1 : end - 1]) >= 0x80)


def frame_parts(raw: bytes) -> tuple[int, int]:
    """Where frame_id ends and where the PredictRequest begins in a StreamPredictRequest.

    (0, 0) where it is not frame_id (absent where it is 0), then a request, and nothing else.
    """
    size, at = len(raw), 0
    if size > 1 and raw[0] == 0x08:
        at = 1
        while at < size and raw[at] & 0x80:
            at += 1
        at += 1
    if at >= size or at > 10 or raw[at] != 0x12:  # ids of ten bytes are not all 64-bit numbers
        return 0, 0
    id_end, at, length, shift = at, at + 1, 0, 0
    while at < size and shift < 35:
        byte = raw[at]
        length |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return (id_end, at) if at + length == size else (0, 0)
        shift += 7
    return 0, 0
