"""Streams whose frames the model scores: StreamPredict and similar methods.

Frames are split into runs as unary calls are (server.native.unary): consecutive frames whose rows share one matrix are
one work item. Responses keep the order of the frames: a stream queues its frames in order, and the batcher answers
work on the loop in the order of its queue. Frames behind a job that runs on another thread wait until it is answered.
While a run is scored, the stream takes the next frames: the peer has room to send, and both sides work in parallel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from common.errors import DeadlineError, RequestError, VolcastError
from server.core.batcher import INLINE_ROWS, FaultError, Replies, Work
from server.core.dataplane import Outcome, Result, ScoringJob
from server.core.requests import PredictInput
from server.http2.blocks import MIN_COLUMNAR_CALLS as MIN_COLUMNAR_FRAMES
from server.http2.blocks import Bytes
from server.http2.sending import framed
from server.http2.stream import PREFIX, Stream
from server.native.connection import ServerConnection
from server.rpc.inference import read_predict
from server.rpc.methods import Frame, ScoringStream
from server.runtime.metrics import CODE_NAMES
from server.wire.response import (
    before_values,
    body_bytes,
    body_rows,
    stream_message,
    stream_message_rows,
    stream_messages,
)
from server.wire.templates import FrameTemplate, frame_parts, job_for

FRAMES_PER_PULL = 256  # of one stream, before other streams have their turn
MAX_INLINE_BYTES = 1024  # a frame of one row is smaller
MAX_IN_FLIGHT_BYTES = 512 * 1024  # of frames in the batcher; one larger frame is allowed
MAX_UNSENT_BYTES = 256 * 1024  # of queued responses; above it no frame is taken
MIN_VIEW_ROWS = 32  # a memoryview costs more than the copy of fewer rows


class ScoringStreamCall:
    """One call.

    Back-pressure: frames are taken only as fast as responses are read. If the peer reads slowly, the HTTP/2 window
    fills and the peer must stop sending.
    """

    def __init__(self, connection: ServerConnection, stream: Stream, method: ScoringStream) -> None:
        self.connection = connection
        self.stream = stream
        self._method = method
        self._serving = connection.serving
        self._in_flight = 0  # frames in the batcher
        self._in_flight_bytes = 0
        self._offloaded = False  # a frame in flight is computed on another thread
        self.last_frame_ns = stream.arrived_ns
        self.ended = False
        self._end_error: VolcastError | None = None  # ends the stream once its frames in the batcher are answered
        self._timer: asyncio.TimerHandle | None = None
        if (deadline_ns := stream.deadline_ns) is not None:
            delay_s = max(0, deadline_ns - self._serving.now_ns()) * 1e-9
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    @property
    def idle(self) -> bool:
        """Whether no frame awaits its response, and no response is queued."""
        return not self._in_flight and not self.stream.size and not self.stream.out

    @property
    def responses_due(self) -> bool:
        stream = self.stream
        if self.ended or stream.out:  # responses that wait for the peer's window
            return False
        return bool(self._in_flight or stream.remote_closed or stream.has_whole_message)

    def on_data(self, *, alone: bool) -> None:
        try:
            if alone and self._serving.may_score_inline and self._score_inline():
                return
        except Exception as error:
            self.fail(FaultError(error))
        else:
            self._serving.mark_source(self)

    def queue_frames(self) -> None:
        try:
            self.pull()
        except Exception as error:  # a fault in one stream must not end other streams
            self.fail(FaultError(error))

    def pull(self) -> None:
        """Puts the next frames into the batcher."""
        stream, connection = self.stream, self.connection
        if self.ended or self._offloaded or stream.unsent > MAX_UNSENT_BYTES or connection.paused:
            return
        if self._end_error is not None:
            if not (self._in_flight or stream.out):  # otherwise responses are sent first
                self.fail(self._end_error)
            return
        if self._in_flight and (self._in_flight_bytes > MAX_IN_FLIGHT_BYTES or not stream.has_plain_message):
            return  # a message that ends the call must not overtake earlier responses
        connection.serving.mark_for_flush(connection)  # taking frames can send WINDOW_UPDATE
        if self._method.packed and self._take_columns():
            return
        messages = connection.h2.take_messages(stream, FRAMES_PER_PULL)
        if stream.closed:  # an invalid message has ended the call
            self.close()
            return
        if messages:
            self._take(messages)
        elif stream.remote_closed and not stream.is_inflating and not self._in_flight:
            if stream.size:
                self.fail(RequestError.of("message", "expected whole messages, got a part of one at the end"))
                return
            connection.finish(stream)
            self.close()

    def _score_inline(self) -> bool:
        """Scores and answers the only unread frame; False if there are more, or if the batcher must score it."""
        stream, connection = self.stream, self.connection
        if not self._method.packed or self.ended or self._in_flight or stream.remote_closed or connection.paused:
            return False
        if self._end_error is not None:
            return False
        if stream.unsent or stream.size > MAX_INLINE_BYTES:
            return False
        raw = connection.h2.take_single(stream)
        if raw is None:
            return False
        now_ns = self.last_frame_ns = self._serving.now_ns()
        template = self._serving.templates.match_frame(raw)
        inline = self._serving.inline
        response = inline.score(template.request, raw[template.values], now_ns) if template else None
        if template is None or response is None:
            connection.h2.put_back(stream, [raw])
            return False
        connection.h2.send(stream, stream_message(raw[: template.id_end], response))
        connection.flush_now()
        inline.observe("StreamPredict", now_ns)
        return True

    def _take_columns(self) -> bool:
        """Queues frames of equal layout as one array. Returns False, and takes none, if too few frames match."""
        serving, stream, h2 = self._serving, self.stream, self.connection.h2
        frames = h2.peek_rows(stream, FRAMES_PER_PULL, MIN_COLUMNAR_FRAMES)
        template = serving.templates.match_frame(frames[0, PREFIX:].tobytes()) if frames is not None else None
        if frames is None or template is None or template.request.is_single:
            return False
        count = min(template.count_matching(frames), serving.max_run_rows // template.request.rows)
        if count < MIN_COLUMNAR_FRAMES:
            return False
        values = np.ascontiguousarray(frames[:count, len(template.head) : template.values.stop])
        now_ns = serving.now_ns()
        job = job_for(serving.plane.repository, template.request, values, now_ns)
        if job is None:
            return False
        h2.consume(stream, count * frames.shape[1])
        self.last_frame_ns = now_ns
        replies = FrameRunReplies(self, frames[:count, PREFIX:], count * frames.shape[1], [template], now_ns)
        self._put(job, replies)
        return True

    def _take(self, messages: list[bytes]) -> None:
        now_ns = self.last_frame_ns = self._serving.now_ns()
        at = 0
        while at < len(messages) and not self._offloaded:
            taken = self._put_run(messages, at, now_ns) if self._method.packed else 0
            if not taken:
                self._put_slow(messages[at], now_ns)
            at += taken or 1
        if at < len(messages):
            self.connection.h2.put_back(self.stream, messages[at:])

    def _put_run(self, messages: list[bytes], at: int, now_ns: int) -> int:
        """Queues the run that begins at `at`. Returns its frames; 0 if the first frame needs the slow path."""
        serving = self._serving
        match, max_rows = serving.templates.match_frame, serving.max_run_rows
        templates: list[FrameTemplate] = []
        rows = 0
        for raw in messages[at:] if at else messages:
            template = match(raw)
            if template is None or (rows and rows + template.request.rows > max_rows):
                break
            if templates and (
                template.request.is_single
                or (template is not templates[-1] and not template.request.shares_matrix(templates[0].request))
            ):
                break
            templates.append(template)
            rows += template.request.rows
        if not templates:
            return 0
        frames = messages[at : at + len(templates)]
        first = templates[0].request
        job = job_for(serving.plane.repository, first, _values(frames, templates), now_ns)
        if job is None:
            for raw in frames:
                self._put_slow(raw, now_ns)
            return len(frames)
        replies = FrameRunReplies(self, frames, sum(map(len, frames)), templates, now_ns)
        self._put(job, replies)
        return len(frames)

    def _put_slow(self, raw: bytes, now_ns: int) -> None:
        """Parses and validates a frame, then queues it. An invalid frame is queued with its error."""
        frame, job = self._parsed(raw, now_ns)
        if isinstance(job, ScoringJob):
            self._offloaded = len(job.matrix) > INLINE_ROWS
            if self._method.packed and isinstance(frame.input, PredictInput) and (at := frame_parts(raw)[1]):
                self._serving.templates.learn(raw[at:], frame.input, read_predict)
        self._put(job, ParsedFrameReply(self, frame, len(raw), now_ns))

    def _put(self, job: ScoringJob | VolcastError, replies: FrameReplies) -> None:
        self._in_flight += replies.count
        self._in_flight_bytes += replies.size
        self._serving.batches.put(Work(job, replies))

    def _parsed(self, raw: bytes, now_ns: int) -> tuple[Frame, ScoringJob | VolcastError]:
        frame = self._method.decode(raw)
        if isinstance(frame.input, VolcastError):
            return frame, frame.input
        try:
            return frame, self._serving.plane.prepare(frame.input, now_ns)
        except VolcastError as error:
            return frame, error
        except Exception as error:
            return frame, FaultError(error)

    def score_now(self, raw: bytes, arrived_ns: int) -> None:
        """Scores a frame of a failed run at once, before later frames."""
        if self.ended:
            return
        frame, job = self._parsed(raw, arrived_ns)
        outcome = self._serving.batches.batcher.run_now(job) if isinstance(job, ScoringJob) else job
        self.send_outcome(frame, outcome, arrived_ns)

    def send_outcome(self, frame: Frame, outcome: Outcome, arrived_ns: int) -> None:
        """Sends the outcome of one frame of the slow path."""
        serving = self._serving
        duration_ns = serving.now_ns() - arrived_ns
        if isinstance(outcome, Result):
            serving.metrics.request(self._method.name, "OK", duration_ns)
            response = frame.encode(outcome)
        else:
            code = serving.status_of(outcome).code
            serving.metrics.request(self._method.name, CODE_NAMES[code], duration_ns)
            response = frame.fail(outcome)
        self.connection.send(self.stream, framed(response))

    def on_answered(self, replies: FrameReplies) -> None:
        """Called once the frames of a work item have their responses: more frames may be taken."""
        self._in_flight -= replies.count
        self._in_flight_bytes -= replies.size
        if not self._in_flight:
            self._offloaded = False
        if self.stream.size or self.stream.remote_closed or self._end_error is not None:
            self._serving.mark_source(self)

    def end_after_frame(self, error: VolcastError) -> None:
        """Ends the stream once the frames in the batcher are answered; later frames are not read."""
        self._end_error = error
        self.pull()

    def fail(self, error: VolcastError) -> None:
        self.connection.fail(self.stream, self._method.name, error)
        self.close()

    def cancel(self) -> None:
        self.close()

    def close(self) -> None:
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.fail(DeadlineError("the deadline of the stream has passed"))
        self.connection.flush()


class FrameReplies(Replies, Protocol):
    """Replies to frames of one stream."""

    @property
    def count(self) -> int:
        """Number of frames."""

    @property
    def size(self) -> int:
        """Bytes of these frames."""


class ParsedFrameReply:
    """Answers one frame of the slow path."""

    __slots__ = ("_arrived_ns", "_call", "_frame", "size")
    count = 1

    def __init__(self, call: ScoringStreamCall, frame: Frame, size: int, arrived_ns: int) -> None:
        self.size = size
        self._call = call
        self._frame = frame
        self._arrived_ns = arrived_ns

    @property
    def abandoned(self) -> bool:
        return self._call.ended

    def send(self, outcome: Outcome) -> None:
        self._call.send_outcome(self._frame, outcome, self._arrived_ns)
        self._call.on_answered(self)


class FrameRunReplies:
    """Answers the frames of a run, each with its part of the run's probabilities."""

    __slots__ = ("_arrived_ns", "_call", "_frames", "_templates", "count", "size")

    def __init__(
        self,
        call: ScoringStreamCall,
        frames: list[bytes] | Bytes,
        size: int,
        templates: list[FrameTemplate],
        arrived_ns: int,
    ) -> None:
        """frames: a list with a template for each frame, or rows of one array with a single template."""
        self.count = len(frames)
        self.size = size
        self._call = call
        self._frames = frames
        self._templates = templates
        self._arrived_ns = arrived_ns

    @property
    def abandoned(self) -> bool:
        return self._call.ended

    def send(self, outcome: Outcome) -> None:
        call, frames = self._call, self._frames
        if not isinstance(outcome, Result):
            for raw in frames:
                call.score_now(bytes(raw), self._arrived_ns)
            call.on_answered(self)
            return
        serving = call.connection.serving
        fields = serving.model_fields.of(outcome.model)
        if isinstance(frames, list):
            messages = self._messages(frames, fields, outcome)
        else:
            template = self._templates[0]
            rows, ids = template.request.rows, frames[:, : template.id_end]
            messages = stream_message_rows(ids, before_values(fields, rows), *body_rows(outcome, rows))
        call.connection.send(call.stream, messages)
        call.on_answered(self)
        serving.metrics.requests([("StreamPredict", self._arrived_ns, len(frames))], serving.now_ns())

    def _messages(self, frames: list[bytes], fields: bytes, result: Result) -> bytes:
        """The responses. Consecutive frames with the same number of rows are built together."""
        templates, parts = self._templates, []
        begin = at = 0
        while begin < len(frames):
            rows, end = templates[begin].request.rows, begin + 1
            while end < len(frames) and templates[end].request.rows == rows:
                end += 1
            ids = [
                raw[: template.id_end] for raw, template in zip(frames[begin:end], templates[begin:end], strict=True)
            ]
            after_rows = at + rows * len(ids)
            part = result if len(ids) == len(frames) else result.part(slice(at, after_rows))
            parts.append(stream_messages(ids, before_values(fields, rows), *body_bytes(part, rows)))
            begin, at = end, after_rows
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _values(frames: Sequence[bytes], templates: Sequence[FrameTemplate]) -> bytes:
    """The values of all frames, one after another."""
    if templates[0].request.rows < MIN_VIEW_ROWS:
        return b"".join([raw[template.values] for raw, template in zip(frames, templates, strict=True)])
    return b"".join([memoryview(raw)[template.values] for raw, template in zip(frames, templates, strict=True)])
