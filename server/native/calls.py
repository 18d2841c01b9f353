"""Calls of the native front, from their first frame to their last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from common.errors import DeadlineError, VolcastError
from server.core.batcher import INLINE_ROWS
from server.core.dataplane import Job, Outcome
from server.core.requests import PredictInput, Result
from server.http2.blocks import LEAST
from server.http2.frames import MESSAGE
from server.http2.sending import framed
from server.http2.stream import PREFIX, Stream
from server.native.blocks import FrameBlock
from server.native.entries import Entry, new_entry
from server.rpc.inference import read_predict
from server.rpc.methods import Frame, ScoringStream
from server.wire.templates import frame_parts, matrix_of, model_for, varint

if TYPE_CHECKING:
    from server.native.link import Link

FRAMES_AT_ONCE = 256  # of one stream, before another has its turn
LONE_BYTES = 1024  # more than a frame of one row
MAX_UNSENT = 256 * 1024  # bytes of answers that a stream's reader may leave waiting before it is read no more


class UnaryCall:
    """Work of the batcher: one call of Predict or ModelInfer."""

    __slots__ = ("cancelled", "deadline_ns", "encode", "job", "link", "name", "stream")

    def __init__(
        self, link: Link, stream: Stream, name: str, job: Job, encode: Callable[[Result], bytes], deadline: int | None
    ) -> None:
        self.link = link
        self.stream = stream
        self.name = name
        self.job: Job | VolcastError = job
        self.encode = encode
        self.deadline_ns = deadline
        self.cancelled = False

    def finish(self, outcome: Outcome) -> None:
        self.stream.app = None  # its rows are not to wait with an answer that the caller leaves unread
        if isinstance(outcome, Result):
            self.link.respond(self.stream, self.name, self.encode(outcome))
        else:
            self.link.fail(self.stream, self.name, outcome)

    def cancel(self) -> None:
        self.cancelled = True


class FrameWork:
    """Work of the batcher: one frame of a scoring stream."""

    __slots__ = ("arrived_ns", "call", "deadline_ns", "frame", "job")

    def __init__(self, call: FrameStream, frame: Frame, job: Job | VolcastError, arrived_ns: int) -> None:
        self.call = call
        self.frame = frame
        self.job = job
        self.arrived_ns = arrived_ns
        self.deadline_ns: int | None = None  # the stream's own deadline ends the stream

    @property
    def cancelled(self) -> bool:
        return self.call.ended

    def finish(self, outcome: Outcome) -> None:
        self.call.answered(self, outcome)


class FrameStream:
    """One StreamPredict. Frames are taken as fast as they are answered and read: what else the caller sends
    fills its window, and there it stops."""

    def __init__(self, link: Link, stream: Stream, method: ScoringStream) -> None:
        self.link = link
        self.stream = stream
        self._method = method
        self._waiting = 0  # frames in the batcher
        self._large = False  # a frame that is computed on another thread: the next ones wait for it
        self._answers: list[bytes] = []
        self.heard_ns = stream.arrived_ns
        self.ended = False
        self._end_error: VolcastError | None = None  # ends the stream once its frames in the batcher are answered
        self._timer: asyncio.TimerHandle | None = None
        if (deadline_ns := stream.deadline_ns) is not None:
            delay_s = max(0, deadline_ns - link.front.now_ns()) * 1e-9
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self.stream.size and not self.stream.out

    def pull(self) -> bool:
        """Puts the next frames into the batcher; says whether there may be more at once."""
        front, stream = self.link.front, self.stream
        if self.ended or self._large or self._waiting or stream.unsent > MAX_UNSENT or self.link.paused:
            return False
        if self._end_error is not None:
            if not stream.out:  # else the rest of an answer goes first, as the peer makes room
                self.fail(self._end_error)
                front.dirty[self.link] = None
            return False
        if self._method.packed and self._take_block():
            front.dirty[self.link] = None  # the room that this gave the caller
            return False  # its answers ask again
        messages = self.link.connection.take(stream, FRAMES_AT_ONCE)
        front.dirty[self.link] = None
        if stream.closed:
            self.close()
            return False
        now_ns = self.heard_ns = front.now_ns()
        self._take(messages, now_ns)
        if not messages and stream.ended and not stream.closed:
            self.link.end(stream)
            self.close()
        return len(messages) == FRAMES_AT_ONCE

    def answer_alone(self) -> bool:
        """Answers the one frame that has come; False where there are others, or it must wait its turn."""
        stream = self.stream
        if self._end_error is not None:
            return False
        if not self._method.packed or self.ended or self._large or self._waiting or stream.ended or self.link.paused:
            return False
        if stream.unsent or stream.size > LONE_BYTES:
            return False
        messages = self.link.connection.take(stream, 2)
        if stream.closed:  # by what it sent
            self.close()
            return True
        if len(messages) == 1 and not stream.size:
            self.heard_ns = self.link.front.now_ns()
            if self._answered(messages[0], self.heard_ns):
                return True
        if messages:
            self.link.connection.put_back(stream, messages)
        return False

    def _answered(self, raw: bytes, now_ns: int) -> bool:
        front = self.link.front
        known = front.forms.frame(raw)
        if known is None:
            return False
        id_end = known.id_end
        answer = front.lone.answer(known.form, raw, id_end + len(known.marker), now_ns)
        if answer is None:
            return False
        marker = b"\x12" + varint(len(answer))
        prefix = MESSAGE.pack(0, id_end + len(marker) + len(answer))
        self.link.connection.send(self.stream, prefix + raw[:id_end] + marker + answer)
        self.link.flush()
        front.lone.tell("StreamPredict", now_ns)
        return True

    def _take_block(self) -> bool:
        """Frames that are alike, as one work; False, and nothing is taken, where they must be looked at one by one."""
        front, stream, connection = self.link.front, self.stream, self.link.connection
        rows = connection.peek_even(stream, FRAMES_AT_ONCE, LEAST)
        known = front.forms.frame(rows[0, PREFIX:].tobytes()) if rows is not None else None
        if rows is None or known is None:
            return False
        count = known.alike(rows)
        model = model_for(front.plane.repository, known.form)
        if count < LEAST or model is None or known.form.rows * count > INLINE_ROWS:
            return False
        values = rows[:count, len(known.template) :]
        matrix = matrix_of(np.ascontiguousarray(values), known.form, len(model.schema))
        if matrix is None:
            return False
        connection.skip(stream, count * rows.shape[1])
        now_ns = self.heard_ns = front.now_ns()
        self._waiting += count
        front.batches.put(FrameBlock(self, rows[:count, PREFIX:], known, Job(model, matrix, now_ns)))
        return True

    def _take(self, messages: list[bytes], now_ns: int) -> None:
        """Recognized frames as one burst, as long as they follow on each other; any other alone."""
        front, link = self.link.front, self.link
        entries: list[Entry] = []
        if self._method.packed:
            form_of = front.forms.frame
            for raw in messages:
                known = form_of(raw)
                if known is None:
                    break
                entries.append(new_entry((known.form, raw, known.at, now_ns, link, 0, None, self, known.id_end)))
        rest = messages[len(entries) :]
        if entries:
            self._waiting = len(entries)
            front.put_entries(entries)
        while rest and not entries and not self._large:
            self.put_ordinary(rest.pop(0), now_ns)
        if rest:
            self.link.connection.put_back(self.stream, rest)

    def put_ordinary(self, raw: bytes, now_ns: int) -> None:
        front = self.link.front
        frame = self._method.decode(raw)
        work = FrameWork(self, frame, front.job_of(frame, now_ns), now_ns)
        if type(work.job) is Job:
            self._large = len(work.job.matrix) > INLINE_ROWS
            if self._method.packed and isinstance(frame.input, PredictInput) and (at := frame_parts(raw)[1]):
                front.forms.learn(raw[at:], frame.input, read_predict)
        self._waiting += 1
        front.batches.put(work)

    def put_again(self, raw: bytes, now_ns: int) -> None:
        """A frame of a burst that must go the ordinary way."""
        self._waiting -= 1
        self.put_ordinary(raw, now_ns)

    def run_now(self, raw: bytes, arrived_ns: int) -> None:
        """A frame whose burst has failed, by itself and before the frames behind it."""
        if self.ended:
            return
        front = self.link.front
        frame = self._method.decode(raw)
        job = front.job_of(frame, arrived_ns)
        outcome = front.batches.batcher.run_now(job) if isinstance(job, Job) else job
        self.answered(FrameWork(self, frame, job, arrived_ns), outcome)

    def answered(self, work: FrameWork, outcome: Outcome) -> None:
        self.answered_by(framed(self.link.front.frame_answer(self._method.name, work, outcome)), 1)

    def answered_by(self, answers: bytes, count: int) -> None:
        """The answers to the next frames, each behind its prefix."""
        self._waiting -= count
        self._answers.append(answers)
        if not self._waiting:
            self._large = False
            self.link.send(self.stream, b"".join(self._answers))
            self._answers.clear()
            self.link.front.activate(self)

    def end_after_frame(self, error: VolcastError) -> None:
        """Ends the stream once the frames in the batcher are answered; later frames are not read."""
        self._end_error = error
        if self.idle:
            self.fail(error)
        else:
            self.link.front.activate(self)

    def fail(self, error: VolcastError) -> None:
        self.link.fail(self.stream, self._method.name, error)
        self.close()

    def cancel(self) -> None:
        self.close()

    def close(self) -> None:
        self.ended = True
        self.link.front.deactivate(self)
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.fail(DeadlineError("the deadline of the stream has passed"))
        self.link.flush()


class Dialogue:
    """A stream that needs no model, as a task of its own; also the context its handler reads and writes."""

    def __init__(self, link: Link, stream: Stream) -> None:
        self.link = link
        self.stream = stream
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def read(self) -> bytes | None:
        while True:
            self._more.clear()
            messages = self.link.connection.take(self.stream, 1)
            self.link.flush()
            if messages:
                return messages[0]
            if self.stream.ended or self.stream.closed:
                return None
            await self._more.wait()

    async def write(self, message: bytes) -> None:
        self.link.send(self.stream, framed(message))
        self.link.flush()
        while self.stream.unsent > MAX_UNSENT or self.link.paused:
            self._room.clear()
            await self._room.wait()

    def woken(self) -> None:
        self._more.set()
        self._room.set()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
