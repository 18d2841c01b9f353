"""Many requests of one shape at once: checked, read and answered as rows of one array of bytes.

A client with many calls under way writes the same bytes again and again: the same headers, the same tags and
lengths, other numbers. What has arrived of them is then a matrix of bytes, a request a row, in which a few
columns differ. NumPy compares the others with the first row's, takes the values out as columns, and writes
the answers as rows of a template. A row that differs elsewhere goes the way of single requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.errors import VolcastError
from server.core.batcher import DEADLINE_PASSED
from server.core.dataplane import Job, Outcome
from server.core.requests import Matrix, Result
from server.core.rows import DTYPES, all_finite
from server.grpc.forms import Form, FrameForm, answer_prefix, answer_suffix, varint
from server.http2.blocks import Bytes, filled
from server.http2.frames import MESSAGE
from server.http2.headers import NO_TIMEOUT

if TYPE_CHECKING:
    from server.native.calls import FrameStream
    from server.native.front import Link, NativeFront

FLOAT64 = np.dtype(np.float64)
_ID_TAG, _MORE = 0x08, 0x80
# Calls answered by one write: the caller reads the first while the last are written.
SENT_AT_ONCE = 16


def frames_alike(messages: Bytes, known: FrameForm) -> bool:
    """Whether all of (frames, length) are of this form: an id of one varint, the marker, values."""
    end = known.id_end
    marker = np.frombuffer(known.marker, np.uint8)
    if not (messages[:, end : end + len(marker)] == marker).all():
        return False
    if end == 0:
        return True
    return bool(
        (messages[:, 0] == _ID_TAG).all()
        and (messages[:, end - 1] < _MORE).all()
        and (messages[:, 1 : end - 1] >= _MORE).all()
    )


def matrix_of(messages: Bytes, form: Form, begin: int, width: int) -> Matrix | None:
    """The rows of all requests, in order, from the values that begin at a column; None where one is not finite."""
    values = np.ascontiguousarray(messages[:, begin:]).reshape(-1).view(DTYPES[form.data_type])
    if not all_finite(values):  # before they are widened: NumPy warns of a signalling NaN
        return None
    return np.asarray(values, FLOAT64).reshape(-1, width)


def _body(result: Result, rows: int, queue_ns: int) -> tuple[bytes, int]:
    """A PredictResponse of `rows` probabilities, and where they stand in it."""
    head = answer_prefix(result) + b"\x22" + varint(8 * rows)
    return head + bytes(8 * rows) + answer_suffix(queue_ns, result.compute_ns), len(head)


def _probabilities(result: Result, rows: int) -> Bytes:
    values = np.ascontiguousarray(result.probabilities, "<f8")
    return values.view(np.uint8).reshape(-1, 8 * rows)


class FrameBlock:
    """Work of the batcher: frames of one stream that are alike."""

    __slots__ = ("_arrived_ns", "_call", "_known", "_messages", "deadline_ns", "job")

    def __init__(self, call: FrameStream, messages: Bytes, known: FrameForm, job: Job) -> None:
        self._call = call
        self._messages = messages
        self._known = known
        self._arrived_ns = job.arrived_ns
        self.job: Job | VolcastError = job
        self.deadline_ns: int | None = None  # the stream's own deadline ends the stream

    @property
    def cancelled(self) -> bool:
        return self._call.ended

    def finish(self, outcome: Outcome) -> None:
        call, messages, known = self._call, self._messages, self._known
        if not isinstance(outcome, Result):
            for one in messages:
                call.put_again(one.tobytes(), self._arrived_ns)
            return
        rows = known.form.rows
        body, at = _body(outcome, rows, outcome.queue_ns)
        marker = b"\x12" + varint(len(body))
        head = MESSAGE.pack(0, known.id_end + len(marker) + len(body))
        template = head + bytes(known.id_end) + marker + body
        at += len(template) - len(body)
        ids = messages[:, : known.id_end]
        answers = filled(template, len(messages), (len(head), ids), (at, _probabilities(outcome, rows)))
        front = call.link.front
        call.answered_by(answers, len(messages))
        front.metrics.requests([("StreamPredict", self._arrived_ns, len(messages))], front.now_ns())


class CallBlock:
    """Work of the batcher: unary calls of one connection that are alike."""

    __slots__ = ("_arrived_ns", "_form", "_front", "_ids", "_link", "_messages", "cancelled", "deadline_ns", "job")

    def __init__(
        self, front: NativeFront, link: Link, ids: range, messages: Bytes, form: Form, job: Job, timeout_ns: int
    ) -> None:
        self._front = front
        self._link = link
        self._ids = ids
        self._messages = messages
        self._form = form
        self._arrived_ns = job.arrived_ns
        self.job: Job | VolcastError = job
        self.deadline_ns = None if timeout_ns == NO_TIMEOUT else job.arrived_ns + timeout_ns
        self.cancelled = False  # whoever has gone meanwhile is answered by nothing

    def finish(self, outcome: Outcome) -> None:
        front, link, ids = self._front, self._link, self._ids
        front.in_blocks -= len(ids)
        if outcome is DEADLINE_PASSED:
            for one in ids:
                front.late(link, one, DEADLINE_PASSED)
            return
        if not isinstance(outcome, Result):
            front.alone(link, ids, self._messages)
            return
        rows = self._form.rows
        values = _probabilities(outcome, rows)
        body, at = _body(outcome, rows, outcome.queue_ns)
        connection = link.connection
        for begin in range(0, len(ids), SENT_AT_ONCE):
            some, own = ids[begin : begin + SENT_AT_ONCE], values[begin : begin + SENT_AT_ONCE]
            if not connection.respond_block(some, body, at, own):
                for stream_id, one in zip(some, own, strict=True):
                    connection.respond_short(stream_id, body[:at] + one.tobytes() + body[at + 8 * rows :])
            if begin + SENT_AT_ONCE < len(ids):
                link.flush()
        front.dirty[link] = None
        front.metrics.requests([("Predict", self._arrived_ns, len(ids))], front.now_ns())
