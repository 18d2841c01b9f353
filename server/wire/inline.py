"""A request that comes alone: answered on the spot, without a queue, an array or a turn of the loop.

What one call costs at a time is mostly code that is not in the CPU's caches: a batch of one through the lane
measured 74 us where its parts measured 30 us in a loop. So this way is short before all else. It takes a
recognized request of one row; everything else, a wrong value among it, goes the ways that it shares with others.
"""

from __future__ import annotations

import struct
from math import isfinite

from server.core.dataplane import DataPlane, ModelRun
from server.core.predictor import BoundBuffers
from server.core.snapshot import Model, ModelSnapshot
from server.runtime.batch_loop import BatchLoop
from server.runtime.metrics import ServerMetrics
from server.wire.templates import Form, answer_prefix, answer_suffix, model_for

_FLOAT64 = 2  # volcast.v1.DataType
_DOUBLE = struct.Struct("<d")
_SEATS = 64
# A call that gives less time than this may be too late already, which only the ways with a queue look at.
AMPLE_NS = 1_000_000


class Seat:
    """What requests of one form need: their model, buffers that are bound to it, the answer's first bytes."""

    __slots__ = ("head", "model", "row")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.row: BoundBuffers = model.predictor.bind(1)
        self.head = answer_prefix(model) + b"\x22\x08"


class Lone:
    """For the loop's thread alone: the buffers are used again for every request."""

    def __init__(self, plane: DataPlane, batches: BatchLoop, metrics: ServerMetrics) -> None:
        self._plane = plane
        self._now_ns = plane.now_ns
        self._observe = batches.batcher.observe
        self._metrics = metrics
        self._snapshot: ModelSnapshot | None = None  # that the seats were taken of
        self._seats: dict[bytes, Seat | None] = {}  # by the form's prefix; None: not for us
        self._seat: Seat | None = None  # of the last request
        self._compute_ns = 0

    def answer(self, form: Form, raw: bytes, at: int, arrived_ns: int) -> bytes | None:
        """The PredictResponse to a request of `form` whose values are raw from `at` on; None: not for here."""
        seat = self._seat_for(form)
        if seat is None or not seat.row.fill(raw, at):
            return None
        now_ns = self._now_ns
        began_ns = now_ns()
        try:
            seat.row.run()
        except Exception:  # the ordinary way meets it again, and tells of it as of any fault
            return None
        compute_ns = now_ns() - began_ns
        probability = seat.row.probability
        if not isfinite(probability):
            return None
        self._seat, self._compute_ns = seat, compute_ns
        return seat.head + _DOUBLE.pack(probability) + answer_suffix(began_ns - arrived_ns, compute_ns)

    def tell(self, method: str, arrived_ns: int) -> None:
        """Whoever counts, of the last answer, once the caller has it."""
        seat = self._seat
        if seat is not None:
            self._metrics.request(method, "OK", self._now_ns() - arrived_ns)
            self._observe(ModelRun(seat.model, seat.row.matrix, seat.row.probabilities, self._compute_ns))

    def _seat_for(self, form: Form) -> Seat | None:
        snapshot = self._plane.repository.snapshot
        if snapshot is not self._snapshot or len(self._seats) > _SEATS:
            self._seats.clear()  # models were swapped: the buffers of those that went go too
            self._seat = None
            self._snapshot = snapshot
        try:
            return self._seats[form.prefix]
        except KeyError:
            model = model_for(self._plane.repository, form)
            fits = model is not None and form.rows == 1 and form.data_type == _FLOAT64
            seat = self._seats[form.prefix] = Seat(model) if model is not None and fits else None
            return seat
