"""Unary calls with an identical byte layout, as the rows of one array.

A client with many unary calls in flight writes the same frames for each call. Only the stream's id, the increments of
windows and the numbers in the message differ. NumPy splits the frames of all calls at once, and builds the frames of
all responses at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.http2 import frames
from server.http2.headers import OK_TRAILERS, RESPONSE, RESPONSE_WORD, TRAILERS_WORD, Head

Bytes = NDArray[np.uint8]
MIN_COLUMNAR_CALLS = 12  # fewer calls are split one by one, since NumPy's overhead exceeds its gain
MAX_CREDITS = 4  # WINDOW_UPDATE frames of one call
CREDIT_WORD = 4 << 8 | frames.WINDOW_UPDATE  # the first word of the frame
_ID = 5  # offset of the stream's id in a frame's header
_PREFIX = frames.MESSAGE.size
_pack = frames.HEADER.pack
_unpack = frames.HEADER.unpack_from
_unpack_message = frames.MESSAGE.unpack_from


class Block(NamedTuple):
    """Unary calls first_id, first_id + 2, …, each of one message; messages: (calls, length)."""

    first_id: int
    head: Head
    messages: Bytes

    @property
    def ids(self) -> range:
        return range(self.first_id, self.first_id + 2 * len(self.messages), 2)


class CallLayout(NamedTuple):
    """Offsets of the frames of a unary call, counted from its HEADERS frame.

    gRPC's own clients write HEADERS, WINDOW_UPDATE of the stream, DATA, WINDOW_UPDATE of the connection; h2load and
    proxies write HEADERS, DATA.
    """

    period: int  # bytes from one call to the next
    body: int  # bytes of the payload of DATA
    message: int  # offset of the message, behind its prefix
    ids: tuple[int, ...]  # offsets of the stream's id
    stream_credits: tuple[int, ...]  # offsets of the increments of the stream's window
    connection_credits: tuple[int, ...]  # offsets of the increments of the connection's window


def call_layout(data: bytes, at: int, header: int, stream_id: int) -> CallLayout | None:
    """The layout of the call at `at`; None if the call cannot be part of a block.

    header: bytes of the payload of its HEADERS frame. The call ends at the next HEADERS frame. Before that, it has one
    DATA frame with an uncompressed message, and otherwise only WINDOW_UPDATE frames.
    """
    end, position = len(data), at + 9 + header
    if (layout := _two_frames(data, at, position, stream_id)) is not None:
        return layout
    body = message = 0
    ids: list[int] = [_ID]
    stream_credits: list[int] = []
    connection_credits: list[int] = []
    while position + 9 <= end and len(stream_credits) + len(connection_credits) <= MAX_CREDITS:
        word, flags, frame_stream = _unpack(data, position)
        length = word >> 8
        if word == CREDIT_WORD and frame_stream == stream_id:
            ids.append(position - at + _ID)
            stream_credits.append(position - at + 9)
        elif word == CREDIT_WORD and not frame_stream:
            connection_credits.append(position - at + 9)
        elif not body and length >= _PREFIX and (word & 0xFF, flags, frame_stream) == (frames.DATA, 1, stream_id):
            if position + 9 + length > end or _unpack_message(data, position + 9) != (0, length - _PREFIX):
                return None
            ids.append(position - at + _ID)
            body, message = length, position - at + 9 + _PREFIX
        else:
            is_next = body and word & 0xFF == frames.HEADERS
            credits = tuple(stream_credits), tuple(connection_credits)
            return CallLayout(position - at, body, message, tuple(ids), *credits) if is_next else None
        position += 9 + length
    return None


def _two_frames(data: bytes, at: int, position: int, stream_id: int) -> CallLayout | None:
    """The most common layout, HEADERS and DATA, in a third of the time."""
    if len(data) - position < 9 + _PREFIX:
        return None
    word, flags, data_id = _unpack(data, position)
    length = word >> 8
    behind = position + 9 + length
    if (
        data_id != stream_id
        or flags != frames.END_STREAM
        or word & 0xFF != frames.DATA
        or length < _PREFIX
        or behind + 9 > len(data)
        or data[behind + 3] != frames.HEADERS
        or _unpack_message(data, position + 9) != (0, length - _PREFIX)
    ):
        return None
    begin = position - at
    return CallLayout(behind - at, length, begin + 9 + _PREFIX, (_ID, begin + _ID), (), ())


def matching_prefix(data: bytes, at: int, limit: int, layout: CallLayout, first_id: int) -> Bytes:
    """The calls from `at` on that match the first call: (calls, period), at most `limit`.

    The caller has validated the first call. Each following call must match it byte for byte, except the message body
    and the increments of windows, and must carry the next stream id.
    """
    period = layout.period
    count = min(limit, (len(data) - at) // period)
    rows = np.frombuffer(data, np.uint8, count * period, at).reshape(count, period)
    differs = rows[:, : layout.message] != rows[0, : layout.message]
    behind = layout.message + layout.body - _PREFIX
    differs_behind = rows[:, behind:] != rows[0, behind:] if behind < period else differs
    ids = id_bytes(range(first_id, first_id + 2 * count, 2))
    for begin in layout.ids:
        columns, offset = (differs, 0) if begin < layout.message else (differs_behind, behind)
        columns[:, begin - offset : begin - offset + 4] = rows[:, begin : begin + 4] != ids
    for begin in (*layout.stream_credits, *layout.connection_credits):
        columns, offset = (differs, 0) if begin < layout.message else (differs_behind, behind)
        columns[:, begin - offset : begin - offset + 4] = False
        columns[:, begin - offset] = _increments(rows, begin) == 0
    wrong = differs.any(axis=1)
    if behind < period:
        wrong |= differs_behind.any(axis=1)
    return rows[: int(np.argmax(wrong))] if wrong.any() else rows


def credit(rows: Bytes, offsets: tuple[int, ...]) -> NDArray[np.int64] | None:
    """The sum of each call's increments of a window: (calls,); None if the layout has no increment."""
    if not offsets:
        return None
    total = _increments(rows, offsets[0])
    for begin in offsets[1:]:
        total = total + _increments(rows, begin)
    return total


def _increments(rows: Bytes, begin: int) -> NDArray[np.int64]:
    words: NDArray[np.int64] = rows[:, begin : begin + 4].view(">u4").ravel().astype(np.int64)
    return words & frames.MAX_WINDOW


def id_bytes(ids: range) -> Bytes:
    """The ids in the encoding of frame headers: (ids, 4)."""
    return np.arange(ids.start, ids.stop, ids.step, dtype=">u4").view(np.uint8).reshape(-1, 4)


def fill_template(template: bytes, count: int, *columns: tuple[int, Bytes]) -> bytes:
    """`count` copies of a template. Each column (begin, (count, n)) overwrites n bytes from `begin` on."""
    out = np.empty((count, len(template)), np.uint8)
    out[:] = np.frombuffer(template, np.uint8)
    for begin, values in columns:
        out[:, begin : begin + values.shape[1]] = values
    return out.tobytes()


def response_frames(ids: range, message: bytes, at: int, values: Bytes) -> bytes:
    """Frames of successful responses: `message`, with one row of `values` (calls, n) per response at offset `at`."""
    head = _pack(RESPONSE_WORD, frames.END_HEADERS, 0) + RESPONSE
    body = frames.MESSAGE.pack(0, len(message)) + message
    data = _pack(len(body) << 8, 0, 0) + body
    tail = _pack(TRAILERS_WORD, frames.END_HEADERS | frames.END_STREAM, 0) + OK_TRAILERS
    begins, shown = (0, len(head), len(head) + len(data)), id_bytes(ids)
    columns = [(begin + _ID, shown) for begin in begins]
    at += len(head) + len(data) - len(message)
    return fill_template(head + data + tail, len(ids), *columns, (at, values))


def failure_frames(ids: range, block: bytes) -> bytes:
    """Frames that end calls with one header block."""
    flags = frames.END_HEADERS | frames.END_STREAM
    return fill_template(_pack(len(block) << 8 | frames.HEADERS, flags, 0) + block, len(ids), (_ID, id_bytes(ids)))
