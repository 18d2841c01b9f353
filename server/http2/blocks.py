"""Calls that came as the same bytes over and over, as the rows of one array.

A client that has many unary calls under way writes HEADERS and DATA in turn, alike but for the stream's id and
the numbers in the message. Frames are split and answers are framed for all of them at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.http2 import frames
from server.http2.headers import OK_TRAILERS, RESPONSE, RESPONSE_WORD, TRAILERS_WORD, Head

Bytes = NDArray[np.uint8]
# Fewer calls are split one by one: NumPy's calls cost more than they save.
MIN_COLUMNAR_CALLS = 16
_ID = 5  # where a frame's header has the stream's id
_pack = frames.HEADER.pack


class Block(NamedTuple):
    """Unary calls first_id, first_id + 2, …, each of one message; messages: (calls, length)."""

    first_id: int
    head: Head
    messages: Bytes

    @property
    def ids(self) -> range:
        return range(self.first_id, self.first_id + 2 * len(self.messages), 2)


def matching_prefix(data: bytes, at: int, most: int, header: int, body: int, first_id: int) -> Bytes:
    """As many calls as begin at `at` and are like the first: (calls, header + body + 18), at most `most`.

    header, body: bytes of the payloads of HEADERS and DATA. The first must have been found right; the others are
    compared with it but for what is behind the message's prefix, and with the ids that are to follow.
    """
    period = header + body + 18
    count = min(most, (len(data) - at) // period)
    rows = np.frombuffer(data, np.uint8, count * period, at).reshape(count, period)
    second = 9 + header
    upto = second + 9 + frames.MESSAGE.size
    differs = rows[:, :upto] != rows[0, :upto]
    ids = id_bytes(range(first_id, first_id + 2 * count, 2))
    differs[:, _ID : _ID + 4] = rows[:, _ID : _ID + 4] != ids
    differs[:, second + _ID : second + _ID + 4] = rows[:, second + _ID : second + _ID + 4] != ids
    wrong = differs.any(axis=1)
    return rows[: int(np.argmax(wrong))] if wrong.any() else rows


def id_bytes(ids: range) -> Bytes:
    """As they stand in frames' headers: (ids, 4)."""
    return np.arange(ids.start, ids.stop, ids.step, dtype=">u4").view(np.uint8).reshape(-1, 4)


def fill_template(template: bytes, count: int, *columns: tuple[int, Bytes]) -> bytes:
    """`count` copies of a template, with columns (begin, (count, n)) written over."""
    out = np.empty((count, len(template)), np.uint8)
    out[:] = np.frombuffer(template, np.uint8)
    for begin, values in columns:
        out[:, begin : begin + values.shape[1]] = values
    return out.tobytes()


def response_frames(ids: range, message: bytes, at: int, values: Bytes) -> bytes:
    """Frames of successful answers: `message` with a row of values (calls, n) at `at`."""
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
