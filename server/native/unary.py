"""Unary calls, from a read to their responses.

A read is split into runs: consecutive calls whose rows share one matrix. A run is one work item of the batcher. If
nothing is queued, a single call of one row is scored at once instead. A call that matches no template, and every call
of a run that could not be scored as a whole, takes the slow path: it is parsed, checked and answered through protobuf.
The slow path is the reference: tests compare the fast path with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from common.errors import VolcastError
from common.rpc_status import to_status
from server.core.batcher import DEADLINE_PASSED, Work
from server.core.dataplane import Outcome, Result, ScoringJob
from server.http2.blocks import MIN_COLUMNAR_CALLS as MIN_COLUMNAR_CALLS
from server.http2.blocks import Block, Bytes
from server.http2.headers import NO_TIMEOUT, Head, failure
from server.http2.status import RESOURCE_EXHAUSTED
from server.native.connection import ServerConnection
from server.native.serving import Serving
from server.rpc.inference import read_predict
from server.rpc.methods import Unary
from server.wire.inline import MIN_INLINE_TIMEOUT_NS
from server.wire.response import before_values, bodies, body_bytes, body_rows
from server.wire.templates import RequestTemplate, job_for

Call = tuple[int, Head, bytes]  # stream id, headers, message
CALLS_PER_WRITE = 8  # the peer reads the first responses while the last are written
COLUMNAR_CALLS_PER_WRITE = 128
MIN_VIEW_ROWS = 32  # a memoryview costs more than the copy of fewer rows


class UnaryCalls:
    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        overloaded = to_status(serving.batches.overloaded)
        self._refusal = failure(RESOURCE_EXHAUSTED, overloaded.message, overloaded.SerializeToString(), started=False)

    def accept(self, connection: ServerConnection, calls: list[Call], now_ns: int) -> None:
        """Scores, queues, answers or refuses complete calls of one read."""
        if len(calls) == 1 and self._serving.may_score_inline and self._score_inline(connection, *calls[0], now_ns):
            return
        templates, accepting = self._serving.templates, self._serving.state.accepting
        max_rows = self._serving.max_run_rows
        run: list[Call] = []
        run_templates: list[RequestTemplate] = []
        rows = 0
        for call in self._admitted(connection, calls):
            _, head, raw = call
            template = templates.match(raw) if accepting and head.method.packed else None
            if template is None:
                self._slow(connection, call, now_ns)
                continue
            if run and (
                rows + template.rows > max_rows
                or template.is_single
                or (template is not run_templates[-1] and not template.shares_matrix(run_templates[-1]))
            ):
                self._put_run(connection, run, run_templates, now_ns)
                run, run_templates, rows = [], [], 0
            run.append(call)
            run_templates.append(template)
            rows += template.rows
        if run:
            self._put_run(connection, run, run_templates, now_ns)

    def accept_block(self, connection: ServerConnection, block: Block, now_ns: int) -> None:
        """As `accept`, for calls that are the rows of one array."""
        serving, ids, messages = self._serving, block.ids, block.messages
        room = serving.batches.batcher.room
        if room < len(ids):
            self._refuse(connection, ids[room:], block.head.method.name)
            ids, messages = ids[:room], messages[:room]
        template = self._block_template(block.head, messages)
        job = None
        if template is not None:
            values = np.ascontiguousarray(messages[:, template.values])
            job = job_for(serving.plane.repository, template, values, now_ns)
        if template is None or job is None:
            calls = [(id_, block.head, raw.tobytes()) for id_, raw in zip(ids, messages, strict=True)]
            self.accept(connection, calls, now_ns)
            return
        step, rows = serving.max_run_rows // template.rows, template.rows
        deadline_ns = _deadline(block.head, now_ns)
        if len(ids) <= step:
            replies = RunReplies(self, connection, block.head, ids, messages, [rows], now_ns)
            serving.batches.put(Work(job, replies, deadline_ns, len(ids), replies.drop_cancelled))
            return
        for begin in range(0, len(ids), step):
            some = slice(begin, begin + step)
            replies = RunReplies(self, connection, block.head, ids[some], messages[some], [rows], now_ns)
            part = msgspec.structs.replace(job, matrix=job.matrix[begin * rows : (begin + step) * rows])
            serving.batches.put(Work(part, replies, deadline_ns, len(replies.ids), replies.drop_cancelled))

    def retry_each(self, connection: ServerConnection, calls: Iterable[Call], arrived_ns: int) -> None:
        """Passes each call of a failed run to the slow path. None is refused: they have already waited in the queue."""
        for call in calls:
            if connection.h2.awaits_response(call[0]):
                self._slow(connection, call, arrived_ns)

    def _admitted(self, connection: ServerConnection, calls: list[Call]) -> list[Call]:
        """The calls that fit into the queue; refuses the rest. Only calls that need the model use room."""
        room = self._serving.batches.batcher.room
        if len(calls) <= room:
            return calls
        admitted = []
        for call in calls:
            if isinstance(call[1].method, Unary):
                admitted.append(call)
            elif room > 0:
                room -= 1
                admitted.append(call)
            else:
                self._refuse(connection, [call[0]], call[1].method.name)
        return admitted

    def _refuse(self, connection: ServerConnection, ids: Sequence[int], name: str) -> None:
        if isinstance(ids, range):
            connection.h2.fail_columnar(ids, self._refusal)
        else:
            connection.h2.fail_calls(list(ids), self._refusal)
        self._serving.metrics.refused({name: len(ids)})
        self._serving.mark_for_flush(connection)

    def _score_inline(self, connection: ServerConnection, stream_id: int, head: Head, raw: bytes, now_ns: int) -> bool:
        """Scores and answers a call at once. Returns False, and does nothing, if the batcher must score it."""
        serving = self._serving
        template = serving.templates.match(raw) if head.method.packed else None
        if template is None or (head.timeout_ns != NO_TIMEOUT and head.timeout_ns < MIN_INLINE_TIMEOUT_NS):
            return False
        response = serving.inline.score(template, raw[template.values], now_ns)
        if response is None:
            return False
        connection.h2.respond_fast(stream_id, response)
        connection.flush_now()
        serving.inline.observe("Predict", now_ns)
        return True

    def _block_template(self, head: Head, messages: Bytes) -> RequestTemplate | None:
        """The template of all messages; None if one differs, or if a job would hold too few of them."""
        if not len(messages) or not head.method.packed or not self._serving.state.accepting:
            return None
        template = self._serving.templates.match(messages[0].tobytes())
        if template is None or template.is_single or template.rows * MIN_COLUMNAR_CALLS > self._serving.max_run_rows:
            return None
        return template if template.matches_all(messages) else None

    def _put_run(
        self, connection: ServerConnection, run: list[Call], templates: list[RequestTemplate], now_ns: int
    ) -> None:
        first = templates[0]
        job = job_for(self._serving.plane.repository, first, _values(run, templates), now_ns)
        if job is None:
            for call in run:
                self._slow(connection, call, now_ns)
            return
        uniform = all(template is first for template in templates)
        rows = [first.rows] if uniform else [template.rows for template in templates]
        ids = [call[0] for call in run]
        replies = RunReplies(self, connection, run[0][1], ids, run, rows, now_ns)
        deadlines = [ns for call in run if (ns := _deadline(call[1], now_ns)) is not None]
        deadline_ns = min(deadlines) if deadlines else None
        self._serving.batches.put(Work(job, replies, deadline_ns, len(run), replies.drop_cancelled))

    def _slow(self, connection: ServerConnection, call: Call, arrived_ns: int) -> None:
        """Parses and validates a call, then answers or queues it."""
        serving = self._serving
        stream_id, head, raw = call
        method = head.method
        try:
            if isinstance(method, Unary):
                response = method.respond(raw)
                ParsedReply(connection, stream_id, method.name, None, arrived_ns).respond(response)
                return
            serving.state.require_accepting()
            request, encode = method.decode(raw)
            job = serving.plane.prepare(request, arrived_ns)
            if method.packed:
                serving.templates.learn(raw, request, read_predict)
        except Exception as error:
            connection.fail_call(stream_id, method.name, error, arrived_ns)
        else:
            replies = ParsedReply(connection, stream_id, method.name, encode, arrived_ns)
            serving.batches.put(Work(job, replies, _deadline(head, arrived_ns)))


class ParsedReply:
    """Answers one call of the slow path."""

    __slots__ = ("_arrived_ns", "_connection", "_encode", "_name", "_stream_id")

    def __init__(
        self,
        connection: ServerConnection,
        stream_id: int,
        name: str,
        encode: Callable[[Result], bytes] | None,
        arrived_ns: int,
    ) -> None:
        """encode: None for a method that needs no model."""
        self._connection = connection
        self._stream_id = stream_id
        self._name = name
        self._encode = encode
        self._arrived_ns = arrived_ns

    @property
    def abandoned(self) -> bool:
        return not self._connection.h2.awaits_response(self._stream_id)

    def send(self, outcome: Outcome) -> None:
        if isinstance(outcome, VolcastError):
            self._connection.fail_call(self._stream_id, self._name, outcome, self._arrived_ns)
        elif self._encode is not None:
            self.respond(self._encode(outcome))

    def respond(self, response: bytes) -> None:
        serving = self._connection.serving
        self._connection.h2.respond_fast(self._stream_id, response)
        serving.metrics.request(self._name, "OK", serving.now_ns() - self._arrived_ns)
        serving.mark_for_flush(self._connection)


class RunReplies:
    """Answers the calls of a run, each with its part of the run's probabilities."""

    __slots__ = ("_arrived_ns", "_calls", "_connection", "_head", "_resets", "_rows", "_unary", "ids")

    def __init__(
        self,
        unary: UnaryCalls,
        connection: ServerConnection,
        head: Head,
        ids: Sequence[int],
        calls: list[Call] | Bytes,
        rows: list[int],
        arrived_ns: int,
    ) -> None:
        """calls: a list, or their messages as rows of one array, all with `head`.

        rows: of each call; a single number if all calls have the same number of rows.
        """
        self._unary = unary
        self._connection = connection
        self._head = head
        self.ids = ids
        self._calls = calls
        self._rows = rows
        self._resets = connection.resets_before_read
        self._arrived_ns = arrived_ns

    @property
    def abandoned(self) -> bool:
        awaits, ids = self._connection.h2.awaits_response, self.ids
        return not (awaits(ids[0]) or any(map(awaits, ids)))

    def drop_cancelled(self, job: ScoringJob) -> ScoringJob:
        """Takes the rows of cancelled calls out of the job."""
        h2, ids = self._connection.h2, self.ids
        if h2.resets == self._resets:
            return job
        waiting = np.fromiter(map(h2.awaits_response, ids), bool, len(ids))
        if waiting.all():
            return job
        kept = np.flatnonzero(waiting).tolist()
        matrix = job.matrix[np.repeat(waiting, self._rows if len(self._rows) > 1 else self._rows[0])]
        if len(self._rows) > 1:
            self._rows = [self._rows[index] for index in kept]
        self.ids = [ids[index] for index in kept]
        self._calls = [self._calls[index] for index in kept] if isinstance(self._calls, list) else self._calls[waiting]
        return msgspec.structs.replace(job, matrix=matrix)

    def send(self, outcome: Outcome) -> None:
        connection, arrived_ns = self._connection, self._arrived_ns
        if isinstance(outcome, Result):
            self._respond(outcome)
        elif outcome is DEADLINE_PASSED:
            now_ns = connection.serving.now_ns()
            calls = list(self._each())
            late = [call for call in calls if (ns := _deadline(call[1], arrived_ns)) is not None and ns <= now_ns]
            for stream_id, head, _ in late:
                connection.fail_call(stream_id, head.method.name, DEADLINE_PASSED, arrived_ns)
            if len(late) < len(calls):
                ids = {call[0] for call in late}
                self._unary.retry_each(connection, [call for call in calls if call[0] not in ids], arrived_ns)
        else:
            self._unary.retry_each(connection, self._each(), arrived_ns)

    def _each(self) -> Iterable[Call]:
        if isinstance(self._calls, list):
            return self._calls
        return [(id_, self._head, raw.tobytes()) for id_, raw in zip(self.ids, self._calls, strict=True)]

    def _respond(self, result: Result) -> None:
        connection, ids = self._connection, self.ids
        serving = connection.serving
        fields = serving.model_fields.of(result.model)
        if len(self._rows) > 1:
            answered = self._respond_mixed(fields, bodies(result, self._rows))
        else:
            before = before_values(fields, self._rows[0])
            if isinstance(ids, range):
                answered = self._respond_columns(ids, before, *body_rows(result, self._rows[0]))
            else:
                answered = self._respond_uniform(before, *body_bytes(result, self._rows[0]))
        serving.mark_for_flush(connection)
        serving.metrics.requests([("Predict", self._arrived_ns, answered)], serving.now_ns())

    # Each method returns the number of calls that were still open.

    def _respond_uniform(self, before: bytes, values: bytes, after: bytes) -> int:
        connection, respond, size = self._connection, self._connection.h2.respond_fast, len(values) // len(self.ids)
        at = answered = 0
        for index, stream_id in enumerate(self.ids):
            answered += respond(stream_id, before + values[at : at + size] + after)
            at += size
            if index % CALLS_PER_WRITE == CALLS_PER_WRITE - 1:
                connection.flush()
        return answered

    def _respond_mixed(self, fields: bytes, parts: list[bytes]) -> int:
        connection, respond = self._connection, self._connection.h2.respond_fast
        befores: dict[int, bytes] = {}  # by rows
        answered = 0
        for index, (stream_id, rows, part) in enumerate(zip(self.ids, self._rows, parts, strict=True)):
            before = befores.get(rows)
            if before is None:
                before = befores[rows] = before_values(fields, rows)
            answered += respond(stream_id, before + part)
            if index % CALLS_PER_WRITE == CALLS_PER_WRITE - 1:
                connection.flush()
        return answered

    def _respond_columns(self, ids: range, before: bytes, values: Bytes, after: bytes) -> int:
        connection, h2 = self._connection, self._connection.h2
        template = before + bytes(values.shape[1]) + after
        answered = 0
        for begin in range(0, len(ids), COLUMNAR_CALLS_PER_WRITE):
            some = slice(begin, begin + COLUMNAR_CALLS_PER_WRITE)
            if h2.respond_columnar(ids[some], template, len(before), values[some]):
                answered += len(ids[some])
            else:
                for stream_id, own in zip(ids[some], values[some], strict=True):
                    answered += h2.respond_fast(stream_id, before + own.tobytes() + after)
            if begin + COLUMNAR_CALLS_PER_WRITE < len(ids):
                connection.flush()
        return answered


def _deadline(head: Head, arrived_ns: int) -> int | None:
    return None if head.timeout_ns == NO_TIMEOUT else arrived_ns + head.timeout_ns


def _values(run: list[Call], templates: list[RequestTemplate]) -> bytes:
    """The values of all calls, one after another."""
    view: Callable[[bytes], bytes | memoryview] = bytes if templates[0].rows < MIN_VIEW_ROWS else memoryview
    parts = [view(call[2])[template.values] for call, template in zip(run, templates, strict=True)]
    return parts[0] if len(parts) == 1 else b"".join(parts)  # type: ignore[return-value]
