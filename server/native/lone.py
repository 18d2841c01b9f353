"""A request that comes alone: answered on the spot, without a queue, an array or a turn of the loop.

What one call costs at a time is mostly code that is not in the CPU's caches: a batch of one through the lane
measured 74 us where its parts measured 30 us in a loop. So this way is short before all else. It takes a
recognized request of one row, with nothing waiting that it would overtake, and leaves everything else, a wrong
value among it, to the ways that it shares with others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.core.dataplane import Run
from server.core.held import Held, Model
from server.core.predictor import OneRow
from server.grpc.forms import Form, answer_prefix, answer_suffix, model_for, varint
from server.http2.frames import MESSAGE
from server.http2.headers import NO_TIMEOUT, Head

if TYPE_CHECKING:
    from server.native.calls import FrameStream
    from server.native.front import NativeFront
    from server.native.link import Link

_FLOAT64 = 2  # volcast.v1.DataType
# A call that gives less time than this may be too late already, which the lane looks at.
_AMPLE_NS = 1_000_000
_SEATS = 64


class Seat:
    """What requests of one form need: their model, buffers that are bound to it, the answer's first bytes."""

    __slots__ = ("head", "model", "row", "values_at")

    def __init__(self, form: Form, model: Model) -> None:
        self.model = model
        self.row: OneRow = model.predictor.one_row()
        self.values_at = len(form.prefix)
        self.head = answer_prefix(model) + b"\x22\x08"


class Lone:
    """For the loop's thread alone: the buffers are used again for every call."""

    def __init__(self, front: NativeFront) -> None:
        self._front = front
        self._held: Held | None = None  # that the seats were taken of
        self._seats: dict[bytes, Seat | None] = {}  # by the form's prefix; None: not for us
        self._compute_ns = 0  # of the last run

    def call(self, link: Link, stream_id: int, head: Head, raw: bytes, arrived_ns: int) -> bool:
        """Answers a unary call; False, and nothing is done, where it is not for here."""
        front = self._front
        form = front.forms.of(raw) if head.method.packed else None
        if form is None or (head.timeout_ns != NO_TIMEOUT and head.timeout_ns < _AMPLE_NS):
            return False
        seat = self._seat(form)
        answer = self._answer(seat, raw, seat.values_at, arrived_ns) if seat is not None else None
        if seat is None or answer is None:
            return False
        link.connection.respond_short(stream_id, answer)
        link.flush()
        self._tell(seat, "Predict", arrived_ns)
        return True

    def frame(self, call: FrameStream, raw: bytes, arrived_ns: int) -> bool:
        """Answers a frame of a stream; False, and nothing is done, where it is not for here."""
        known = self._front.forms.frame(raw)
        seat = self._seat(known.form) if known is not None else None
        if known is None or seat is None:
            return False
        id_end = known.id_end
        answer = self._answer(seat, raw, id_end + len(known.marker), arrived_ns)
        if answer is None:
            return False
        inner = b"\x12" + varint(len(answer))
        link = call.link
        link.connection.send(
            call.stream, MESSAGE.pack(0, id_end + len(inner) + len(answer)) + raw[:id_end] + inner + answer
        )
        link.flush()
        self._tell(seat, "StreamPredict", arrived_ns)
        return True

    def _seat(self, form: Form) -> Seat | None:
        held = self._front.plane.repository.held
        if held is not self._held or len(self._seats) > _SEATS:
            self._seats.clear()  # models were swapped: the buffers of those that went go too
            self._held = held
        try:
            return self._seats[form.prefix]
        except KeyError:
            seat = self._seats[form.prefix] = self._new_seat(form)
            return seat

    def _new_seat(self, form: Form) -> Seat | None:
        model = model_for(self._front.plane.repository, form)
        if model is None or form.rows != 1 or form.data_type != _FLOAT64:
            return None
        return Seat(form, model)

    def _answer(self, seat: Seat, raw: bytes, at: int, arrived_ns: int) -> bytes | None:
        """A PredictResponse; None where a value is not finite or the model has none for it."""
        now_ns, row = self._front.now_ns, seat.row
        if not row.fill(raw, at):
            return None
        began_ns = now_ns()
        value = row.run()
        self._compute_ns = compute_ns = now_ns() - began_ns
        return None if value is None else seat.head + value + answer_suffix(began_ns - arrived_ns, compute_ns)

    def _tell(self, seat: Seat, method: str, arrived_ns: int) -> None:
        """Whoever counts, once the caller has its answer."""
        front, row = self._front, seat.row
        front.metrics.request(method, "OK", front.now_ns() - arrived_ns)
        front.batches.batcher.observe(Run(seat.model, row.matrix, row.probabilities, self._compute_ns))
