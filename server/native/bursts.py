"""The lane of recognized requests: what came in one turn of the loop, scored as one matrix.

A call here is a tuple and a slice of bytes, nothing is parsed, and the answers are cut from one array
(server.wire.templates). Whatever does not fit, or turns out wrong, goes the ordinary way and fails or
succeeds there, alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from common.errors import VolcastError
from server.core.batcher import DEADLINE_PASSED, INLINE_ROWS
from server.core.dataplane import Outcome, Result, ScoringJob
from server.http2.frames import MESSAGE
from server.http2.headers import NO_TIMEOUT
from server.native.entries import Entry
from server.wire.templates import Form, answer_suffix, matrix_of, model_for, varint

if TYPE_CHECKING:
    from server.native.front import NativeFront
    from server.native.link import Link

SENT_AT_ONCE = 8
WORTH_VIEWING = 32  # rows: a view costs more than a copy of fewer


class Lane:
    def __init__(self, front: NativeFront, max_batch_rows: int) -> None:
        self._front = front
        # A job of more would be computed on another thread, and the frames behind it answered before it.
        self._most_rows = min(INLINE_ROWS, max_batch_rows)
        self._entries: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry) -> None:
        self._entries.append(entry)

    def extend(self, entries: Iterable[Entry]) -> None:
        self._entries.extend(entries)

    def feed(self) -> bool:
        """Puts up to a batch of what waits into the batcher; says whether more waits."""
        entries, now_ns = self._entries, self._front.now_ns()
        group: list[Entry] = []
        form: Form | None = None
        rows = 0
        while entries and (not rows or rows + entries[0].form.rows <= self._most_rows):
            entry = entries.popleft()
            head = entry.head
            if head is not None:
                if not entry.link.connection.is_waiting(entry.stream_id):
                    continue  # the caller has gone
                if head.timeout_ns != NO_TIMEOUT and entry.arrived_ns + head.timeout_ns <= now_ns:
                    self._front.late(entry.link, entry.stream_id, DEADLINE_PASSED, entry.arrived_ns)
                    continue
            if entry.form is not form:
                if form is not None and not _alike(form, entry.form):
                    self._put_group(group)
                    group = []
                form = entry.form
            group.append(entry)
            rows += form.rows
        if group:
            self._put_group(group)
        return bool(entries)

    def _put_group(self, group: list[Entry]) -> None:
        form = group[0].form
        job = self._job(form, group)
        if job is None:
            for entry in group:
                self._front.ordinary(entry)
        else:
            self._front.batches.batcher.put(Burst(self, job, group))

    def _job(self, form: Form, group: list[Entry]) -> ScoringJob | None:
        """One job of all rows; None where one of them is not as it must be."""
        model = model_for(self._front.plane.repository, form)
        matrix = matrix_of(_values(group), form, len(model.schema)) if model is not None else None
        return ScoringJob(model, matrix, group[0].arrived_ns) if model is not None and matrix is not None else None

    def answer(self, group: list[Entry], result: Result) -> None:
        """Each caller's part of the result of all."""
        front, now_ns = self._front, self._front.now_ns()
        prefix = front.prefixes.of(result.model)
        values = result.probabilities.astype("<f8", copy=False).tobytes()
        waited_ns = result.queue_ns + group[0].arrived_ns  # until the run began, on the clock
        begin = 0
        for alike in _runs(group):
            form, arrived_ns, link, frames = alike[0].form, alike[0].arrived_ns, alike[0].link, alike[0].frames
            size = 8 * form.rows
            head = prefix + b"\x22" + varint(size)
            tail = answer_suffix(waited_ns - arrived_ns, result.compute_ns)
            if frames is None:
                self._respond(link, alike, head, values[begin : begin + size * len(alike)], tail)
            else:
                frames.answered_by(_frames(alike, head, values[begin : begin + size * len(alike)], tail), len(alike))
            begin += size * len(alike)
        front.metrics.requests(_counted(group), now_ns)

    def _respond(self, link: Link, alike: list[Entry], head: bytes, values: bytes, tail: bytes) -> None:
        front, respond, size = self._front, link.connection.respond_short, len(values) // len(alike)
        for index, entry in enumerate(alike):
            respond(entry.stream_id, head + values[index * size : (index + 1) * size] + tail)
            if index % SENT_AT_ONCE == SENT_AT_ONCE - 1:
                link.flush()
        front.dirty[link] = None

    def give_up(self, group: list[Entry]) -> None:
        """The run of all has failed: frames are run again at once, as those behind them may be answered next."""
        for entry in group:
            if entry.frames is not None:
                entry.frames.run_now(entry.raw, entry.arrived_ns)
            else:
                self._front.ordinary(entry)
        self._front.batches.wake()


class Burst:
    """Work of the batcher: the requests of one group."""

    __slots__ = ("_group", "_lane", "cancelled", "deadline_ns", "job")

    def __init__(self, lane: Lane, job: ScoringJob, group: list[Entry]) -> None:
        self._lane = lane
        self._group = group
        self.job: ScoringJob | VolcastError = job
        self.deadline_ns: int | None = None  # each caller's own has been looked at
        self.cancelled = False

    def finish(self, outcome: Outcome) -> None:
        if isinstance(outcome, Result):
            self._lane.answer(self._group, outcome)
        else:
            self._lane.give_up(self._group)


def _values(group: list[Entry]) -> bytes:
    """The rows of all, one after another."""
    if group[0].form.rows < WORTH_VIEWING:
        return b"".join([entry.raw[entry.at + len(entry.form.prefix) :] for entry in group])
    return b"".join([memoryview(entry.raw)[entry.at + len(entry.form.prefix) :] for entry in group])


def _runs(group: list[Entry]) -> Iterator[list[Entry]]:
    """Neighbours of one form, link, stream and arrival."""
    begin, first = 0, group[0]
    for index, entry in enumerate(group):
        if (
            entry.arrived_ns != first.arrived_ns
            or entry.form is not first.form
            or entry.link is not first.link
            or entry.frames is not first.frames
        ):
            yield group[begin:index]
            begin, first = index, entry
    yield group[begin:] if begin else group


def _frames(alike: list[Entry], head: bytes, values: bytes, tail: bytes) -> bytes:
    """Answers of one stream, each behind its prefix: the frame's id, and a PredictResponse as field 2."""
    size = len(values) // len(alike)
    length = len(head) + size + len(tail)
    marker = b"\x12" + varint(length)
    head, length = marker + head, len(marker) + length
    parts: list[bytes] = []
    begins: dict[int, bytes] = {}  # by where the id ends: the prefix that this makes
    for index, entry in enumerate(alike):
        id_end = entry.id_end
        begin = begins.get(id_end)
        if begin is None:
            begin = begins[id_end] = MESSAGE.pack(0, id_end + length)
        parts += (begin, entry.raw[:id_end], head, values[index * size : (index + 1) * size], tail)
    return b"".join(parts)


def _alike(one: Form, other: Form) -> bool:
    """Whether rows of both may stand in one matrix."""
    return (one.selection, one.schema_hash, one.data_type) == (other.selection, other.schema_hash, other.data_type)


def _counted(group: list[Entry]) -> list[tuple[str, int, int]]:
    """(method, when they arrived, how many) of a group; what arrived together stands together."""
    counted: list[Any] = []
    for entry in group:
        name = "Predict" if entry.frames is None else "StreamPredict"
        if counted and counted[-1][0] is name and counted[-1][1] == entry.arrived_ns:
            counted[-1][2] += 1
        else:
            counted.append([name, entry.arrived_ns, 1])
    return counted
