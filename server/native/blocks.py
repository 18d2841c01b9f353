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
from server.core.batcher import DEADLINE_PASSED, INLINE_ROWS
from server.core.dataplane import Outcome, Result, ScoringJob
from server.http2.blocks import LEAST, Block, Bytes, filled
from server.http2.frames import MESSAGE
from server.http2.headers import NO_TIMEOUT
from server.wire.templates import Form, FrameForm, answer_suffix, matrix_of, model_for, varint

if TYPE_CHECKING:
    from server.native.calls import FrameStream
    from server.native.front import NativeFront
    from server.native.link import Link

# Calls answered by one write: the caller reads the first while the last are written.
SENT_AT_ONCE = 16


def _body(front: NativeFront, result: Result, rows: int) -> tuple[bytes, int]:
    """A PredictResponse of `rows` probabilities, and where they stand in it."""
    head = front.prefixes.of(result.model) + b"\x22" + varint(8 * rows)
    return head + bytes(8 * rows) + answer_suffix(result.queue_ns, result.compute_ns), len(head)


def _probabilities(result: Result, rows: int) -> Bytes:
    values = np.ascontiguousarray(result.probabilities, "<f8")
    return values.view(np.uint8).reshape(-1, 8 * rows)


class FrameBlock:
    """Work of the batcher: frames of one stream that are alike."""

    __slots__ = ("_arrived_ns", "_call", "_known", "_messages", "deadline_ns", "job")

    def __init__(self, call: FrameStream, messages: Bytes, known: FrameForm, job: ScoringJob) -> None:
        self._call = call
        self._messages = messages
        self._known = known
        self._arrived_ns = job.arrived_ns
        self.job: ScoringJob | VolcastError = job
        self.deadline_ns: int | None = None  # the stream's own deadline ends the stream

    @property
    def cancelled(self) -> bool:
        return self._call.ended

    def finish(self, outcome: Outcome) -> None:
        call, messages, known = self._call, self._messages, self._known
        front = call.link.front
        if not isinstance(outcome, Result):
            for one in messages:
                call.run_now(one.tobytes(), self._arrived_ns)
            return
        rows = known.form.rows
        body, at = _body(front, outcome, rows)
        marker = b"\x12" + varint(len(body))
        head = MESSAGE.pack(0, known.id_end + len(marker) + len(body))
        template = head + bytes(known.id_end) + marker + body
        at += len(template) - len(body)
        ids = messages[:, : known.id_end]
        answers = filled(template, len(messages), (len(head), ids), (at, _probabilities(outcome, rows)))
        call.answered_by(answers, len(messages))
        front.metrics.requests([("StreamPredict", self._arrived_ns, len(messages))], front.now_ns())


class CallBlock:
    """Work of the batcher: unary calls of one connection that are alike."""

    __slots__ = ("_arrived_ns", "_form", "_front", "_ids", "_link", "_messages", "cancelled", "deadline_ns", "job")

    def __init__(
        self, front: NativeFront, link: Link, ids: range, messages: Bytes, form: Form, job: ScoringJob, timeout_ns: int
    ) -> None:
        self._front = front
        self._link = link
        self._ids = ids
        self._messages = messages
        self._form = form
        self._arrived_ns = job.arrived_ns
        self.job: ScoringJob | VolcastError = job
        self.deadline_ns = None if timeout_ns == NO_TIMEOUT else job.arrived_ns + timeout_ns
        self.cancelled = False  # whoever has gone meanwhile is answered by nothing

    def finish(self, outcome: Outcome) -> None:
        front, link, ids = self._front, self._link, self._ids
        front.blocks.waiting -= len(ids)
        if outcome is DEADLINE_PASSED:
            for one in ids:
                front.late(link, one, DEADLINE_PASSED, self._arrived_ns)
            return
        if not isinstance(outcome, Result):
            for stream_id, one in zip(ids, self._messages, strict=True):
                front.ordinary_call(link, stream_id, one.tobytes(), self._arrived_ns)
            return
        rows = self._form.rows
        values = _probabilities(outcome, rows)
        body, at = _body(front, outcome, rows)
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


class Blocks:
    """The way of unary calls that came alike to the batcher, as Lane is of single ones."""

    def __init__(self, front: NativeFront, max_batch_rows: int, refusal: bytes) -> None:
        """refusal: the block that ends calls for which there is no room."""
        self._front = front
        self._most_rows = min(INLINE_ROWS, max_batch_rows)
        self._refusal = refusal
        self.waiting = 0  # calls

    def take(self, link: Link, now_ns: int) -> None:
        """As many as there is room for; the others are refused."""
        front, connection = self._front, link.connection
        blocks, connection.blocks = connection.blocks, []
        for block in blocks:
            room = max(0, front.room)
            ids, messages = block.ids, block.messages
            if room < len(ids):
                connection.fail_block(ids[room:], self._refusal)
                front.metrics.refused({block.head.method.name: len(ids) - room})
            self._put(link, Block(block.first_id, block.head, messages[:room]), now_ns)
        front.dirty[link] = None

    def _put(self, link: Link, block: Block, now_ns: int) -> None:
        """As works of a size that may run on the loop; as single calls where they are not worth it."""
        front, form = self._front, self._form(block)
        model = model_for(front.plane.repository, form) if form is not None else None
        matrix = None
        if form is not None and model is not None:
            matrix = matrix_of(np.ascontiguousarray(block.messages[:, len(form.prefix) :]), form, len(model.schema))
        if form is None or model is None or matrix is None:
            link.connection.calls += [
                (stream_id, block.head, one.tobytes()) for stream_id, one in zip(block.ids, block.messages, strict=True)
            ]
            return
        self.waiting += len(block.messages)
        step, timeout_ns = self._most_rows // form.rows, block.head.timeout_ns
        for begin in range(0, len(block.messages), step):
            ids, messages = block.ids[begin : begin + step], block.messages[begin : begin + step]
            job = ScoringJob(model, matrix[begin * form.rows : (begin + step) * form.rows], now_ns)
            front.batches.put(CallBlock(front, link, ids, messages, form, job, timeout_ns))

    def _form(self, block: Block) -> Form | None:
        """What all of its messages are; None where one is something else, or a work would hold too few of them."""
        front, messages = self._front, block.messages
        if not len(messages) or not block.head.method.packed or not front.state.accepting:
            return None
        form = front.forms.of(messages[0].tobytes())
        if form is None or form.rows * LEAST > self._most_rows:
            return None
        prefix = np.frombuffer(form.prefix, np.uint8)
        return form if (messages[:, : len(prefix)] == prefix).all() else None
